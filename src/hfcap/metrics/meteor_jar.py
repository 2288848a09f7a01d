"""The jar of METEOR 1.5 that comes with pycocoevalcap: where it is, and its alignments (`--meteor jar`, needs Java).

Everything is sent in one go to one process, which is read until it ends, so there is no dialogue that could break off.
"""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np

from hfcap.errors import ConfigError, WorkError

from .corpus import Corpus

NUM_STATISTICS = 23


class MeteorUnavailableError(ConfigError):
    """METEOR cannot run here; the message says what to install."""


def jar_statistics(corpus: Corpus) -> np.ndarray:
    """Let the jar align each candidate with the reference that suits it best.

    Args:
        corpus: N images.

    Returns:
        (N, 23) float64, see `hfcap.metrics.meteor.meteor_statistics`; a whole match has one chunk here.

    Raises:
        MeteorUnavailableError: Java or pycocoevalcap is missing.
        WorkError: the jar failed; the message holds its last words.
    """
    check_java()
    jar = find_jar()
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
    return statistics.reshape(len(lines), NUM_STATISTICS)


def check_java() -> None:
    """Raise MeteorUnavailableError where there is no Java."""
    if shutil.which("java") is None:
        raise MeteorUnavailableError(
            "no `java` on the PATH, and the jar needs it",
            option="meteor",
            fix="install a Java runtime (8 or newer), or use --meteor python",
        )


def find_jar(metric: str = "meteor") -> Path:
    """Find `meteor-1.5.jar` of pycocoevalcap, for a metric. Raises MeteorUnavailableError where it is missing."""
    if importlib.util.find_spec("pycocoevalcap") is None:
        raise MeteorUnavailableError(
            "its data comes with pycocoevalcap, which is missing", option=metric, fix='pip install "hfcap[meteor]"'
        )
    spec = importlib.util.find_spec("pycocoevalcap.meteor")
    folders = [] if spec is None else spec.submodule_search_locations or []
    for folder in folders:
        jar = Path(folder) / "meteor-1.5.jar"
        if jar.exists():
            return jar
    raise MeteorUnavailableError(
        "the installed pycocoevalcap has no meteor/meteor-1.5.jar", option=metric, wanted="pycocoevalcap>=1.2"
    )
