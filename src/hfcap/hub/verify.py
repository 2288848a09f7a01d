"""Verification of exports: reload in a clean process and comparison, part by part.

Silent losses are the rule in this field: merged adapters whose weights never changed, projectors that were not saved,
processors of another model. So nothing is taken on trust: what a stranger's process loads must be, tensor for tensor
and setting for setting, what lay in memory here, and must say the same of the same pictures.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel
from PIL import Image
from transformers import PreTrainedModel

from hfcap.counts import counted
from hfcap.errors import VerificationError
from hfcap.generation.caption import caption_rows
from hfcap.hub import snapshot
from hfcap.hub.usage import usage_code
from hfcap.metrics import compute_metrics

SHOWN = 5
# Parts of what a process says of a captioner that are settings by name.
SETTINGS = ("config", "adapter", "generation_config", "processor", "image_processor", "video_processor", "tokenizer")
# What an export may hold: no pickles, no optimizer state, nothing that nobody meant to ship.
SHIPPED = {".safetensors", ".json", ".jinja", ".txt", ".model", ".py"}
# A change of dtype may cost this much CIDEr, of the larger of the two: a part of what it was, or so many raw points.
CIDER_PART, CIDER_POINTS = 0.05, 0.02


def expect(
    model: PreTrainedModel | PeftModel,
    processor,
    pictures: Sequence[Image.Image],
    prompt: str | None,
    *,
    shipped: tuple[PreTrainedModel, Any] | None = None,
    captions: bool = True,
) -> dict[str, Any]:
    """Describe model and processor as they are in memory, to compare an export with.

    Args:
        model: the captioner, in the dtype that it is exported in.
        processor: its processor.
        pictures: RGB.
        prompt: instruction of the captions.
        shipped: model and processor as the classes that are shipped (`hfcap.hub.formats.to_stock`), whose
            configuration is the one to find; None where they are the same.
        captions: whether to caption the pictures; without, captions are not compared.
    """
    shipped_model, shipped_processor = shipped or (model, processor)
    expected = snapshot.describe_model(model) | snapshot.describe_config(shipped_model)
    expected |= snapshot.describe_processor(processor)
    expected["processor"] = snapshot.describe_processor(shipped_processor)["processor"]
    if captions:
        expected["captions"] = captions_here(model, processor, pictures, prompt, **snapshot.GREEDY)
        expected["captions_as_shipped"] = _captions_as_shipped(model, processor, pictures, prompt)
    return expected


def captions_here(
    model: PreTrainedModel | PeftModel, processor, pictures: Sequence[Image.Image], prompt: str | None, **settings
) -> list[str]:
    """Caption pictures as `hfcap caption` does, to compare with what stock transformers say of them elsewhere.

    One by one, as the other process does it: a batch rounds otherwise.
    """
    said = []
    for picture in pictures:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(snapshot.SEED)  # where the settings ask for samples
            said += caption_rows(model, processor, [{"image": picture}], prompt, batch_size=1, **settings)
    return said


def _captions_as_shipped(model, processor, pictures: Sequence[Image.Image], prompt: str | None) -> list[str]:
    if model.dtype == torch.float32:
        return captions_here(model, processor, pictures, prompt)
    # Here beams are columns of one row (`hfcap.generation.decoding`), which in a narrower dtype rounds otherwise than
    # rows of their own: then the code that people run is compared with itself, in another process.
    return snapshot.captions(usage_code(model.config.model_type, prompt), model, processor, list(pictures))


def reload_in_clean_process(
    folder: str | os.PathLike,
    pictures: Sequence[Image.Image],
    usage: str,
    *,
    with_hfcap: bool = False,
    remote_code: bool = False,
    with_torchvision: bool = False,
    base: str | None = None,
    revision: str | None = None,
) -> dict[str, Any]:
    """Load an export in a new process through the Auto classes alone, offline, and describe what is there.

    Args:
        folder: the export.
        pictures: captioned there, RGB.
        usage: Python that captions one of them, of `hfcap.hub.usage`.
        with_hfcap: whether that process may import hfcap; otherwise any attempt fails.
        remote_code: whether it runs the code in the folder. That code was copied there by this process.
        with_torchvision: whether the processor works with torchvision only; the others read pictures with Pillow.
        base: folder or Hub id of the base of an adapter; None for whole models.
        revision: of the base.

    Returns:
        The answer of `hfcap.hub.snapshot`: its `describe_*`, `captions`, and the keys that did not fit.

    Raises:
        VerificationError: the other process could not load the export, or not caption with it.
    """
    with TemporaryDirectory(prefix="hfcap-verify-") as scratch:
        paths = [Path(scratch, f"{index}.png") for index in range(len(pictures))]
        for picture, path in zip(pictures, paths, strict=True):
            picture.save(path)
        request = {
            "folder": str(Path(folder).resolve()),
            "base": base if base is None or not Path(base).exists() else str(Path(base).resolve()),
            "revision": revision,
            "with_hfcap": with_hfcap,
            "remote_code": remote_code,
            "with_pillow": not with_torchvision,
            "pictures": [str(path) for path in paths],
            "usage": usage,
            "num_threads": torch.get_num_threads(),
            "answer": str(Path(scratch, "answer.json")),
        }
        request_file = Path(scratch, "request.json")
        request_file.write_text(json.dumps(request), encoding="utf-8")
        # Modules of remote code go to the scratch folder: a copy of an earlier export must not stand in for this one.
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(Path(scratch, "modules"))}
        done = subprocess.run(
            # -P: hfcap/hub would otherwise stand first on the path, and its modules before those of that name.
            [sys.executable, "-P", snapshot.__file__, str(request_file)],
            env=environment,
            cwd=scratch,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise VerificationError(f"it does not load in a clean process: {reason}", option="export")
        return json.loads(Path(request["answer"]).read_text(encoding="utf-8"))


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Say how what was loaded differs from what was expected, a line each; empty where it does not.

    Args:
        expected: of `expect`.
        found: of `reload_in_clean_process`.
    """
    problems = [
        f"{len(found[kind])} {kind.replace('_', ' ')} when loading: {_some(found[kind])}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if found.get(kind)
    ]
    problems += _different_weights(expected["weights"], found["weights"])
    problems += _different_ties(expected["ties"], found["ties"])
    for part in ("class", "chat_template", "caption_prompt"):
        if expected[part] != found[part]:
            was, is_ = _short(expected[part]), _short(found[part])
            problems.append(f"{part.replace('_', ' ')}: expected {was}, found {is_}")
    for part in SETTINGS:
        problems += _different_settings(part.replace("_", " "), expected[part], found[part])
    for kind, words in (("captions", "greedy caption"), ("captions_as_shipped", "caption by the shipped settings")):
        if kind in expected:
            problems += _different_captions(words, expected[kind], found[kind])
    return problems


def _different_captions(words: str, expected: Sequence[str], found: Sequence[str]) -> list[str]:
    return [
        f"{words} of picture {number}: before {before!r}, after {after!r}"
        for number, (before, after) in enumerate(zip(expected, found, strict=True), 1)
        if before != after
    ]


def _different_weights(expected: Mapping[str, list], found: Mapping[str, list]) -> list[str]:
    problems = []
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing:
        problems.append(f"{counted(len(missing), 'tensor')} missing: {_some(missing)}")
    if extra:
        problems.append(f"{counted(len(extra), 'tensor')} too many: {_some(extra)}")
    for name in sorted(set(expected) & set(found)):
        (shape, dtype, digest), (found_shape, found_dtype, found_digest) = expected[name], found[name]
        if (shape, dtype) != (found_shape, found_dtype):
            problems.append(f"{name}: expected {shape} {dtype}, found {found_shape} {found_dtype}")
        elif digest != found_digest:
            problems.append(f"{name}: other values than before")
    return problems


def _different_ties(expected: list[list[str]], found: list[list[str]]) -> list[str]:
    problems = [f"no longer tied: {' and '.join(names)}" for names in expected if names not in found]
    return problems + [f"tied, and were not before: {' and '.join(names)}" for names in found if names not in expected]


def _different_settings(part: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    return [
        f"{part}: {name} was {_short(expected.get(name))}, is {_short(found.get(name))}"
        for name in sorted(set(expected) | set(found))
        if expected.get(name) != found.get(name)
    ]


def cider_change(
    before: Sequence[str], after: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "ptb"
) -> tuple[float, float, str | None]:
    """Compare captions before and after a change of dtype by CIDEr against the same references.

    Returns:
        CIDEr (raw) before and after, and what is wrong, or None: it fell by more than 5 % of what it was and by more
        than 0.02.
    """
    old, new = (
        compute_metrics(list(c), list(references), ("cider",), tokenizer=tokenizer)["cider"] for c in (before, after)
    )
    bound = max(CIDER_PART * old, CIDER_POINTS)
    problem = None
    if new < old - bound:
        problem = (
            f"CIDEr x 100 on {counted(len(references), 'picture')} fell from {100 * old:.1f} to {100 * new:.1f}, "
            f"more than the {100 * bound:.1f} allowed: keep the original dtype"
        )
    return old, new, problem


def check_files(folder: str | os.PathLike) -> list[str]:
    """Say which files of an export may not be shipped, and whether an adapter lies beside whole weights."""
    files = sorted(path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file())
    problems = [
        f"{file} is no safetensors, settings, text or code file" for file in files if file.suffix not in SHIPPED
    ]
    if Path(folder, "adapter_config.json").exists() and Path(folder, "config.json").exists():
        problems.append("adapter_config.json beside config.json: the adapter would be applied a second time, silently")
    return problems


def refuse(problems: Sequence[str]) -> None:
    """Raise a `VerificationError` where there are problems."""
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise VerificationError(f"verification failed: {'; '.join(problems[:SHOWN])}{more}", option="export")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
