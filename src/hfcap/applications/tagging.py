"""A tagger with what surrounds it: calibration, policy, captions as evidence; pictures in, fields of rows out."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
from transformers.utils import cached_file

from hfcap import runs
from hfcap.applications.opennsfw import OpenNsfw
from hfcap.applications.policy import Policy, read_policy
from hfcap.checkpoint_files import check_checkpoint
from hfcap.distributed import lockstep
from hfcap.errors import ConfigError
from hfcap.generation.caption import DataWait, caption_rows, read_ahead
from hfcap.generation.inputs import caption_prompt
from hfcap.generation.loading import check_image_processor
from hfcap.models.image_classifier import MULTI_LABEL, classify
from hfcap.models.pretrained import load_whole, loading, pretrained_config
from hfcap.training.tag_calibration import CALIBRATION_JSON, read_temperatures, sigmoid

# A first sorting by the calibrated probability, until `hfcap moderate threshold` finds thresholds from labels.
REVIEW, UNSURE = 0.5, 0.1
MOST_LABELS = 50  # of a classifier that is used without a policy: ImageNet's thousand classes are no tags
DECIMALS = 6


def find_policy(tagger: str, given: str | None) -> Policy | None:
    """Read the policy that is given, else the one that the tagger was trained by; None for a foreign classifier.

    Raises:
        ConfigError: it cannot be read.
    """
    own = tagger_file(tagger, runs.POLICY_YAML) if given is None else given
    return None if own is None else read_policy(own)


def tagger_file(tagger: str, name: str) -> Path | None:
    """Find a file that stands beside a tagger's weights, in a folder or on the Hub; None where there is none.

    Raises:
        ConfigError: the Hub cannot be asked.
    """
    if Path(tagger).is_dir():
        path = Path(tagger, name)
        return path if path.is_file() else None
    with loading("tagger", tagger):
        found = cached_file(tagger, name, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def tags_of(tagger: str, policy: Policy | None) -> list[str]:
    """Names of the classifier's labels as tags, in the order of its logits, checked against the policy.

    Raises:
        ConfigError: there is no classifier; it and the policy do not match; two labels of one name; too many labels
            without a policy.
    """
    config = pretrained_config("tagger", tagger)
    if not (config.architectures or [""])[0].endswith("ForImageClassification"):
        raise ConfigError(
            f"it is a {(config.architectures or [config.model_type])[0]}",
            option="tagger",
            got=tagger,
            wanted="a run of recipes/train_tagger.py, or an image-classification checkpoint",
        )
    names = [re.sub(r"\W+", "_", config.id2label[number].strip().lower()) for number in range(config.num_labels)]
    if policy is None:
        if len(names) > MOST_LABELS:
            raise ConfigError(
                f"it has {len(names)} labels", option="tagger", got=tagger, fix="name those that count with --policy"
            )
        _check_distinct(tagger, names, names)
        return names
    _check_distinct(tagger, names, policy.tags)
    missing = [tag.name for tag in policy.tags.values() if tag.scorer is None and tag.name not in names]
    if missing:
        raise ConfigError(
            f"the policy {policy.path} has {', '.join(missing)}, and the tagger knows {', '.join(names[:10])}"
            + (" …" if len(names) > 10 else ""),
            option="policy",
            fix="train the tagger by this policy, or name its labels in the policy",
        )
    return names


def _check_distinct(tagger: str, names: Sequence[str], used: Iterable[str]) -> None:
    """ImageNet has two labels `crane`, and two `maillot`: one score would silently stand for the other."""
    repeated = next((name for name in used if names.count(name) > 1), None)
    if repeated is not None:
        raise ConfigError(
            f"{names.count(repeated)} of its labels are the tag {repeated}",
            option="tagger",
            got=tagger,
            fix="give them different names in id2label of its config.json",
        )


@dataclass
class Tagger:
    """An image classifier that gives tags, and the captioner whose words stand beside them.

    Attributes:
        model: the classifier, on its device.
        image_processor: its image processor.
        names: its labels as tags, in the order of its logits.
        shown: names of the tags of the rows, those of a scorer among them.
        temperatures: (T,) of its calibration, or None.
        policy: whose words are evidence, or None.
        scorer: of the policy's tags with `scorer: opennsfw`, or None.
        captioner: model and processor, or None.
    """

    model: PreTrainedModel
    image_processor: Any
    names: list[str]
    shown: list[str]
    temperatures: np.ndarray | None
    policy: Policy | None
    scorer: OpenNsfw | None
    captioner: tuple[PreTrainedModel, Any] | None

    def fields(self, pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
        """Tag pictures (RGB): the fields `scores`, `probabilities`, `decision`, `evidence`, `caption`, `box`."""
        pixels = self.image_processor(list(pictures), return_tensors="pt")["pixel_values"].to(self.model.device)
        with torch.inference_mode():
            logits, maps = classify(self.model, pixels)
        scores, probabilities = self._scores(logits.cpu().numpy())
        captions: list[str | None] = [None] * len(pictures)
        if self.captioner is not None:
            rows = [{"image": picture} for picture in pictures]
            captions = list(caption_rows(*self.captioner, rows, caption_prompt(self.captioner[1]), len(rows)))
        found = []
        for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
            own = {
                name: (float(scores[number, c]), float(probabilities[number, c])) for c, name in enumerate(self.names)
            }
            box = {name: None if maps is None else self._box(maps[number, c], picture)
                   for c, name in enumerate(self.names)}  # fmt: skip
            if self.scorer is not None:
                score = self.scorer.score(picture)
                for tag in self.policy.tags.values():
                    if tag.scorer is not None:
                        own[tag.name], box[tag.name] = (score, score), None
            found.append(self._row({name: own[name] for name in self.shown}, box, caption))
        return found

    def _scores(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the classifier and calibrated probabilities, each (B, T)."""
        if self.model.config.problem_type != MULTI_LABEL and len(self.names) > 1:  # one label a picture
            exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
            scores = exponentials / exponentials.sum(axis=1, keepdims=True)
            return scores, scores
        scores = sigmoid(logits)
        return scores, scores if self.temperatures is None else sigmoid(logits / self.temperatures)

    def _box(self, evidence: torch.Tensor, picture: Image.Image) -> list[float]:
        """Strongest place of a map (H', W') as [x0, y0, x1, y1], shares of the picture's width and height."""
        rows, columns = evidence.shape
        row, column = divmod(int(evidence.argmax()), columns)
        left, top, right, bottom = seen_region(self.image_processor, *picture.size)
        width, height = (right - left) / columns, (bottom - top) / rows
        box = (left + column * width, top + row * height, left + (column + 1) * width, top + (row + 1) * height)
        return [round(min(max(edge, 0.0), 1.0), 4) for edge in box]

    def _row(self, own: Mapping[str, tuple[float, float]], box: Mapping[str, Any], caption: str | None) -> dict:
        words: dict[str, list[str]] = {name: [] for name in own}
        if caption is not None and self.policy is not None:
            words |= {name: found for name, found in self.policy.words_in(caption).items() if name in own}
        return {
            "scores": {name: round(score, DECIMALS) for name, (score, _) in own.items()},
            "probabilities": {name: round(probability, DECIMALS) for name, (_, probability) in own.items()},
            "decision": {name: decide(probability, words[name]) for name, (_, probability) in own.items()},
            "evidence": words,
            "caption": caption,
            "box": {name: box[name] for name in own},
        }


def decide(probability: float, words: Sequence[str]) -> str:
    """Sort a picture: "review", "unsure" where the probability is middling or the caption has a word, or "none"."""
    if probability >= REVIEW:
        return "review"
    return "unsure" if words or probability >= UNSURE else "none"


def seen_region(image_processor: Any, width: int, height: int) -> tuple[float, float, float, float]:
    """Return which part of a picture a classifier sees, left, top, right, bottom as shares; a crop cuts its edges."""
    settings = image_processor.to_dict()
    size, crop = settings.get("size") or {}, settings.get("crop_size") or {}
    if not settings.get("do_center_crop") or "height" not in crop:
        return 0.0, 0.0, 1.0, 1.0
    scale = size["shortest_edge"] / min(width, height) if "shortest_edge" in size else None
    resized = (width * scale, height * scale) if scale else (size.get("width", width), size.get("height", height))
    across, down = min(crop["width"] / resized[0], 1.0), min(crop["height"] / resized[1], 1.0)
    return (1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2


def load_tagger(
    source: str, policy: Policy | None, captioner: tuple[PreTrainedModel, Any] | None, device: torch.device
) -> Tagger:
    """Load a classifier with its calibration; the opennsfw scorer where the policy asks for it.

    Args:
        source: folder or Hub id.
        policy: of `find_policy`.
        captioner: model and processor.
        device: to tag on.

    Raises:
        ConfigError: see `tags_of`; weights that cannot be loaded; the extra `nsfw` is not installed.
    """
    names = tags_of(source, policy)
    check_checkpoint(source)
    with loading("tagger", source):
        model = load_whole(AutoModelForImageClassification, "tagger", source)
        image_processor = AutoImageProcessor.from_pretrained(source, backend="pil")
    check_image_processor(image_processor, "tagger", source)
    calibration = tagger_file(source, CALIBRATION_JSON)
    needs_scorer = policy is not None and any(tag.scorer for tag in policy.tags.values())
    return Tagger(
        model.to(device).eval(),
        image_processor,
        names,
        names if policy is None else list(policy.tags),
        None if calibration is None else read_temperatures(calibration.parent, names),
        policy,
        OpenNsfw() if needs_scorer else None,
        captioner,
    )


def tag_loaded(
    tagger: Tagger,
    loads: Iterable[Callable[[], dict]],
    batch_size: int,
    skip: Callable[[int, Exception], None],
    waiting: DataWait,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Tag the rows of a stream, read by threads; no more of them are held than wait for the model.

    Args:
        tagger: the tagger.
        loads: functions that return a row `{"image"}` each, called in threads.
        batch_size: pictures tagged together.
        skip: called with the number of a row that cannot be read, and why.
        waiting: measures how long the model waits for pictures.

    Yields:
        The number of each picture and the fields of its row.
    """

    def read(load: Callable[[], dict]) -> Image.Image | Exception:
        try:
            return load()["image"]
        # Damaged pictures raise SyntaxError, ValueError, struct.error and others, besides OSError.
        except Exception as error:
            return error

    def readable() -> Iterator[tuple[int, Image.Image]]:
        for number, picture in enumerate(read_ahead(read, loads, 2 * batch_size)):
            if isinstance(picture, Exception):
                skip(number, picture)
            else:
                yield number, picture

    pictures = readable()
    batches = iter(lambda: list(islice(pictures, batch_size)), [])
    for batch, is_own in lockstep(tagger.model, waiting.of(batches)):
        found = tagger.fields([picture for _, picture in batch])
        if is_own:
            yield from zip([number for number, _ in batch], found, strict=True)
