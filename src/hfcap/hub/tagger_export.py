"""`hfcap export` of a tagger: a stock image classifier with its card, verified in a clean process."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from hfcap import provenance, runs
from hfcap.atomic_files import write_json
from hfcap.checkpoint_files import check_checkpoint
from hfcap.content_hashes import captioner_hashes
from hfcap.errors import ConfigError, VerificationError
from hfcap.hub import tagger_snapshot
from hfcap.hub.export import VERIFICATION, new_folder
from hfcap.hub.push import Push, Target, push_folder
from hfcap.hub.tagger_card import copy_tagger_records, write_tagger_card
from hfcap.hub.verification_images import pictures_of_run
from hfcap.hub.verify import SHOWN, refuse
from hfcap.models.finite import non_finite_weights, refuse_non_finite
from hfcap.models.pretrained import load_whole
from hfcap.training.tag_calibration import CALIBRATION_JSON

LARGEST_CHANGE = 1e-6  # of a score between 0 and 1, in another process


def is_tagger(name: str | os.PathLike) -> bool:
    """Whether a run or a folder holds an image classifier; what is no folder, or no model, is none."""
    folder = next(
        (place for place in (Path(name) / runs.MODEL, Path(name)) if (place / "config.json").is_file()), None
    )
    if folder is None:
        return False
    architectures = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or [""]
    return architectures[0].endswith("ForImageClassification")


def export_tagger(run: str | os.PathLike, to: str | os.PathLike, pictures: Sequence[Path] = ()) -> Path:
    """Write a tagger to a new folder, load it in a clean process, and compare weights, settings and scores.

    Args:
        run: run folder, or the folder of an image classifier.
        to: the folder to make; it appears only if all is as it was.
        pictures: files to score instead of the run's evaluation data.

    Returns:
        The folder.

    Raises:
        ConfigError: the weights cannot be loaded, or the folder exists.
        VerificationError: the export is not what it should be. No folder is left.
    """
    source = Path(runs.resolve_model(run).path)
    records = _records(run)
    check_checkpoint(source)
    AutoConfig.from_pretrained(source, trust_remote_code=False)
    model = load_whole(AutoModelForImageClassification, "tagger", str(source), dtype="auto").eval()
    image_processor = AutoImageProcessor.from_pretrained(source, backend="pil")
    refuse_non_finite(non_finite_weights(model), str(source))
    rows, whence = pictures_of_run(records, pictures)
    images = [row["image"] for row in rows]
    expected = tagger_snapshot.describe(model, image_processor)
    expected["scores"] = tagger_snapshot.pipeline_scores(model, image_processor, images)
    with new_folder(Path(to)) as folder:
        model.save_pretrained(folder)
        image_processor.save_pretrained(folder)
        for name in (CALIBRATION_JSON, runs.POLICY_YAML):
            if (source / name).is_file():
                shutil.copy(source / name, folder / name)
        found = _reload(folder, images)
        refuse(differences(expected, found))
        record = {
            "schema_version": 1,
            "format": "native",
            "class": found["class"],
            "num_tensors": len(found["weights"]),
            "scores": {"compared": len(images), "of": whence},
            "versions": provenance.library_versions(),
            **captioner_hashes(source),
        }
        write_json(folder / VERIFICATION, record)
        copy_tagger_records(records, folder)
    print(
        f"Verified in a clean process: {found['class']}, {len(found['weights'])} tensors and all settings equal, "
        f"scores of {whence} equal by pipeline('image-classification')."
    )
    return Path(to)


def publish_tagger(run: str | os.PathLike, target: Target, pictures: Sequence[Path] = (), **given: Any) -> Push:
    """Export a tagger, verify it, write its card from the run's figures, and upload it in one commit.

    Args:
        run: as for `export_tagger`.
        target: where to.
        pictures: as for `export_tagger`.
        given: `license` and `datasets` of the card.

    Raises:
        ConfigError: the run was not measured, or what `export_tagger` and `push_folder` cannot do.
        VerificationError: the export is not what it must be.
        WorkError: the upload failed.
    """
    records = _records(run)
    for name in (runs.RUN_JSON, runs.METRICS_JSON):
        if not (records / name).is_file():
            raise ConfigError(
                f"missing in {records}, and a card reports what was measured", option=name, fix="train the tagger"
            )
    with TemporaryDirectory(prefix="hfcap-publish-") as scratch:
        ready = export_tagger(run, Path(scratch) / "ready", pictures)
        write_tagger_card(records, ready, target.repo_id, target.revision, **given)
        return push_folder(ready, target, f"Upload {target.repo_id.split('/')[-1]}")


def _records(run: str | os.PathLike) -> Path:
    """Folder of the run's records; that of the weights where there are none."""
    source = Path(runs.resolve_model(run).path)
    return next((place for place in (Path(run), source.parent) if (place / runs.RUN_JSON).is_file()), source)


def _reload(folder: Path, pictures: Sequence[Image.Image]) -> dict[str, Any]:
    with TemporaryDirectory(prefix="hfcap-verify-") as scratch:
        paths = [Path(scratch, f"{index}.png") for index in range(len(pictures))]
        for picture, path in zip(pictures, paths, strict=True):
            picture.save(path)
        request = {
            "folder": str(folder.resolve()),
            "pictures": list(map(str, paths)),
            "num_threads": torch.get_num_threads(),
            "answer": str(Path(scratch, "answer.json")),
        }
        request_file = write_json(Path(scratch, "request.json"), request)
        done = subprocess.run(
            # -P: hfcap/hub would otherwise stand first on the path, and its modules before those of that name.
            [sys.executable, "-P", tagger_snapshot.__file__, str(request_file)],
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            cwd=scratch,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise VerificationError(f"the export does not load in a clean process: {reason}")
        return json.loads(Path(request["answer"]).read_text(encoding="utf-8"))


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Say how what was loaded differs from what was expected, a line each; empty where it does not."""
    problems = [
        f"{len(found[kind])} {kind.replace('_', ' ')} when loading: {', '.join(found[kind][:SHOWN])}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if found[kind]
    ]
    if expected["class"] != found["class"]:
        problems.append(f"class: expected {expected['class']}, found {found['class']}")
    for part in ("weights", "config", "image_processor"):
        names = sorted(expected[part].keys() | found[part].keys())
        problems += [
            f"{part}: {name} is another" for name in names if expected[part].get(name) != found[part].get(name)
        ]
    for number, (before, after) in enumerate(zip(expected["scores"], found["scores"], strict=True), 1):
        for label in before:
            if abs(before[label] - after.get(label, -1)) > LARGEST_CHANGE:
                was, is_ = before[label], after.get(label)
                problems.append(f"score of {label} for picture {number}: {was} before, {is_} after")
    return problems


def tagger_pictures(options: Mapping[str, Any]) -> Sequence[Path]:
    """Return the pictures among the options of `hfcap export`, and refuse those that captioners alone have.

    Raises:
        ConfigError: one is given.
    """
    for name, value in options.items():
        if name != "pictures" and value not in (None, False, "auto", "native"):
            raise ConfigError("a tagger ships as it is", option=f"--{name}", got=value, fix="remove it")
    return options["pictures"]
