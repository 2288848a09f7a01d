r"""Moderation tags on Flickr8k: a tagger against keywords on captions, out of fold, with intervals.

    python benchmarks/moderation.py --data FOLDER --policy configs/policy/flickr8k.yaml --encoder FOLDER
    # a head with a hidden layer
    python benchmarks/moderation.py … --hidden 256
    # on a captioner's encoder and its cached features, with keywords on its captions as well
    python benchmarks/moderation.py --data FOLDER --policy configs/policy/flickr8k.yaml --model RUN \
        --captions RUN/captions.jsonl
    # and with open_nsfw, whose scores `hfcap moderate tag` writes
    hfcap moderate tag --data FOLDER --split validation --tagger TAGGER --policy benchmarks/moderation_nsfw.yaml \
        --output nsfw.jsonl
    python benchmarks/moderation.py … --nsfw nsfw.jsonl

A photo of the training and validation splits is scored by a head that has seen neither it nor the rest of its fold
(five folds). It has a tag where two of its captions name it, and is left out where one does. A person's caption is
judged by the other four, each caption in turn. Thresholds and calibration of a fold come from the scores of the other
folds. The last line is the record as JSON; docs/moderation.md has the table.
"""

import argparse
import json
from tempfile import TemporaryDirectory

import datasets
import numpy as np
import torch
from torch import nn
from transformers import set_seed

from hfcap.applications.policy import Policy, read_policy
from hfcap.atomic_files import write_json
from hfcap.data.sources import load_captions
from hfcap.distributed import use_all_cores
from hfcap.json_files import read_jsonl
from hfcap.metrics.binomial import exact_interval, wilson_interval
from hfcap.metrics.ranking import average_precision, draws, log_loss, reliability, with_interval
from hfcap.models.image_classifier import accept_pooled_features, body, start_head
from hfcap.training.tag_calibration import apply_isotonic, fit_isotonic, fit_temperature, sigmoid
from hfcap.training.tagger import LabelCollator, LabeledImages, TaggerTrainer
from hfcap.training.tagger_arguments import TaggerArguments, TaggerTrainingArguments
from hfcap.training.tagger_features import TaggerFeatures, build_tagger, cache_tagger_features
from hfcap.training.tagger_steps import head_start, positive_weights

NUM_FOLDS = 5
NUM_CAPTIONS = 5
QUEUE = 0.05
NSFW_TAG = "bare_skin"
SPLITS = ("train", "validation")


def main() -> None:
    """Measure, print the tables, and last the record as one line."""
    args = parse()
    use_all_cores()
    policy = read_policy(args.policy)
    tags = [tag.name for tag in policy.tags.values() if tag.scorer is None]
    splits = [load_captions(args.data, split).select_columns(["image_id", "image", "captions"]) for split in SPLITS]
    image_ids = [image_id for rows in splits for image_id in rows["image_id"]]
    captions = [list(own[:NUM_CAPTIONS]) for rows in splits for own in rows["captions"]]
    in_validation = np.arange(len(image_ids)) >= len(splits[0])
    named = np.array([[[bool(policy.tags[tag].words_in(c)) for c in own] for tag in tags] for own in captions])
    labels = labels_of(named.sum(axis=2))  # (N, T, 5) -> (N, T)
    figures: dict = {"num_photos": len(labels), "encoder": args.model or args.encoder}
    figures |= {"tag_loss": args.tag_loss, "hidden": args.hidden}

    model, caches = features(args, tags, splits)
    logits = [out_of_fold(args, model, caches, splits, labels, seed) for seed in range(args.seeds)]
    scores, folds = logits[0], fold_of(labels, 0)
    figures["tags"] = {
        tag: {
            "with": int(np.nansum(labels[:, t])),
            "left_out": int(np.isnan(labels[:, t]).sum()),
            **ranking(scores[:, t], labels[:, t], named[:, t]),
            **at_threshold(scores[:, t], labels[:, t], folds, policy, tag, captions),
        }
        for t, tag in enumerate(tags)
    }
    figures["calibration"] = calibration(scores, labels, folds)
    if len(logits) > 1:
        figures["seeds"] = {tag: agreement(*(own[:, t] for own in logits[:2])) for t, tag in enumerate(tags)}
    if args.captions:
        figures["captioner"] = keywords_of_model(args, policy, tags, image_ids, scores, labels, in_validation)
    if args.nsfw:
        slices = {name: np.array([name in policy.slices_in(own) for own in captions]) for name in policy.slices}
        figures["open_nsfw"] = open_nsfw(args.nsfw, image_ids, scores, labels, tags.index(NSFW_TAG), slices)
    if args.output:
        write_json(args.output, figures)
    print(table(figures))
    print(json.dumps(figures))


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="Flickr8k, or another source with five captions per photo")
    parser.add_argument("--policy", required=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--encoder", help="folder or Hub id of an encoder")
    source.add_argument("--model", help="captioner whose encoder and cached features are taken")
    parser.add_argument("--captions", help="JSONL of the captioner's captions (captions.jsonl of its run)")
    parser.add_argument("--cache_dir", default="outputs/features")
    parser.add_argument("--hidden", type=int, default=0, help="units of a hidden layer of the head (default: 0, none)")
    parser.add_argument("--tag_loss", choices=("plain", "weighted", "focal"), default="plain")
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--weight_decay", type=float, default=0.01)
    parser.add_argument("--seeds", type=int, default=2, help="out-of-fold passes, each with other folds")
    parser.add_argument("--nsfw", help="tags.jsonl whose scores of bare_skin are those of open_nsfw")
    parser.add_argument("--output", help="JSON file of the record")
    return parser.parse_args()


def labels_of(counts: np.ndarray) -> np.ndarray:
    """Return 1 where two captions or more name a tag, 0 where none does, NaN where one does."""
    return np.where(counts >= 2, 1.0, np.where(counts == 1, np.nan, 0.0))


def fold_of(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return the fold of each photo, (N,): each fold has a fifth of the photos with each set of tags."""
    order = np.random.default_rng(seed).permutation(len(labels))
    kinds = np.nan_to_num(labels) @ 2.0 ** np.arange(labels.shape[1])
    order = order[np.argsort(kinds[order], kind="stable")]
    folds = np.empty(len(labels), dtype=int)
    folds[order] = np.arange(len(labels)) % NUM_FOLDS
    return folds


def features(args: argparse.Namespace, tags: list[str], splits: list[datasets.Dataset]) -> tuple:
    """Build the classifier, and cache what its head gets for all photos, split by split."""
    tagger_args = TaggerArguments(encoder=args.encoder, model=args.model, policy=args.policy)
    model, image_processor, captioner = build_tagger(tagger_args, tags)
    body(model).requires_grad_(False)
    # As a captioner keeps them: training features in float16, those of the evaluation split in float32.
    dtypes = ("float16", "float32")
    caches = [
        cache_tagger_features(model, image_processor, captioner, rows, args.cache_dir, dtype=dtype)
        for rows, dtype in zip(splits, dtypes, strict=True)
    ]
    accept_pooled_features(model)
    return model, caches


class Photos:
    """Cached features of some photos of all splits, as a trainer takes them."""

    def __init__(self, image_ids: list[str], features: np.ndarray):
        self.image_ids, self.features = image_ids, features

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, key):
        index = key[1] if isinstance(key, tuple) else key
        return {
            "image_id": self.image_ids[index],
            "vision_features": torch.from_numpy(self.features[index : index + 1]),
        }


def out_of_fold(args, model, caches, splits, labels: np.ndarray, seed: int) -> np.ndarray:
    """Train a head per fold on the other folds, as `recipes/train_tagger.py` does, and return the logits (N, T)."""
    pooled = [TaggerFeatures(cache, list(range(len(cache)))) for cache in caches]
    all_features = np.concatenate([own.read(i).numpy() for own in pooled for i in range(len(own))])
    image_ids = [image_id for rows in splits for image_id in rows["image_id"]]
    folds, logits = fold_of(labels, seed), np.empty(labels.shape)

    def part(chosen: np.ndarray) -> LabeledImages:
        return LabeledImages(Photos([image_ids[i] for i in chosen], all_features[chosen]), labels[chosen])

    for fold in range(NUM_FOLDS):
        train, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if args.hidden:  # measured here only: no stock class has such a head
            set_seed(seed)
            sizes = all_features.shape[1], args.hidden, labels.shape[1]
            model.classifier = nn.Sequential(nn.Linear(*sizes[:2]), nn.GELU(), nn.Linear(*sizes[1:]))
        start_head(model, head_start(labels[train], args.tag_loss))
        with TemporaryDirectory() as scratch:
            trainer = TaggerTrainer(
                model,
                positive_weights(labels[train]) if args.tag_loss == "weighted" else None,
                2.0 if args.tag_loss == "focal" else 0.0,
                args=training_arguments(args, scratch, seed),
                train_dataset=part(train),
                data_collator=LabelCollator(None),
            )
            trainer.train()
            logits[held] = trainer.predict(part(held)).predictions
    return logits


def training_arguments(args, folder: str, seed: int) -> TaggerTrainingArguments:
    """Settings of configs/train/flickr8k_tagger.yaml."""
    return TaggerTrainingArguments(
        output_dir=folder,
        num_train_epochs=args.epochs,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        warmup_steps=20,
        per_device_train_batch_size=256,
        per_device_eval_batch_size=1000,
        seed=seed,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        metric_for_best_model=None,
        disable_tqdm=True,
        logging_strategy="no",
        report_to="none",
    )


def ranking(scores: np.ndarray, labels: np.ndarray, named: np.ndarray) -> dict:
    """Average precision against chance, in a queue, and against keywords on a person's caption, one tag."""
    known = ~np.isnan(labels)
    truth = labels[known] > 0
    times = draws(len(labels))
    found = {"average_precision": interval_of(scores[known], truth, times[:, known]), "chance": float(truth.mean())}
    queue = np.argsort(-scores[known], kind="stable")[: round(QUEUE * known.sum())]
    hits = int(truth[queue].sum())
    found["recall_in_queue"] = proportion(hits, int(truth.sum()))
    pairs = [person_of(scores, named, k, times) for k in range(NUM_CAPTIONS)]
    person, tagger = (
        np.mean([pair[i] for pair in pairs], axis=0) for i in (0, 1)
    )  # (1 + S,), the first of all photos
    found["person"] = with_interval(person[0], person[1:])
    found["tagger_same_labels"] = with_interval(tagger[0], tagger[1:])
    found["difference"] = with_interval(tagger[0] - person[0], tagger[1:] - person[1:])
    return found


def interval_of(scores: np.ndarray, truth: np.ndarray, times: np.ndarray) -> dict:
    """Average precision with its interval."""
    return with_interval(average_precision(scores, truth), average_precision(scores, truth, times))


def proportion(count: int, total: int) -> dict:
    """A share with its Clopper–Pearson interval."""
    value = count / total if total else 0.0
    return {"value": value, "ci95": list(exact_interval(count, total)) if total else [0.0, 1.0], "of": total}


def person_of(scores: np.ndarray, named: np.ndarray, held: int, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision of caption `held` and of the tagger by the other captions, for all photos and each sample."""
    labels = labels_of(np.delete(named, held, axis=1).sum(axis=1))
    known = ~np.isnan(labels)
    truth, once = labels[known] > 0, np.vstack([np.ones((1, known.sum())), times[:, known]])
    return tuple(average_precision(own[known], truth, once) for own in (named[:, held].astype(float), scores))


def at_threshold(scores, labels, folds, policy: Policy, tag: str, captions) -> dict:
    """Precision, recall and false positives at a threshold that reaches the policy's recall on the other folds."""
    chosen, recall = np.zeros(len(scores), dtype=bool), policy.tags[tag].target.value
    for fold in range(NUM_FOLDS):
        others = np.sort(scores[(folds != fold) & (labels == 1)])[::-1]
        threshold = others[int(np.ceil(recall * len(others))) - 1]
        chosen |= (folds == fold) & (scores >= threshold)
    known = ~np.isnan(labels)
    hits, truth = int((chosen & (labels == 1)).sum()), int((labels == 1).sum())
    slices = {}
    own_slices = [set(policy.slices_in(own)) for own in captions]
    for name in policy.slices:
        inside = np.array([name in own for own in own_slices]) & (labels == 0)
        wrong = int((inside & chosen).sum())
        interval = list(wilson_interval(wrong, int(inside.sum())))
        slices[name] = {"wrong": wrong, "of": int(inside.sum()), "ci95": interval}
    return {
        "precision": proportion(hits, int((chosen & known).sum())),
        "recall": proportion(hits, truth),
        "false_positives": slices,
    }


def calibration(logits: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> dict:
    """Calibration error, log loss and bins of each way, fitted on the other folds, over all tags together."""
    found: dict = {"none": [], "temperature": [], "isotonic": []}
    truth = []
    for column in range(labels.shape[1]):
        for fold in range(NUM_FOLDS):
            known = ~np.isnan(labels[:, column])
            held, others = known & (folds == fold), known & (folds != fold)
            own, z, y = logits[held, column], logits[others, column], labels[others, column] > 0
            truth.append(labels[held, column] > 0)
            found["none"].append(sigmoid(own))
            found["temperature"].append(sigmoid(own / fit_temperature(z, y)))
            found["isotonic"].append(apply_isotonic(fit_isotonic(z, y), own))
    joined, result = np.concatenate(truth), {}
    for way, parts in found.items():
        probabilities = np.concatenate(parts)
        error, bins = reliability(probabilities, joined)
        result[way] = {"ece": error, "log_loss": log_loss(probabilities, joined), "bins": bins}
    return result


def agreement(first: np.ndarray, second: np.ndarray) -> dict:
    """How alike two passes order the photos: rank correlation, and the share of a queue that both have."""
    ranks = [np.argsort(np.argsort(own)) for own in (first, second)]
    queues = [set(np.argsort(-own, kind="stable")[: round(QUEUE * len(own))].tolist()) for own in (first, second)]
    return {
        "rank_correlation": float(np.corrcoef(*ranks)[0, 1]),
        "same_queue": len(queues[0] & queues[1]) / len(queues[0]),
    }


def keywords_of_model(args, policy: Policy, tags, image_ids, scores, labels, in_validation) -> dict:
    """Average precision of keywords on the captioner's captions, and of the tagger, on the photos that have one."""
    said = {row["image_id"]: row["caption"] for row, _ in read_jsonl(args.captions)}
    result = {}
    for name, part in (("validation", in_validation), ("train", ~in_validation)):
        chosen = np.array([image_id in said for image_id in image_ids]) & part
        if not chosen.any():
            continue
        result[name] = {"num_photos": int(chosen.sum())}
        for t, tag in enumerate(tags):
            known = chosen & ~np.isnan(labels[:, t])
            truth = labels[known, t] > 0
            if not truth.any():
                continue
            rows = [image_ids[i] for i in np.flatnonzero(known)]
            words = np.array([bool(policy.tags[tag].words_in(said[image_id])) for image_id in rows], dtype=float)
            times = draws(len(truth))
            result[name][tag] = {
                "with": int(truth.sum()),
                "captions_that_name_it": int(words.sum()),
                "keywords": interval_of(words, truth, times),
                "tagger": interval_of(scores[known, t], truth, times),
            }
    return result


def open_nsfw(
    path: str, image_ids: list[str], scores: np.ndarray, labels: np.ndarray, tag: int, slices: dict[str, np.ndarray]
) -> dict:
    """Average precision of open_nsfw for bare skin on the photos of its file, the tagger's, and who scores a half."""
    by_id = {row["image_id"]: row["scores"][NSFW_TAG] for row, _ in read_jsonl(path)}
    scored = [i for i, image_id in enumerate(image_ids) if image_id in by_id]
    here = [i for i in scored if not np.isnan(labels[i, tag])]
    found, truth, own = np.array([by_id[image_ids[i]] for i in here]), labels[here, tag] > 0, scores[here, tag]
    times = draws(len(here))
    half = np.array([by_id[image_ids[i]] >= 0.5 for i in scored])
    inside = {name: half[chosen[scored]] for name, chosen in slices.items()}
    return {
        "num_photos": len(here),
        "with": int(truth.sum()),
        "open_nsfw": interval_of(found, truth, times),
        "tagger": interval_of(own, truth, times),
        "half_or_more": {
            "with": proportion(int((found[truth] >= 0.5).sum()), int(truth.sum())),
            "without": proportion(int((found[~truth] >= 0.5).sum()), int((~truth).sum())),
            **{name: proportion(int(own.sum()), len(own)) for name, own in inside.items()},
        },
    }


def table(figures: dict) -> str:
    """Tags by row, as in docs/moderation.md."""

    def shown(figure: dict) -> str:
        return f"{figure['value']:.3f} ({figure['ci95'][0]:.3f} to {figure['ci95'][1]:.3f})"

    lines = [
        "| tag | photos | chance | tagger | same labels as a person's caption | keywords, person | difference "
        "| recall in 5 % | precision | recall |",
        "| --- " * 10 + "|",
    ]
    for tag, own in figures["tags"].items():
        names = ("average_precision", "tagger_same_labels", "person", "difference", "recall_in_queue")
        cells = [shown(own[name]) for name in (*names, "precision", "recall")]
        lines.append(f"| {tag} | {own['with']} | {own['chance']:.4f} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
