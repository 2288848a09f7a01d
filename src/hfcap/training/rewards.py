"""Rewards of sampled captions: functions with a name and a weight, summed.

A reward is a function in the manner of TRL's reward functions:

    def brevity(captions, **kwargs) -> list[float]:
        return [-len(caption.split()) for caption in captions]

It is called with keywords: `captions` (N str), `ended` (N bool: whether the caption reached an end token), `image_ids`
(N str) and `references` (for each caption, the list of its image's reference captions); it returns N finite numbers,
more for the better. Settings name it `MODULE:FUNCTION`, or one of `REWARDS`.

Similar pictures, and why a caption should not fit them: Wang et al., "Compare and Reweight: Distinctive Image
Captioning Using Similar Images Sets" (CIDErBtw), ECCV 2020.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset

from hfcap.errors import ConfigError, WorkError, shown
from hfcap.metrics.bleu import bleu
from hfcap.metrics.corpus import Corpus
from hfcap.metrics.invented import Evidence, check_invented, load_things
from hfcap.metrics.meteor_jar import find_jar
from hfcap.metrics.metric import warn_unless_english
from hfcap.metrics.reward import CiderDReward
from hfcap.metrics.tokenizers import split_captions

# No caption holds it, so it is worth points only as the end of one.
END_WORD = "endofcaption"
END_CHARACTER = "\ue000"  # the same for rewards by characters: a private one, so a single token too

REWARDS = ("cider_d", "bleu_4", "clip_score", "length", "repetition", "distinctiveness", "invented")
KEYWORDS = ("captions", "ended", "image_ids", "references")  # that a reward is called with
NUM_SIMILAR = 5  # pictures that a caption should not fit; as many as CIDErBtw's
LARGEST = 1e30  # of a weighted value: differences and sums of such ones over a step stay finite in float32
PROVEN_AFTER = 1000  # samples after which a reward that never changed is an error

RewardFunction = Callable[..., Sequence[float]]


@dataclass
class Reward:
    """One reward of a training, and what it gave.

    Attributes:
        name: as the settings name it.
        function: see the module.
        weight: what its values are multiplied by in the sum.
    """

    name: str
    function: RewardFunction
    weight: float = 1.0
    _seen: int = 0
    _least: float = np.inf
    _most: float = -np.inf
    _recent: list[np.ndarray] = field(default_factory=list)

    def __call__(self, captions: Sequence[str], **sampled) -> np.ndarray:
        """Score N captions, (N,) float64, without the weight.

        Raises:
            WorkError: the function did not return N finite numbers, one is above `LARGEST` (with its weight or
                without), or the values have been one and the same for `PROVEN_AFTER` samples, so that it teaches
                nothing.
        """
        values = self._numbers(self.function(captions=captions, **sampled))
        if values.shape != (len(captions),):
            raise WorkError(
                f"it returned values of shape {values.shape} for {len(captions)} captions",
                option=f"reward {self.name}",
                fix="return one number per caption",
            )
        usable = np.abs(values) <= LARGEST / max(1.0, abs(self.weight))  # no NaN is
        if not usable.all():
            worst = int(np.flatnonzero(~usable)[0])
            weighted = "" if self.weight == 1 else f", whose weight is {self.weight:g}"
            is_finite = np.isfinite(values[worst])
            raise WorkError(
                f"it gave {values[worst]} for the caption {shown(captions[worst])}{weighted}",
                option=f"reward {self.name}",
                fix=f"scale it, so that no value is above {LARGEST:g}" if is_finite else "return finite numbers",
            )
        self._recent.append(values)
        self._check_change(values)
        return values

    def _numbers(self, returned: object) -> np.ndarray:
        if isinstance(returned, torch.Tensor):  # NumPy takes none on a GPU, in bfloat16 or with a gradient
            returned = returned.detach().double().cpu()
        try:
            return np.asarray(returned, dtype=np.float64)
        except (TypeError, ValueError) as error:
            fix = "return a list, an array or a tensor with one number per caption"
            raise WorkError(f"it returned no numbers: {error}", option=f"reward {self.name}", fix=fix) from error

    def _check_change(self, values: np.ndarray) -> None:
        if self._seen >= PROVEN_AFTER and self._least < self._most:
            return
        self._seen += len(values)
        self._least, self._most = min(self._least, values.min()), max(self._most, values.max())
        if self._seen >= PROVEN_AFTER and self._least == self._most:
            raise WorkError(
                f"it gave {self._most:.4g} for each of {self._seen} samples, and teaches nothing",
                option=f"reward {self.name}",
                fix="remove it, or start from a captioner whose captions differ in it",
            )

    def trust(self) -> None:
        """Let the values stay the same from now on: training goes on, and has learned what this reward teaches."""
        self._seen, self._least, self._most = PROVEN_AFTER, -np.inf, np.inf

    def take_figures(self) -> dict[str, float]:
        """Mean and standard deviation of the values since the last call, under the names that TRL logs them by.

        They are of all processes, which all call it.
        """
        values = np.concatenate(gather_object(self._recent))
        self._recent.clear()
        return {
            f"rewards/{self.name}/mean": round(float(values.mean()), 4),
            f"rewards/{self.name}/std": round(float(values.std()), 4),
        }


def build_rewards(
    names: Sequence[str],
    rows: Dataset,
    *,
    weights: Sequence[float] | None = None,
    tokenizer: str = "ptb",
    length_band: tuple[int, int] | None = None,
    clip_model: str | None = None,
) -> list[Reward]:
    """Build the rewards of a training.

    Args:
        names: some of `REWARDS`, or MODULE:FUNCTION.
        rows: the training rows, `{image_id, image, captions}`.
        weights: one for each name; None for 1 each.
        tokenizer: what splits captions into words, see `hfcap.metrics.tokenizers`.
        length_band: fewest and most words of a caption, for the reward "length".
        clip_model: folder or Hub id, for "clip_score".

    Raises:
        ConfigError: a function that cannot be imported, or references of one image only.
    """
    references = dict(zip(rows["image_id"], rows["captions"], strict=True))
    weights = [1.0] * len(names) if weights is None else weights
    cider_d = CiderDOfEnded(references, tokenizer) if {"cider_d", "distinctiveness"} & set(names) else None
    makers: dict[str, Callable[[], RewardFunction]] = {
        "cider_d": lambda: cider_d,
        "bleu_4": lambda: Bleu4(tokenizer),
        "clip_score": lambda: ClipScore(clip_model, rows),
        "length": lambda: LengthBand(*length_band, tokenizer),
        "repetition": lambda: Repetition(tokenizer),
        "distinctiveness": lambda: Distinctiveness(cider_d),
        "invented": lambda: Invented(tokenizer),
    }
    functions = [makers[name]() if name in makers else import_reward(name) for name in names]
    if "invented" in names:
        warn_unless_english("invented", references.values())
    return [Reward(*parts) for parts in zip(names, functions, weights, strict=True)]


def import_reward(name: str) -> RewardFunction:
    """Import a function named MODULE:FUNCTION; a module may lie in the working directory.

    Raises:
        ConfigError: it is none of `REWARDS` and not of that form, there is no such module or function, or the function
            does not take the keywords of a reward.
    """
    module_name, separator, function_name = name.partition(":")
    is_path = "/" in module_name or module_name.endswith(".py")
    if not separator or is_path or not all(module_name.split(".")):
        wanted = f"some of {', '.join(REWARDS)}, or MODULE:FUNCTION, such as own:brevity for a function in own.py"
        fix = "separate them by spaces" if "," in name else None
        raise ConfigError(option="rewards", got=name, wanted=wanted, fix=fix)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        is_missing = error.name is not None and f"{module_name}.".startswith(f"{error.name}.")
        fix = "run in its folder, or put that on PYTHONPATH" if is_missing else f"fix what {module_name} imports"
        raise ConfigError(str(error), option="rewards", got=name, fix=fix) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        where = getattr(module, "__file__", None) or "built into Python"  # not one's own test.py, whose name it has
        raise ConfigError(f"module {module_name} ({where}) has no such function", option="rewards", got=name)
    _check_keywords(name, function)
    return function


def _check_keywords(name: str, function: RewardFunction) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions written in C have none
        return
    try:
        signature.bind(**dict.fromkeys(KEYWORDS))
    except TypeError as error:
        raise ConfigError(
            f"it is called with the keywords {', '.join(KEYWORDS)}: {error}",
            option="rewards",
            got=name,
            fix="name those that it uses, and take the others as **kwargs",
        ) from error


def with_end(caption: str, tokenizer: str = "ptb") -> str:
    """Put the end of a caption into its text, as a token of its own for the reward."""
    return f"{caption} {END_CHARACTER if tokenizer == 'char' else END_WORD}"


class CiderDOfEnded:
    """CIDEr-D against the references, from 0 to 10; the end of a caption is a word (`hfcap.training.scst` says why).

    Args:
        references: {image_id: captions} of all training images; document frequencies are theirs.
        tokenizer: see `hfcap.metrics.tokenizers`.

    Raises:
        ConfigError: references of one image, which give every sample the reward 0.
    """

    def __init__(self, references: Mapping[str, Sequence[str]], tokenizer: str = "ptb"):
        if len(references) < 2:
            raise ConfigError(
                "CIDEr-D weighs words by how few images have them, so every reward would be 0",
                option="number of training images",
                got=len(references),
                wanted="2 or more",
                fix="raise max_train_images, or use more data",
            )
        ended = {image_id: [with_end(text, tokenizer) for text in texts] for image_id, texts in references.items()}
        self.reward = CiderDReward(ended, tokenizer=tokenizer)
        self._tokenizer = tokenizer

    def __call__(self, captions: Sequence[str], image_ids: Sequence[str], ended: Sequence[bool], **_) -> np.ndarray:
        """Score N captions against the references of their images."""
        return self.reward.score(self.texts(captions, ended), image_ids)

    def texts(self, captions: Sequence[str], ended: Sequence[bool]) -> list[str]:
        """The captions as they are compared: those that ended with their end."""
        pairs = zip(captions, ended, strict=True)
        return [with_end(text, self._tokenizer) if is_ended else text for text, is_ended in pairs]


class Distinctiveness:
    """Minus the mean CIDEr-D of a caption against the references of the pictures most similar to its own, -10 to 0.

    What fits the neighbours says little of the picture. Similarity is the cosine of tf-idf vectors of the words of all
    references of a picture, so no model is needed.
    """

    def __init__(self, cider_d: CiderDOfEnded, num_similar: int = NUM_SIMILAR):
        self._cider_d = cider_d
        self.similar = cider_d.reward.similar_images(num_similar)

    def __call__(self, captions: Sequence[str], image_ids: Sequence[str], ended: Sequence[bool], **_) -> np.ndarray:
        """Score N captions."""
        texts = self._cider_d.texts(captions, ended)
        others = [self.similar[image_id] for image_id in image_ids]
        return -self._cider_d.reward.score_against(texts, others).mean(axis=1)


class Bleu4:
    """BLEU-4 of each caption on its own, from 0 to 1."""

    def __init__(self, tokenizer: str = "ptb"):
        self._tokenizer = tokenizer
        self._split: dict[str, list[str]] = {}

    def __call__(
        self, captions: Sequence[str], image_ids: Sequence[str], references: Sequence[Sequence[str]], **_
    ) -> np.ndarray:
        """Score N captions."""
        new = {key: texts for key, texts in zip(image_ids, references, strict=True) if key not in self._split}
        self._split |= {key: split_captions(texts, self._tokenizer, isolated=True) for key, texts in new.items()}
        words = split_captions(captions, self._tokenizer, isolated=True)
        return bleu(Corpus(words, [self._split[key] for key in image_ids]))[1][:, 3]


class LengthBand:
    """Minus the number of words by which a caption is shorter than `fewest` or longer than `most`."""

    def __init__(self, fewest: int, most: int, tokenizer: str = "ptb"):
        self._band = fewest, most
        self._tokenizer = tokenizer

    def __call__(self, captions: Sequence[str], **_) -> np.ndarray:
        """Score N captions."""
        lengths = np.array([len(text.split()) for text in split_captions(captions, self._tokenizer, isolated=True)])
        return -np.abs(lengths - lengths.clip(*self._band)).astype(np.float64)


class Repetition:
    """Minus the share of a caption's bigrams that it has used before, from -1 to 0."""

    def __init__(self, tokenizer: str = "ptb"):
        self._tokenizer = tokenizer

    def __call__(self, captions: Sequence[str], **_) -> np.ndarray:
        """Score N captions."""
        return np.array(
            [-self._share(text.split()) for text in split_captions(captions, self._tokenizer, isolated=True)]
        )

    @staticmethod
    def _share(words: list[str]) -> float:
        bigrams = list(pairwise(words))
        return 1 - len(set(bigrams)) / len(bigrams) if bigrams else 0.0


class Invented:
    """Minus the number of nouns of a caption that no reference of its picture supports.

    Raises:
        ConfigError: see `hfcap.metrics.invented.check_invented`.
    """

    def __init__(self, tokenizer: str = "ptb"):
        check_invented(tokenizer)
        self._things = load_things(find_jar())
        self._evidence: dict[str, Evidence] = {}

    def __call__(
        self, captions: Sequence[str], image_ids: Sequence[str], references: Sequence[Sequence[str]], **_
    ) -> np.ndarray:
        """Score N captions."""
        for image_id, texts in zip(image_ids, references, strict=True):
            if image_id not in self._evidence:
                self._evidence[image_id] = self._things.evidence(split_captions(texts, isolated=True))
        words = split_captions(captions, isolated=True)
        pairs = zip(words, image_ids, strict=True)
        return -np.array([len(self._things.unsupported(text, self._evidence[one])) for text, one in pairs], np.float64)


class ClipScore:
    """CLIPScore of a caption and its picture (Hessel et al., EMNLP 2021), 0 to 2.5; each picture is encoded once."""

    def __init__(self, clip_model: str, rows: Dataset):
        from hfcap.metrics.clip_metrics import load_scorer  # slow to import

        self._scorer = load_scorer(clip_model)
        self._rows = rows
        self._row_of = {image_id: row for row, image_id in enumerate(rows["image_id"])}
        self._features: dict[str, np.ndarray] = {}

    def __call__(self, captions: Sequence[str], image_ids: Sequence[str], **_) -> np.ndarray:
        """Score N captions."""
        new = [image_id for image_id in dict.fromkeys(image_ids) if image_id not in self._features]
        pictures = (self._rows[self._row_of[image_id]]["image"] for image_id in new)
        self._features |= zip(new, self._scorer.encode_images(pictures), strict=True)
        seen = np.stack([self._features[image_id] for image_id in image_ids])
        return self._scorer.agreement(seen, self._scorer.encode_texts(captions))


def weighted_sum(rewards: Sequence[Reward], captions: Sequence[str], **sampled) -> torch.Tensor:
    """Sum of the rewards of N captions times their weights, (N,) float32."""
    total = sum(reward.weight * reward(captions, **sampled) for reward in rewards)
    return torch.from_numpy(np.asarray(total, dtype=np.float32))
