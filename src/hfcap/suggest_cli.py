"""`hfcap suggest`: several captions for each photo, to choose from."""

import argparse

from hfcap.cli_options import add_model_options, add_row_options, check_row_options, positive


def add_suggest_command(commands: argparse._SubParsersAction) -> None:
    """Add `suggest` to the commands of the console script."""
    command = commands.add_parser("suggest", help="several captions for each photo, to choose from")
    command.add_argument("pictures", nargs="+", metavar="PHOTO", help="files, or folders of pictures")
    add_model_options(command)
    command.add_argument("-n", "--n", type=positive, default=4, help="suggestions per photo (default: 4)")
    command.add_argument(
        "--length", choices=("short", "medium", "long"), help="up to 8 words, 9 to 12, or more (default: any)"
    )
    command.add_argument("--avoid", metavar="FILE", help="words and phrases to keep out of suggestions, one per line")
    command.add_argument("--seed", type=int, default=0, help="seed; another one gives other suggestions (default: 0)")
    add_row_options(command)
    command.set_defaults(run=suggest, load_in_4bit=False)


def suggest(args: argparse.Namespace) -> None:
    """Write suggestions for each photo, to the terminal or to a file."""
    check_row_options(args)
    from hfcap.applications.suggest_captions import suggest_captions

    suggest_captions(args)
