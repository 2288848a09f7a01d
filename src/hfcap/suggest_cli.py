"""`hfcap suggest`: several captions for each photo, to choose from."""

import argparse


def add_suggest_command(commands: argparse._SubParsersAction) -> None:
    """Add `suggest` to the commands of the console script."""
    command = commands.add_parser("suggest", help="several captions for each photo, to choose from")
    command.add_argument("pictures", nargs="+", metavar="PHOTO", help="files, or folders of pictures")
    command.add_argument("--model", required=True, help="run folder, model or adapter folder, or Hub id")
    command.add_argument("-n", "--n", type=_positive, default=4, help="suggestions per photo (default: 4)")
    command.add_argument(
        "--length", choices=("short", "medium", "long"), help="up to 8 words, 9 to 12, or more (default: any)"
    )
    command.add_argument("--prompt", help="instruction for models that take one (default: the one used in training)")
    command.add_argument("--avoid", metavar="FILE", help="words and phrases to keep out of suggestions, one per line")
    command.add_argument("--seed", type=int, default=0, help="seed; another one gives other suggestions (default: 0)")
    command.add_argument(
        "--batch_size",
        "--batch-size",
        type=_positive,
        default=8,
        help="photos decoded together (default: 8); it does not change the suggestions",
    )
    command.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    command.add_argument("--output", metavar="FILE", help="write JSON lines to this file; run again to resume")
    command.add_argument(
        "--keep_both",
        "--keep-both",
        action="store_true",
        help="if --output has another picture with the same image id, keep both under different ids",
    )
    command.set_defaults(run=suggest, load_in_4bit=False)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; wanted a whole number, 1 or more")
    return int(text)


def suggest(args: argparse.Namespace) -> None:
    """Write suggestions for each photo, to the terminal or to a file."""
    from hfcap.applications.suggest_captions import suggest_captions

    suggest_captions(args)
