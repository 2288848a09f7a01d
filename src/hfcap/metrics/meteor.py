"""METEOR 1.5, aligned by the jar that comes with pycocoevalcap, scored here.

Denkowski and Lavie, "Meteor universal: language specific translation evaluation for any target language", WMT 2014.
The jar gives, for each image, the counts of the best reference; the score is a formula of these, and the corpus score
the same formula of their sums. Everything is sent in one go to one process, which is read until it ends, so there is
no dialogue that could break off.

Needs Java and `pip install "hfcap[meteor]"`.
"""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np

from hfcap.errors import ConfigError, WorkError

from .corpus import Corpus
from .metric import Inputs, Metric, Options

# Parameters of METEOR 1.5 for English: exact, stem, synonym and paraphrase matches weigh this much.
_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.20, 0.60, 0.75
_NUM_STATISTICS = 23


class MeteorUnavailableError(ConfigError):
    """METEOR cannot run here; the message says what to install."""


def meteor_statistics(corpus: Corpus) -> np.ndarray:
    """Align each candidate with the reference that suits it best.

    Args:
        corpus: N images.

    Returns:
        (N, 23) float64: length of candidate and reference, function words in each; then for exact, stem, synonym and
        paraphrase matches: content words in candidate and reference, function words in candidate and reference; then
        chunks (0 where all words match in one), matched words in candidate and reference.

    Raises:
        MeteorUnavailableError: Java or pycocoevalcap is missing.
        WorkError: the jar failed; the message holds its last words.
    """
    jar = _find_jar()
    lines = []
    for candidate, references in zip(corpus.candidates, corpus.references, strict=True):
        # As the original does: its own separator and double spaces must not stand in the candidate.
        candidate = candidate.replace("|||", "").replace("  ", " ")
        lines.append(" ||| ".join(["SCORE", *references, candidate]) + "\n")
    command = ["java", "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
    finished = subprocess.run(command, cwd=jar.parent, input="".join(lines).encode(), capture_output=True, check=False)
    answers = finished.stdout.decode().splitlines()
    if finished.returncode != 0 or len(answers) != len(lines):
        last_words = finished.stderr.decode(errors="replace").strip()[-500:]
        raise WorkError(
            f"its jar ended with code {finished.returncode} and {len(answers)} answers for {len(lines)} images "
            f"({last_words or 'no error output'})",
            option="meteor",
            fix="make sure that 2 GB of memory are free",
        )
    statistics = np.array([answer.split() for answer in answers], dtype=np.float64)
    statistics = statistics.reshape(len(lines), _NUM_STATISTICS)
    return _without_whole_matches(statistics)


def _without_whole_matches(statistics: np.ndarray) -> np.ndarray:
    """Set the chunks of a candidate equal to its reference to 0: it is not fragmented, and adds nothing to the sum."""
    lengths, chunks, matched = statistics[:, 0:2], statistics[:, 20], statistics[:, 21:23]
    whole = (matched == lengths).all(axis=1) & (chunks == 1)
    statistics[whole, 20] = 0.0
    return statistics


def meteor_from_statistics(statistics: np.ndarray) -> np.ndarray:
    """Give METEOR for rows of statistics: one image, or the sum over the images of a corpus.

    Args:
        statistics: (..., 23) as `meteor_statistics` returns them.

    Returns:
        (...,) float64 in [0, 1].
    """
    lengths, function_words = statistics[..., 0:2], statistics[..., 2:4]
    matches = statistics[..., 4:20].reshape(*statistics.shape[:-1], 4, 2, 2)  # (..., kind, content | function, side)
    chunks, matched = statistics[..., 20], statistics[..., 21:23]
    weighed = _DELTA * matches[..., 0, :] + (1 - _DELTA) * matches[..., 1, :]  # (..., kind, side)
    found = np.einsum("...ks,k->...s", weighed, _WEIGHTS)
    possible = _DELTA * (lengths - function_words) + (1 - _DELTA) * function_words
    ratio = np.divide(found, possible, out=np.zeros_like(found), where=possible > 0)
    precision, recall = ratio[..., 0], ratio[..., 1]
    some = (precision > 0) & (recall > 0)
    precision, recall = np.where(some, precision, 1.0), np.where(some, recall, 1.0)
    f_mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
    total = matched.mean(axis=-1)
    fragmentation = np.divide(chunks, total, out=np.zeros_like(total), where=total > 0)
    penalty = _GAMMA * fragmentation**_BETA
    return np.where(some, f_mean * (1 - penalty), 0.0)


def _find_jar() -> Path:
    if shutil.which("java") is None:
        raise MeteorUnavailableError(
            "no `java` on the PATH", option="meteor", fix="install a Java runtime (8 or newer)"
        )
    if importlib.util.find_spec("pycocoevalcap") is None:
        raise MeteorUnavailableError(
            "its jar comes with pycocoevalcap, which is missing", option="meteor", fix='pip install "hfcap[meteor]"'
        )
    spec = importlib.util.find_spec("pycocoevalcap.meteor")
    folders = [] if spec is None else spec.submodule_search_locations or []
    for folder in folders:
        jar = Path(folder) / "meteor-1.5.jar"
        if jar.exists():
            return jar
    raise MeteorUnavailableError(
        "the installed pycocoevalcap has no meteor/meteor-1.5.jar", option="meteor", wanted="pycocoevalcap>=1.2"
    )


def _statistics(inputs: Inputs) -> np.ndarray:
    return meteor_statistics(inputs.corpus)


def _require(options: Options) -> None:
    if options.tokenizer != "ptb":
        raise ConfigError(
            "meteor is for English only", option="tokenizer", got=options.tokenizer, wanted="ptb", fix="remove meteor"
        )
    _find_jar()


METEOR = Metric(
    key="meteor",
    names={"meteor": "METEOR"},
    statistics=_statistics,
    combine=lambda sums, num_images: meteor_from_statistics(sums)[..., None],
    require=_require,
)
