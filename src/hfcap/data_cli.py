"""Command-line interface of `hfcap data check`, `split` and `push`. Heavy libraries are imported late."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hfcap.cli_options import check_needs
from hfcap.counts import counted
from hfcap.errors import ConfigError, as_config_error
from hfcap.hub_cli import add_target_options, target_options


def add_data_commands(commands: argparse._SubParsersAction) -> None:
    """Add `data` and its commands to those of the console script."""
    data = commands.add_parser("data", help="check, split and publish captioned images")
    group = data.add_subparsers(dest="data_command", required=True)

    command = group.add_parser("check", help="summarise a data source and report its problems")
    _add_source(command)
    command.add_argument("--output", metavar="FOLDER", help="where to write check.json and check.html")
    command.add_argument("--processor", help="run folder, model folder or Hub id whose tokens are counted")
    command.add_argument(
        "--max_caption_tokens",
        "--max-caption-tokens",
        type=int,
        help="with --processor: report captions with more tokens than this (default: 64)",
    )
    command.set_defaults(run=check)

    command = group.add_parser("split", help="make seeded splits by image")
    _add_source(command)
    command.add_argument("--output", metavar="FOLDER", required=True, help="folder to write: pictures and JSONL files")
    command.add_argument(
        "--validation", type=float, default=0.1, help="share of the images in the validation split (default: 0.1)"
    )
    command.add_argument("--test", type=float, default=0.0, help="share of the images in the test split (default: 0)")
    command.add_argument("--seed", type=int, default=0, help="seed of the random split (default: 0)")
    command.add_argument("--on_bad_image", "--on-bad-image", choices=("error", "skip"), default="error")
    command.set_defaults(run=split)

    command = group.add_parser("push", help="publish captions and pictures on the Hub, as parquet with a card")
    _add_source(command)
    add_target_options(command)
    command.add_argument("--license", help="licence id, as the Hub spells it")
    command.add_argument("--language", help="language code of the captions (default: en, if they look like English)")
    command.add_argument("--on_bad_image", "--on-bad-image", choices=("error", "skip"), default="error")
    command.set_defaults(run=push)


def _add_source(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", help="folder, file or Hub id (see docs/data.md)")
    add_source_options(command)
    command.add_argument("--max_pixels", "--max-pixels", type=int, help="reject images with more pixels than this")


def add_source_options(command: argparse.ArgumentParser) -> None:
    """Add the options that say how a data source is read."""
    command.add_argument("--image_folder", "--image-folder", help="folder of the images that a caption file names")
    command.add_argument("--image_column", "--image-column", help="image column (detected by default)")
    command.add_argument("--captions_column", "--captions-column", help="caption column (detected by default)")


def check(args: argparse.Namespace) -> None:
    """Print the check; write `check.json` and `check.html` where asked for. Exit code 1 if there are errors."""
    from hfcap.atomic_files import write_json
    from hfcap.data.check import check_record, check_source, check_text
    from hfcap.data.check_page import write_check_page

    check_needs(args, {"max_caption_tokens": "processor"})
    max_caption_tokens = 64 if args.max_caption_tokens is None else args.max_caption_tokens
    of_processor = {} if args.processor is None else _of_processor(args.processor)
    with as_config_error():
        found = check_source(
            args.source,
            **_source_options(args),
            **of_processor,
            max_caption_tokens=max_caption_tokens,
        )
    print(check_text(found))
    if args.output is not None:
        folder = Path(args.output)
        write_json(folder / "check.json", check_record(found))
        print(f"\n{write_check_page(folder / 'check.html', found)}")
    if found.has_errors:
        sys.exit(1)


def split(args: argparse.Namespace) -> None:
    """Write the splits, or say that they are there."""
    from hfcap.data.split import split_source

    shares = {"train": 1 - args.validation - args.test, "validation": args.validation, "test": args.test}
    shares = {name: share for name, share in shares.items() if share != 0}
    options = _source_options(args) | {"on_bad_image": args.on_bad_image}
    there = " is there already" if Path(args.output).exists() else ""
    with as_config_error():
        counts = split_source(args.source, args.output, shares, args.seed, **options)
    shown = [f"{counted(count, 'image')} in {name}" for name, count in counts.items()]
    print(f"{args.output}{there}: {', '.join(shown)}")


def push(args: argparse.Namespace) -> None:
    """Publish all splits of a source in one commit."""
    from hfcap.data.sources import load_captions, split_names
    from hfcap.hub.data_push import push_dataset
    from hfcap.hub.push import Target

    target = Target(**target_options(args), repo_type="dataset")
    options = _source_options(args) | {"on_bad_image": args.on_bad_image}
    with as_config_error():
        names = split_names(args.source, **_source_options(args))
        splits = {name: load_captions(args.source, name, **options) for name in names}
    print(push_dataset(splits, target, args.license, args.language))


def _source_options(args: argparse.Namespace) -> dict[str, str | int]:
    options = {n: getattr(args, n) for n in ("image_folder", "image_column", "captions_column", "max_pixels")}
    return {name: value for name, value in options.items() if value is not None}


def _of_processor(model: str) -> dict[str, Any]:
    """Return options of `check_source`: how the collator counts tokens, EOS included, and which tokens are special."""
    from transformers import AutoProcessor

    import hfcap.models  # noqa: F401  (registers the Auto classes)
    from hfcap import runs
    from hfcap.checkpoint_files import check_settings
    from hfcap.plain_text import encode_captions, special_texts

    try:
        check_settings(model)
        alone = (Path(model) / "tokenizer_config.json").is_file()  # a processor may lie in a folder without weights
        processor = AutoProcessor.from_pretrained(model if alone else runs.resolve_model(model).path)
    except ConfigError as error:
        raise ConfigError(error.reason, option="--processor", got=model, wanted=error.wanted, fix=error.fix) from error
    except (OSError, ValueError) as error:
        raise ConfigError(str(error), option="--processor", got=model) from error

    def count_tokens(captions: Sequence[str]) -> list[int]:
        return [len(ids) + 1 for ids in encode_captions(processor, captions)]

    return {"count_tokens": count_tokens, "special": special_texts(processor)}
