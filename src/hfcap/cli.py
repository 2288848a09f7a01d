"""hfcap: caption images, evaluate models, score captions, check data, export and publish models.

Heavy libraries are imported by the commands that need them, so that `hfcap score` starts at once.
"""

import hfcap.process_setup  # noqa: F401  (before torch)

# isort: split

import argparse
import sys
from collections.abc import Sequence

from hfcap import __version__
from hfcap.alt_cli import add_alt_commands
from hfcap.cli_options import (
    add_data_options,
    add_model_options,
    add_row_options,
    caption_length,
    check_needs,
    check_row_options,
    positive,
)
from hfcap.data_cli import add_data_commands
from hfcap.demo_cli import add_demo_command
from hfcap.errors import ConfigError, run_main
from hfcap.hub_cli import add_hub_commands
from hfcap.moderate_cli import add_moderate_commands
from hfcap.score_cli import add_score_command
from hfcap.suggest_cli import add_suggest_command
from hfcap.train_cli import add_train_command


def caption(args: argparse.Namespace) -> None:
    """Write one caption for each photo, or each picture of a data source, to the terminal or to a file."""
    from hfcap.applications.describe import check_options, describe_photos
    from hfcap.generation.photos import caption_photos

    check_options(args)
    if bool(args.pictures) == (args.data is not None):
        raise ConfigError(
            "both are given" if args.pictures else "neither is given",
            option="PHOTO or --data",
            wanted="one of the two",
        )
    if args.data is None:
        check_needs(args, {"split": "data"})
        check_row_options(args)
        (describe_photos if args.describe else caption_photos)(args)
        return
    given = [f"--{name}" for name in ("describe", "keep_both") if getattr(args, name)]
    if given:
        raise ConfigError("it is for photos", option=given[0], fix="remove it or --data")
    check_row_options(args)
    args.split = args.split or "train"
    from hfcap.ondevice.folder import refuse_onnx

    refuse_onnx(args.model)  # before the extra `train` is asked for, which would not help
    from hfcap.generation.caption_data import caption_data

    caption_data(args)


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate a model on a split of a data set."""
    words = args.words
    of_files = [word for word in words if word.split("=")[0] in ("--predictions", "--compare", "--references")]
    if of_files:
        raise ConfigError(
            "this command evaluates a model",
            option=of_files[0].split("=")[0],
            fix="to score a file of captions, run hfcap score FILE --references SOURCE",
        )
    from hfcap.model_evaluation import main as evaluate_model

    is_named = bool(words) and not words[0].startswith("-")
    evaluate_model(["--model", *words] if is_named else words, prog="hfcap evaluate")


def add_caption_command(commands: argparse._SubParsersAction) -> None:
    """Add `hfcap caption`."""
    command = commands.add_parser("caption", help="caption photos, folders of photos, or a data source")
    command.add_argument("pictures", nargs="*", metavar="PHOTO", help="files, or folders of pictures")
    add_data_options(command)
    add_model_options(command)
    command.add_argument(
        "--load_in_4bit", "--load-in-4bit", action="store_true", help="load the language model (of an adapter) in NF4"
    )
    command.add_argument(
        "--num_beams", "--num-beams", type=positive, help="beams of beam search (default: the model's own setting)"
    )
    command.add_argument(
        "--max_new_tokens",
        "--max-new-tokens",
        type=positive,
        help="longest caption, in tokens (default: the model's own setting)",
    )
    command.add_argument(
        "--length",
        type=caption_length,
        help="number of words per caption, one more or less (words between spaces; 1 to 29)",
    )
    add_row_options(command, "print JSON lines {image_id, path, caption} instead of a table")
    command.add_argument(
        "--describe",
        action="store_true",
        help="print plain sentences for people who cannot see the photo",
    )
    command.add_argument(
        "--people",
        choices=("neutral", "as_seen"),
        help="with --describe: neutral words for people (default), or the model's own",
    )
    command.add_argument(
        "--ocr", action="store_true", help='with --describe: quote text in photos; needs pip install "hfcap[ocr]"'
    )
    command.set_defaults(run=caption)


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(prog="hfcap", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"hfcap {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    add_caption_command(commands)
    # Its options are the fields of dataclasses, which `parse_arguments` reads: here every word is only a word.
    command = commands.add_parser(
        "evaluate", help="caption a data set with a model and score the captions", add_help=False, prefix_chars="\0"
    )
    command.add_argument("words", nargs="*")
    command.set_defaults(run=evaluate)
    add_suggest_command(commands)
    add_alt_commands(commands)
    add_moderate_commands(commands)
    add_demo_command(commands)
    add_train_command(commands)
    add_score_command(commands)
    add_data_commands(commands)
    add_hub_commands(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command."""

    def run() -> None:  # the parser as well, because its help may hold what the terminal's encoding lacks
        args = make_parser().parse_args(sys.argv[1:] if argv is None else argv)
        args.run(args)

    run_main(run)


if __name__ == "__main__":
    main()
