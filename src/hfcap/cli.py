"""The console script `hfcap`: caption pictures and evaluate captions from the command line.

Heavy libraries are imported by the commands that need them, so that `hfcap evaluate` on files starts at once.
"""

import argparse
import sys
from collections.abc import Sequence

from hfcap.alt_cli import add_alt_commands
from hfcap.data_cli import add_data_commands, add_source_options
from hfcap.errors import run_main
from hfcap.hub_cli import add_hub_commands


def caption(args: argparse.Namespace) -> None:
    """Write one caption for each photo, to the terminal or to a file."""
    from hfcap.generation.photos import caption_photos

    caption_photos(args)


def evaluate(args: argparse.Namespace) -> None:
    """Compare predictions with references, and write `metrics.json` and `report.html` where asked for."""
    from hfcap.file_evaluation import evaluate_files

    evaluate_files(args)


def positive(text: str) -> int:
    """Read a number of beams, tokens or photos, for `argparse`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; wanted a whole number, 1 or more")
    return int(text)


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(prog="hfcap", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("caption", help="caption photos or folders of photos")
    command.add_argument("pictures", nargs="+", metavar="PHOTO", help="files, or folders of pictures")
    command.add_argument("--model", required=True, help="run folder, model or adapter folder, or Hub id")
    command.add_argument(
        "--load_in_4bit", "--load-in-4bit", action="store_true", help="load the language model (of an adapter) in NF4"
    )
    command.add_argument("--prompt", help="instruction for models that take one (the one of the training by default)")
    command.add_argument(
        "--num_beams", "--num-beams", type=positive, help="beams (the model's own setting by default)"
    )
    command.add_argument(
        "--max_new_tokens",
        "--max-new-tokens",
        type=positive,
        help="longest caption (the model's own setting by default)",
    )
    command.add_argument("--batch_size", "--batch-size", type=positive, default=8, help="photos decoded together")
    command.add_argument("--json", action="store_true", help="JSON lines {image_id, path, caption}, no table")
    command.add_argument(
        "--output", metavar="FILE", help="write JSON lines to this file; run again, it captions what is missing"
    )
    command.add_argument(
        "--keep_both",
        "--keep-both",
        action="store_true",
        help="where --output has a caption of another picture with the same image id, keep both under different ids",
    )
    command.set_defaults(run=caption)

    command = commands.add_parser("evaluate", help="compare captions with references")
    captions = command.add_mutually_exclusive_group(required=True)
    captions.add_argument("--predictions", metavar="FILE", help="JSONL {image_id, caption} or COCO results JSON")
    captions.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two such files: B against A, image by image")
    command.add_argument(
        "--references",
        required=True,
        metavar="SOURCE",
        help="JSONL {image_id, captions} or {image_id, caption}, COCO or Karpathy JSON, or a data source (folder, "
        "'scenes', Hub id)",
    )
    command.add_argument(
        "--split",
        help="split of a Karpathy file or of JSONL with a `split` (all by default), or of a data source (validation)",
    )
    add_source_options(command)
    command.add_argument("--metrics", default="bleu,rouge_l,cider", help="of bleu, meteor, rouge_l, cider, cider_d")
    command.add_argument(
        "--tokenizer",
        choices=("ptb", "intl", "zh", "char"),
        default="ptb",
        help="what splits captions into words: ptb for English, as in COCO's figures (default); intl for any language "
        "with spaces between words; zh for Chinese; char, by characters, for Japanese, Thai and the like",
    )
    command.add_argument(
        "--idf", metavar="FILE", help="document frequencies for CIDEr (of these references by default)"
    )
    command.add_argument(
        "--save_idf", "--save-idf", metavar="FILE", help="keep the document frequencies of these references"
    )
    command.add_argument("--output", metavar="FILE", help="where to write metrics.json")
    command.add_argument("--report", metavar="FILE", help="where to write report.html")
    command.add_argument(
        "--images", metavar="FOLDER", help="pictures for the report, named by image id, or as the references name them"
    )
    command.add_argument(
        "--allow_missing",
        "--allow-missing",
        action="store_true",
        help="leave out images without a caption, and count them",
    )
    command.set_defaults(run=evaluate)
    add_alt_commands(commands)
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
