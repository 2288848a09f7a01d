"""`hfcap export`: a run as a folder for the Hub, verified in a clean process."""

import copy
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub.errors import HTTPError
from peft import PeftModel
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from hfcap import provenance, runs
from hfcap.atomic_files import write_json
from hfcap.checkpoint_files import check_checkpoint
from hfcap.content_hashes import captioner_hashes
from hfcap.counts import counted
from hfcap.errors import ConfigError, VerificationError
from hfcap.generation.inputs import caption_prompt
from hfcap.generation.loading import captioner_type, load_processor
from hfcap.hub import remote_code, verify
from hfcap.hub.adapters import (
    ADAPTER_CONFIG,
    Base,
    hub_weight_hashes,
    recorded_base,
    save_adapter,
    shipped_base,
    weight_hashes,
)
from hfcap.hub.formats import choose_format, to_stock
from hfcap.hub.older_versions import complete_tokenizer, save_model, save_processor
from hfcap.hub.onnx_export import OnnxOptions, write_onnx
from hfcap.hub.safetensors_format import SafetensorsFormat
from hfcap.hub.snapshot import GREEDY
from hfcap.hub.usage import usage_code
from hfcap.hub.verification_images import NUM_COMPARED, NUM_JUDGED, pictures_of_run
from hfcap.models.finite import non_finite_weights, refuse_non_finite
from hfcap.models.model_types import OWN_TRANSFORMERS, oldest_transformers, spec_of
from hfcap.models.pretrained import POOLER, load_whole
from hfcap.ondevice.folder import refuse_onnx
from hfcap.training.merge import check_merge, load_base, merge_adapter, read_adapter

FORMATS = ("auto", "native", "hfcap", "remote-code", "onnx")
DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
VERIFICATION = "verification.json"
MAX_SHARD_SIZE = "5GB"


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        run: folder of the run's records; the folder given where there are none.
        weights: folder or Hub id of whole weights; None for an adapter that has not been merged.
        adapter: folder of the adapter, or of the one that the weights were merged from, or None.
    """

    run: Path
    weights: str | None
    adapter: Path | None


def find_source(name: str | os.PathLike) -> Source:
    """Find what `hfcap export NAME` means: as everywhere, a run is its `merged/`, else its `model/`.

    An adapter is meant where its own folder is named, or where the run has nothing else.

    Raises:
        ConfigError: no weights there.
    """
    folder = Path(name)
    run = next((place for place in (folder, folder.parent) if (place / runs.RUN_JSON).is_file()), folder)
    places = (folder, run / runs.ADAPTER, run / runs.MODEL)
    adapter = next((place for place in places if (place / ADAPTER_CONFIG).is_file()), None)
    try:
        found = runs.resolve_model(name)
    except ConfigError:
        if adapter is None:
            raise
        return Source(run, None, adapter)
    if found.artifact == runs.ADAPTER:
        return Source(run, None, adapter)
    is_merged = Path(found.path).name == runs.MERGED
    return Source(run, found.path, adapter if is_merged else None)


def export_run(
    run: str | os.PathLike,
    to: str | os.PathLike,
    format: str = "auto",
    *,
    merge: bool = False,
    dtype: str | None = None,
    base_model: str | None = None,
    pictures: Sequence[Path] = (),
    onnx: OnnxOptions | None = None,
) -> Path:
    """Write a run's captioner to a new folder, load it in a clean process, and compare.

    The folder appears only if all is as it was: until then it is written elsewhere. It holds what `from_pretrained`
    reads and `verification.json`, and no training state.

    Args:
        run: run folder, model or adapter folder, or Hub id; see `find_source`.
        to: the folder to make.
        format: "auto" takes the most native form that expresses the captioner; see `hfcap.hub.formats`. "onnx" writes
            graphs for onnxruntime and transformers.js; see `hfcap.hub.onnx_export`.
        merge: ship adapter and base as one model. The merge is onto the base in its original precision.
        dtype: name of the dtype to ship the weights in, by default that of the run.
        base_model: FOLDER or OWNER/NAME[@REVISION]: what an adapter names as its base, or is merged with.
        pictures: files to caption instead of the run's evaluation data.
        onnx: options of the format "onnx".

    Returns:
        The folder.

    Raises:
        ConfigError: what was asked for cannot be done; the message says what can.
        VerificationError: the export, or a merge, is not what it should be. No folder is left.
    """
    if format not in FORMATS:
        raise ConfigError(option="--format", got=format, wanted=f"one of {', '.join(FORMATS)}")
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(option="--dtype", got=dtype, wanted=f"one of {', '.join(DTYPES)}")
    source, base = find_source(run), Base.parse(base_model) if base_model else None
    if merge and source.adapter is None:
        raise ConfigError(f"{run} holds no adapter", option="--merge", fix="remove it")
    is_adapter = source.weights is None and not merge
    if is_adapter and (format != "auto" or dtype is not None):
        raise ConfigError(
            "an adapter is exported as it is", option="--format and --dtype", fix="remove them, or add --merge"
        )
    if (onnx is not None) != (format == "onnx"):
        onnx = _onnx_options(format, onnx)
    if onnx is not None and dtype is not None:
        raise ConfigError(
            "ONNX graphs compute in float32", option="--dtype", got=dtype, fix="pass --quantize float16 or int8"
        )
    with new_folder(Path(to)) as folder:
        if is_adapter:
            record = _write_adapter(folder, source, base, pictures)
        elif onnx is not None:
            record = _write_onnx(folder, source, base, onnx, pictures)
        else:
            record = _write_model(folder, source, base, format, dtype, pictures)
        weights = source.weights or (
            source.adapter if is_adapter else None
        )  # a merge that is made here was not judged
        record |= captioner_hashes(weights) if weights else {"weights_hash": None, "settings_hash": None}
        write_json(folder / VERIFICATION, record)
    print(f"Verified in a clean process: {_summary(record)}")
    return Path(to)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` if all goes well, and vanishes otherwise."""
    if target.exists():
        raise ConfigError(
            "this folder exists already", option="--to", got=str(target), fix="remove it, or pass another"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_model(
    folder: Path, source: Source, base: Base | None, format: str, dtype: str | None, pictures: Sequence[Path]
) -> dict[str, Any]:
    model, processor = _load_model(source, base)
    _forget_places(model.config)
    refuse_non_finite(non_finite_weights(model), str(source.weights or source.run))
    format, reason = choose_format(model, format)
    print(f"Format: {format} ({reason})")
    changes_dtype = dtype is not None and DTYPES[dtype] != model.dtype
    rows, whence = pictures_of_run(source.run, pictures, NUM_JUDGED if changes_dtype else NUM_COMPARED)
    images, prompt = [row["image"] for row in rows], caption_prompt(processor)
    if changes_dtype:
        _need_references(rows, whence)
        before, dtype_before = verify.captions_here(model, processor, images, prompt, **GREEDY), model.dtype
        model.to(DTYPES[dtype])
        # float16 ends at 65,504.
        refuse_non_finite(non_finite_weights(model), f"{source.weights or source.run} in {dtype}")
    written = SafetensorsFormat(format, model, processor, prompt, MAX_SHARD_SIZE)
    expected = written.expect(images, captions=not changes_dtype)
    written.write(folder)
    found = written.load(folder, images)
    problems = verify.check_files(folder) + written.compare(expected, found)
    captions: dict[str, Any] = {"compared": len(images), "of": whence}
    if changes_dtype:
        old, new, problem = verify.cider_change(
            before, found["captions"], [row["captions"] for row in rows], runs.metrics_tokenizer(source.run)
        )
        problems += [problem] if problem else []
        captions |= {"cider_before": old, "cider_after": new}
        captions |= {"dtype_before": str(dtype_before).removeprefix("torch."), "dtype_after": dtype}
    verify.refuse(problems)
    artifact = runs.MERGED if source.adapter else runs.MODEL
    oldest = oldest_transformers(written.shipped.config)
    print(f"Loads with transformers {oldest} or newer.")
    return _record(format, reason, artifact, found, captions) | {"oldest_transformers": oldest}


def _onnx_options(format: str, given: OnnxOptions | None) -> OnnxOptions:
    """The defaults for ONNX. Raises ConfigError where options are given for another format."""
    if given is not None:
        raise ConfigError(
            f"only ONNX graphs are quantized, and --format is {format}",
            option="--quantize, --opset and --data",
            fix="remove them, or add --format onnx",
        )
    return OnnxOptions()


def _write_onnx(
    folder: Path, source: Source, base: Base | None, options: OnnxOptions, pictures: Sequence[Path]
) -> dict[str, Any]:
    model, processor = _load_model(source, base)
    refuse_non_finite(non_finite_weights(model), str(source.weights or source.run))
    artifact = runs.MERGED if source.adapter else runs.MODEL
    record = {"schema_version": 1, "format": "onnx", "reason": "as asked for", "artifact": artifact}
    record |= write_onnx(folder, model, processor, source.run, options, pictures)
    return record | {"versions": provenance.library_versions(), "oldest_transformers": None}


def _load_model(source: Source, base: Base | None) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load whole weights, or merge them, and check a merge that was made before."""
    if source.adapter is None:
        return _load_as_saved(source.weights)
    base = base or recorded_base(source.adapter)
    if source.weights is None:
        print(f"Merging onto {base.name} in its original precision (after QLoRA another model: evaluate it).")
        model = merge_adapter(base.name, source.adapter, revision=base.revision)
        return model, _load_processor(str(source.adapter), model)
    model, processor = _load_as_saved(source.weights)
    check_merge(load_base(base.name, base.revision).state_dict(), model.state_dict(), read_adapter(source.adapter))
    print(f"Merge: {source.weights} is {base.name} with {source.adapter}, tensor by tensor.")
    return model, processor


def _load_as_saved(weights: str) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Model in its own dtype and with its own settings, both untouched, and processor."""
    refuse_onnx(weights)
    check_checkpoint(weights)
    captioner_type(weights)
    model = load_whole(AutoModelForImageTextToText, "model", weights, may_lack=POOLER, dtype="auto").eval()
    return model, _load_processor(weights, model)


def _load_processor(source: str, model: PreTrainedModel) -> ProcessorMixin:
    """Load the processor of `model`, ready to be shipped."""
    processor = load_processor(source, spec_of(model.config))
    if isinstance(processor.tokenizer, PreTrainedTokenizerFast):
        complete_tokenizer(processor.tokenizer)
    return processor


def _forget_places(config: PreTrainedConfig) -> None:
    """Clear the names of the folders that a captioner's parts were loaded from: `save_pretrained` writes them."""
    for part in (config, *vars(config).values()):
        if isinstance(part, PreTrainedConfig):
            part.name_or_path = ""


def _need_references(rows: list[dict[str, Any]], whence: str) -> None:
    if not all(row["captions"] for row in rows):
        raise ConfigError(
            f"whether captions get worse is measured by CIDEr, and {whence} have no references",
            option="--dtype",
            fix="export where the run's evaluation data is available, or pass --pictures named by the image ids of "
            "its captions.jsonl",
        )


def _write_adapter(folder: Path, source: Source, given: Base | None, pictures: Sequence[Path]) -> dict[str, Any]:
    recorded = recorded_base(source.adapter)
    shipped = shipped_base(recorded, given)
    base = recorded if recorded.is_local or given is None else given
    read_adapter(source.adapter)
    model = load_base(base.name, base.revision)
    processor = _load_processor(str(source.adapter), model)
    if recorded.is_local:
        print(_compare_base(model, processor, recorded, shipped))
    model = PeftModel.from_pretrained(model, str(source.adapter)).eval()
    rows, whence = pictures_of_run(source.run, pictures)
    images, prompt = [row["image"] for row in rows], caption_prompt(processor)
    expected = verify.expect(model, processor, images, prompt)

    save_adapter(source.adapter, shipped, folder)
    save_processor(processor, folder)

    found = verify.reload_in_clean_process(
        folder,
        images,
        usage_code(model.config.model_type, prompt),
        with_hfcap=model.config.model_type in remote_code.AUTO_MAP,
        with_torchvision=spec_of(model.config).needs_torchvision,
        base=base.name,
        revision=base.revision,
    )
    verify.refuse(verify.check_files(folder) + verify.differences(expected, found))
    reason = f"for {shipped.name} at {shipped.revision}"
    print(f"Adapter {reason}, compared on {base.name}")
    record = _record("adapter", reason, runs.ADAPTER, found, {"compared": len(images), "of": whence})
    return record | {"oldest_transformers": OWN_TRANSFORMERS}  # how its base is stored is not known


def _compare_base(model: PreTrainedModel, processor: ProcessorMixin, trained: Base, shipped: Base) -> str:
    """Compare the base that was trained on, a folder, with its copy on the Hub by SHA-256; say what was seen.

    Raises:
        VerificationError: the files have the same names and other contents.
    """
    try:
        there = hub_weight_hashes(shipped)
    except (HTTPError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"Warning: the base was not compared with {shipped.name} ({reason})."
    own = weight_hashes(trained.name)
    forms = [own] if there == own else [own, *_hashes_as_exported(model, processor)]
    if there in forms:
        return f"Base: the weights of {shipped.name} are those of {trained.name}, by SHA-256."
    here = next((hashes for hashes in forms if hashes.keys() == there.keys()), None)
    if here is None:
        return (
            f"Warning: the base was not compared with {shipped.name}, whose weights lie in other files "
            f"({', '.join(there) or 'none is safetensors'}; here {', '.join(own)})."
        )
    name = next(name for name in here if here[name] != there[name])
    raise VerificationError(
        f"the adapter was trained on another base: {name} is {there[name][:12]} there and {here[name][:12]} in "
        f"{trained.name} (SHA-256)",
        option="base of the adapter",
        got=f"{shipped.name}@{shipped.revision}",
        fix="push the base it was trained on and pass that, or ship base and adapter as one model with --merge",
    )


def _hashes_as_exported(model: PreTrainedModel, processor: ProcessorMixin) -> list[dict[str, str]]:
    """SHA-256 of the files that `hfcap push` writes of a model, and wrote when it gave tensors their newest names."""
    if choose_format(model)[0] == "native":
        model, _ = to_stock(model, copy.deepcopy(processor))
    forms = []
    for save in (save_model, lambda model, folder, size: model.save_pretrained(folder, max_shard_size=size)):
        with TemporaryDirectory(prefix="hfcap-base-") as scratch:
            save(model, Path(scratch), MAX_SHARD_SIZE)
            forms.append(weight_hashes(scratch))
    return forms


def _record(
    format: str, reason: str, artifact: str, found: dict[str, Any], captions: dict[str, Any]
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "format": format,
        "reason": reason,
        "artifact": artifact,
        "class": found["class"],
        "model_type": found["config"]["model_type"],
        "num_tensors": len(found["weights"]),
        "dtypes": sorted({dtype for _, dtype, _ in found["weights"].values()}),
        "tied": found["ties"],
        "captions": captions,
        "versions": provenance.library_versions(),
    }


def _summary(record: dict[str, Any]) -> str:
    captions = record["captions"]
    if record["format"] == "onnx":
        return (
            f"{record['model_type']} as ONNX ({', '.join(record['dtypes'])}); in float32 pixels and tokens of "
            f"{counted(captions['compared'], 'caption')} equal, greedy and by the shipped settings, "
            f"at batch size 1 and 3 ({captions['of']})."
        )
    judged = f"{counted(captions['compared'], 'caption')} equal, greedy and by the shipped settings"
    if "cider_before" in captions:
        old, new = 100 * captions["cider_before"], 100 * captions["cider_after"]
        judged = f"CIDEr x 100 {old:.1f} before, {new:.1f} after"
    return f"{record['class']}, {record['num_tensors']} tensors and all settings equal, {judged} ({captions['of']})."
