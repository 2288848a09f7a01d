"""Start of a run: lock, settings, data and weights of the run folder."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields, replace
from pathlib import Path
from shlex import quote
from typing import Any

import datasets
from accelerate import PartialState
from datasets import Image
from filelock import FileLock, Timeout

from hfcap import provenance, runs
from hfcap.atomic_files import write_json
from hfcap.counts import counted
from hfcap.data.caption_stream import FIRST_OF_STREAM, readers_of_stream
from hfcap.data.picture_checks import content_hashes
from hfcap.data.rows import PAIRED
from hfcap.errors import ConfigError, as_config_error
from hfcap.metrics import display_name, for_people, headline
from hfcap.origins import ORIGINS
from hfcap.processes import main_process_decides
from hfcap.training.arguments import RunArguments
from hfcap.training.checkpoints import last_complete_checkpoint, remove_incomplete_checkpoints
from hfcap.training.data_arguments import DataArguments
from hfcap.training.engine import checkpoint_engine, current_backend
from hfcap.training.run_origins import changed_origins, hashed_origins
from hfcap.training.run_rows import load_splits

logger = logging.getLogger(__name__)

LOCK = ".lock"
# Loader processes hold the lock of a run that was killed until they notice, which takes them up to five seconds.
LOCK_PATIENCE = 6.0  # seconds
Rows = tuple[datasets.Dataset | datasets.IterableDataset, datasets.Dataset]

# Settings that may differ between a run and its continuation: where it and its feature cache lie, what it shows, how
# it is watched, how an optimizer step is divided over processes and micro-batches (the images in a step are compared
# instead), and kernels.
NOT_COMPARED = {
    "output_dir",
    "cache_dir",
    "dry_run",
    "meta",
    "logging_steps",
    "logging_first_step",
    "report_to",
    "disable_tqdm",
    "run_name",
    "hub_model_id",
    "hub_private_repo",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "per_device_eval_batch_size",
    "dataloader_num_workers",
    "dataloader_prefetch_factor",
    "dataloader_persistent_workers",
    "dataloader_pin_memory",
    "ddp_find_unused_parameters",
    "restore_callback_states_from_checkpoint",
    "attn_implementation",
    "compile_layers",
    "pad_to_multiple_of",
}


@contextmanager
def run_lock(args: RunArguments) -> Iterator[None]:
    """Within this context no other process trains in the run folder `args.output_dir`; the main process has the lock.

    The lock of a process that died is free. A finished run needs none (several runs may start from it), and a dry run
    writes nothing. A run that is refused before it has done anything leaves no folder: the command with a setting put
    right would be refused in it as another run.

    Raises:
        ConfigError: another process has the lock.
    """
    folder = Path(args.output_dir)
    if getattr(args, "dry_run", False):
        yield
        return
    lock = FileLock(folder / LOCK)
    is_new = not (folder / runs.RUN_JSON).exists()
    main_process_decides(lambda: None if is_finished(folder) else _acquire(lock, folder))
    try:
        yield
    except ConfigError:
        if lock.is_locked and is_new:
            _remove_start(folder)
        raise
    finally:
        if lock.is_locked and [path.name for path in folder.glob("*")] in ([], [LOCK]):  # the run was refused
            (folder / LOCK).unlink()
            folder.rmdir()
        lock.release()


def _remove_start(folder: Path) -> None:
    """Remove what a run writes before it trains, unless there is more in its folder."""
    if {path.name for path in folder.glob("*")} - {LOCK, runs.RUN_JSON, runs.CHECKPOINTS}:
        return
    checkpoints = folder / runs.CHECKPOINTS
    if checkpoints.is_dir():
        if any(checkpoints.iterdir()):
            return
        checkpoints.rmdir()
    (folder / runs.RUN_JSON).unlink(missing_ok=True)


def _acquire(lock: FileLock, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=LOCK_PATIENCE)
    except Timeout:
        raise ConfigError(
            "another process is training there",
            option="output_dir",
            got=str(folder),
            fix="wait until it ends, or pass another --output_dir",
        ) from None


def is_finished(folder: Path) -> bool:
    """Whether a run folder has all that its recipe leaves: figures, report and card, or an encoder with its scores."""
    if all((folder / name).exists() for name in (runs.METRICS_JSON, runs.REPORT_HTML, runs.CARD_README)):
        return True
    # The scores are written last.
    has_weights = (folder / runs.MODEL / "model.safetensors").exists() and (folder / runs.RUN_JSON).exists()
    return has_weights and "scores" in runs.read_run(folder / runs.RUN_JSON)


def start_run(folder: Path, arguments: tuple) -> tuple[Rows, bool]:
    """Read the rows of a run, after a look at its folder: start it, or resume (see `begin_or_resume`).

    A dry run reads the rows alone. Of a finished run no picture is decoded, unless bad ones are to be skipped and the
    picture cache has been lost.

    Args:
        folder: the run folder.
        arguments: the parsed dataclasses, `DataArguments` first and `RunArguments` last.

    Returns:
        Rows of the training and the evaluation split, and whether the run is finished.

    Raises:
        ConfigError: see `load_splits` and `begin_or_resume`; other settings are found before any data are read.
    """
    if getattr(arguments[-1], "dry_run", False):
        return load_splits(arguments[0], Path(arguments[-1].output_dir)), False  # a folder that goes with the dry run
    finished = main_process_decides(lambda: _check_settings(folder, arguments))
    data_args = arguments[0]
    if finished and data_args.on_bad_image == "error":
        # Every picture was decoded when the run began; content hashes tell whether they are still the same.
        data_args = replace(data_args, on_bad_image="keep")
    rows = _load_in_turns(data_args, folder)
    return rows, begin_or_resume(folder, arguments, rows)


def _load_in_turns(args: DataArguments, folder: Path) -> Rows:
    """Load the splits, in the main process first: the others find in the cache what it has read of the pictures."""
    if PartialState().num_processes == 1 or args.streaming or args.data == "scenes":  # these use no cache
        return load_splits(args, folder)
    loaded: list[Rows] = []
    main_process_decides(lambda: loaded.append(load_splits(args, folder)))
    return loaded[0] if loaded else load_splits(args, folder)


def begin_or_resume(folder: Path, arguments: tuple, rows: Rows) -> bool:
    """Start a run folder by writing `run.json`, or go on with the one that is there.

    With several processes the main one looks and writes, and all go by what it found.

    Args:
        folder: the run folder.
        arguments: the parsed dataclasses, `RunArguments` last.
        rows: training and evaluation split.

    Returns:
        Whether the run is finished: its figures are then printed, and there is nothing to do.

    Raises:
        ConfigError: the folder holds a run with other settings, other data, or other weights, code of rewards or lists
            of synonyms (`hfcap.training.run_origins`), or of another engine.
    """
    return main_process_decides(lambda: _begin_or_resume(folder, arguments, rows))


def _begin_or_resume(folder: Path, arguments: tuple, rows: Rows) -> bool:
    settings = _settings(arguments) | {"stream_readers": stream_readers(rows[0], arguments[-1])}
    data = {name: _fingerprint(split) for name, split in zip(("train", "eval"), rows, strict=True)}
    seeds = {"seed": settings["seed"], "data_seed": settings["data_seed"]}
    origins = hashed_origins(settings)
    record = provenance.run_record(settings, seeds=seeds, data=data, **{ORIGINS: origins})
    path = folder / runs.RUN_JSON
    if not path.exists():
        write_json(path, record)
        logger.info("%s: a new run", folder)
        return False
    earlier = runs.read_run(path)
    finished = is_finished(folder)
    if finished:  # nothing is read any more
        record["arguments"].pop("stream_readers", None)
    changed = _changed_settings(earlier, record["arguments"], arguments) + _changed_data(earlier, record)
    changed += changed_origins(earlier.get(ORIGINS, {}), origins, finished)
    _refuse(folder, changed)
    if finished:
        if (folder / runs.REPORT_HTML).exists():
            print_finished(folder)
        return True
    if origins.keys() - earlier.get(ORIGINS, {}).keys():  # an earlier hfcap began it
        write_json(path, earlier | {ORIGINS: origins | earlier.get(ORIGINS, {})})
    remove_incomplete_checkpoints(folder / runs.CHECKPOINTS)
    checkpoint = last_complete_checkpoint(folder / runs.CHECKPOINTS)
    logger.info("%s: going on from %s", folder, "the start" if checkpoint is None else Path(checkpoint).name)
    return False


def keep_part_hashes(folder: Path, arguments: tuple) -> None:
    """Record the weights of a part that was trained after `begin_or_resume`, or compare it with the one recorded.

    Raises:
        ConfigError: the run was begun with other weights.
    """

    def keep() -> None:
        record, origins = runs.read_run(folder / runs.RUN_JSON), hashed_origins(_settings(arguments))
        _refuse(folder, changed_origins(record[ORIGINS], origins, finished=False))
        write_json(folder / runs.RUN_JSON, record | {ORIGINS: origins})

    main_process_decides(keep)


def _check_settings(folder: Path, arguments: tuple) -> bool:
    """Refuse other settings than those of the run in the folder; return whether it is finished."""
    path = folder / runs.RUN_JSON
    if not path.exists():
        return False
    settings = provenance.without_secrets(provenance.to_json(_settings(arguments)))
    _refuse(folder, _changed_settings(runs.read_run(path), settings, arguments))
    return is_finished(folder)


def _settings(arguments: tuple) -> dict[str, Any]:
    args = arguments[-1]
    return {name: value for part in arguments for name, value in _plain(part).items()} | {
        "images_a_step": images_a_step(args),
        "engine": checkpoint_engine(current_backend(), args.world_size),
    }


def _changed_settings(earlier: Mapping[str, Any], settings: Mapping[str, Any], arguments: tuple) -> list[str]:
    # A setting that did not exist then was as it is by default now.
    before = _defaults(arguments) | earlier["arguments"]
    return [
        f"{name} was {before[name]!r}, is {value!r}"
        for name, value in settings.items()
        if name not in NOT_COMPARED and before.get(name, value) != value
    ]


def _changed_data(earlier: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    changed = []
    for name, now in record["data"].items():
        before = now | earlier["data"][name]  # earlier versions of hfcap did not record everything
        different = [key for key in now if before[key] != now[key]]
        if different == ["prompts_sha256"]:
            changed.append(f"the prompts of the {name} data changed")
        elif different:
            changed.append(f"the {name} data changed")
    return changed


def _refuse(folder: Path, changed: list[str]) -> None:
    if changed:
        raise ConfigError(
            f"this folder holds another run: {'; '.join(changed)}",
            option="output_dir",
            got=str(folder),
            fix="pass another --output_dir, or remove the folder",
        )


def _fingerprint(rows: datasets.Dataset | datasets.IterableDataset) -> dict[str, Any]:
    if isinstance(rows, datasets.IterableDataset):
        with as_config_error("data"):
            found = runs.data_fingerprint(rows.take(FIRST_OF_STREAM).cast_column("image", Image(decode=False)))
        if not found["num_images"]:
            raise ConfigError(
                f"no row of this split with a caption in {counted(rows.num_shards, 'shard')}", option="data"
            )
        return found
    names = [name for name in ("image_id", "captions", "prompt", *PAIRED) if name in rows.column_names]
    return runs.data_fingerprint(rows.select_columns(names), content_hashes(rows))


def images_a_step(args: RunArguments) -> int:
    """Images in an optimizer step: what batch size, accumulation and processes together must keep."""
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size


def stream_readers(rows: datasets.Dataset | datasets.IterableDataset, args: RunArguments) -> str | None:
    """Say what the order of a stream depends on besides the seed: who reads which shards, and in which turns.

    A run that went on with others would see some images twice and others not at all.
    """
    if not isinstance(rows, datasets.IterableDataset):
        return None
    world, shards = args.world_size, rows.num_shards
    readers = min(args.dataloader_num_workers, readers_of_stream(shards, args.dataloader_num_workers, world))
    turns = f", {args.per_device_train_batch_size} images in turn" if readers > 1 else ""
    processes = f", {world} processes" if world > 1 else ""
    return f"dataloader_num_workers={readers}{turns}{processes}" + (f", {shards} shards" if shards > 1 else "")


def print_finished(folder: Path) -> None:
    """Say what a finished run folder holds."""
    metrics = runs.read_metrics(folder / runs.METRICS_JSON)["metrics"]
    figures = ", ".join(
        f"{display_name(key)} {for_people(key, metrics[key]['value']):.1f}" for key in headline(metrics)
    )
    print(f"{folder} is done: {figures}; report: {folder / runs.REPORT_HTML}. Delete the folder to retrain.")


def _plain(arguments) -> dict:
    """Settings of a parsed dataclass, without what `TrainingArguments` derives from the machine."""
    return {f.name: getattr(arguments, f.name) for f in fields(arguments) if f.init}


def _defaults(arguments: tuple) -> dict:
    """What parsed dataclasses hold where a setting is not given."""
    return {f.name: f.default for part in arguments for f in fields(part) if f.init and f.default is not MISSING}


def print_next_command(folder: Path) -> None:
    """Say where everything is, and last how to caption a picture of one's own."""
    print(f"\nRun folder: {folder}  (report: {folder / runs.REPORT_HTML})")
    print(f"Caption your own picture:\nhfcap caption PHOTO.jpg --model {quote(str(folder))}")
