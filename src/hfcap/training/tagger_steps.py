"""The steps of `recipes/train_tagger.py` before training: the run folder, the labels, the model, the data sets."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel, set_seed
from transformers.image_processing_utils import BaseImageProcessor

from hfcap import runs
from hfcap.atomic_files import write_atomic, write_json
from hfcap.data.caption_dataset import Augmentation, CaptionDataset
from hfcap.distributed import use_all_cores
from hfcap.errors import ConfigError
from hfcap.models.image_classifier import accept_pooled_features, body, start_head
from hfcap.processes import main_process_decides
from hfcap.training.callbacks import run_callbacks
from hfcap.training.data_arguments import DataArguments
from hfcap.training.engine import current_backend
from hfcap.training.run_folder import run_lock, start_run
from hfcap.training.tag_labels import check_classes, label_rows, split_for_calibration, unmeasured
from hfcap.training.tagger import LabelCollator, LabeledImages, TaggerTrainer
from hfcap.training.tagger_arguments import TaggerArguments, TaggerTrainingArguments, check_tagger
from hfcap.training.tagger_features import TaggerFeatures, build_tagger, cache_tagger_features

PARTS = ("train", "calibration", "evaluation")


@dataclass(frozen=True)
class TaggerRun:
    """A training run of a tagger.

    Attributes:
        folder: the run folder.
        data: what it reads.
        tagger: what it trains.
        args: how it trains; `output_dir` is the folder of the checkpoints.
        rows: training split and evaluation split.
        is_done: whether the folder already holds all results.
    """

    folder: Path
    data: DataArguments
    tagger: TaggerArguments
    args: TaggerTrainingArguments
    rows: tuple[datasets.Dataset, datasets.Dataset]
    is_done: bool


@dataclass(frozen=True)
class LabeledPart:
    """Pictures of one part of the data with their labels.

    Attributes:
        rows: `{image_id, image, captions}`.
        indices: where they stand in their split.
        labels: (N, T) 1, 0 or NaN.
    """

    rows: datasets.Dataset
    indices: list[int]
    labels: np.ndarray


@contextmanager
def open_tagger_run(
    arguments: tuple[DataArguments, TaggerArguments, TaggerTrainingArguments],
) -> Iterator[TaggerRun]:
    """Check all settings, lock the run folder, and read the rows.

    Raises:
        ConfigError: settings that do not fit each other, the data or the run folder.
    """
    data_args, tagger_args, args = arguments
    folder = Path(args.output_dir)
    with run_lock(args):
        args.output_dir = str(folder / runs.CHECKPOINTS)
        check_tagger(data_args, tagger_args, args, current_backend())
        use_all_cores()
        rows, is_done = start_run(folder, arguments)
        yield TaggerRun(folder, data_args, tagger_args, args, rows, is_done)


def keep_policy(run: TaggerRun, policy_file: Path) -> None:
    """Copy the policy into the run folder: the file may be edited while the run trains, and `model/` gets a copy."""
    content = policy_file.read_bytes()
    main_process_decides(lambda: str(write_atomic(run.folder / runs.POLICY_YAML, content)))


def label_parts(
    run: TaggerRun,
    tags: Sequence[str],
    from_captions: Callable[[Sequence[str]], Mapping[str, bool | None]],
    policy: Mapping[str, Any],
) -> dict[str, LabeledPart]:
    """Label all pictures, divide them, and keep in `run.json` what they were labeled by.

    Args:
        run: the run.
        tags: names of the tags, in the order of the head's rows.
        from_captions: see `hfcap.training.tag_labels.label_rows`.
        policy: `{"path", "sha256"}`.

    Returns:
        The parts "train", "calibration" and "evaluation" by name.

    Raises:
        ConfigError: wrong labels, or a tag that no picture has; the run was begun with other labels.
    """
    if not tags:
        raise ConfigError("all of its tags have a scorer of their own", option="policy", got=policy["path"])
    train, evaluation = run.rows
    labels = [label_rows(rows, tags, from_captions) for rows in run.rows]
    kept, held = split_for_calibration(train, run.args.calibration_share, run.args.seed)
    parts = {
        "train": LabeledPart(train.select(kept), kept, labels[0][kept]),
        "calibration": LabeledPart(train.select(held), held, labels[0][held]),
        "evaluation": LabeledPart(evaluation, list(range(len(evaluation))), labels[1]),
    }
    check_classes(parts["train"].labels, tags, run.data.train_split)
    if len(unmeasured(labels[1], tags)) == len(tags):
        raise ConfigError(
            "no tag has pictures with it and without", option="eval_split", got=run.data.eval_split, fix="take another"
        )
    record = {
        "policy": dict(policy),
        "labels": {name: _describe(part.labels, tags) for name, part in parts.items()},
    }
    main_process_decides(lambda: _keep_or_compare(run.folder / runs.RUN_JSON, record))
    return parts


def _describe(labels: np.ndarray, tags: Sequence[str]) -> dict[str, Any]:
    counts = {tag: {"with": int((column == 1).sum()), "left_out": int(np.isnan(column).sum())}
              for tag, column in zip(tags, labels.T, strict=True)}  # fmt: skip
    return {"num_images": len(labels), "tags": counts, "sha256": sha256(labels.tobytes()).hexdigest()}


def _keep_or_compare(path: Path, record: Mapping[str, Any]) -> None:
    earlier = runs.read_run(path)
    if "labels" not in earlier:
        write_json(path, earlier | record)
    elif earlier["labels"] != record["labels"]:
        raise ConfigError(
            f"this folder holds a run with other labels (by the policy {earlier['policy']['path']})",
            option="output_dir",
            got=str(path.parent),
            fix="pass another --output_dir, or remove the folder",
        )


def prepare_tagger(
    run: TaggerRun, tags: Sequence[str], parts: Mapping[str, LabeledPart]
) -> tuple[PreTrainedModel, BaseImageProcessor, dict[str, LabeledImages]]:
    """Build the classifier, and the data set of each part; with `feature_cache` the encoder runs here, once.

    Raises:
        ConfigError: see `build_tagger`.
    """
    set_seed(run.args.seed)
    model, image_processor, captioner = build_tagger(run.tagger, list(tags))
    start_head(model, head_start(parts["train"].labels, run.args.tag_loss))
    body(model).requires_grad_(run.tagger.strategy == "full")
    caches: dict[str, Any] = dict.fromkeys(PARTS)
    names = ("mirror", "crop", "cached_crops", "color_jitter")
    augmentation = {name: getattr(run.data, name) for name in names} | {"seed": run.args.seed}
    if run.tagger.feature_cache:
        views = Augmentation(**augmentation).cached_views()
        common = (model, image_processor, captioner)
        train = cache_tagger_features(*common, run.rows[0], run.tagger.cache_dir, views)
        evaluation = cache_tagger_features(*common, run.rows[1], run.tagger.cache_dir, dtype="float32")
        for name, part in parts.items():
            caches[name] = TaggerFeatures(evaluation if name == "evaluation" else train, part.indices)
        accept_pooled_features(model)
    data = {}
    for name, part in parts.items():
        rows = CaptionDataset(part.rows, caches[name], **(augmentation if name == "train" else {}))
        data[name] = LabeledImages(rows, part.labels)
    return model, image_processor, data


def head_start(labels: np.ndarray, tag_loss: str) -> np.ndarray:
    """Share of the pictures with each tag, where an untrained head begins; one half where positives are weighted."""
    shares = np.nanmean(labels, axis=0)
    return np.full_like(shares, 0.5) if tag_loss == "weighted" else shares


def positive_weights(labels: np.ndarray) -> torch.Tensor:
    """Weights (T,) by which positive labels count as much as negative ones."""
    shares = np.nanmean(labels, axis=0)
    return torch.from_numpy((1 - shares) / shares).float()


def make_trainer(
    run: TaggerRun,
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    data: Mapping[str, LabeledImages],
    parts: Mapping[str, LabeledPart],
) -> TaggerTrainer:
    """Build the trainer of a run."""
    return TaggerTrainer(
        model,
        positive_weights(parts["train"].labels) if run.args.tag_loss == "weighted" else None,
        run.args.focal_gamma if run.args.tag_loss == "focal" else 0.0,
        args=run.args,
        train_dataset=data["train"],
        eval_dataset=data["evaluation"],
        data_collator=LabelCollator(image_processor),
        callbacks=run_callbacks(run.args),
    )
