"""`hfcap demo`: a page on this machine to describe photos, choose suggestions and review alt texts."""

import argparse

from hfcap.cli_options import check_needs


def add_demo_command(commands: argparse._SubParsersAction) -> None:
    """Add `demo` to the commands of the console script."""
    command = commands.add_parser("demo", help="a page on this machine: describe photos, suggest, review alt texts")
    command.add_argument("--model", required=True, help="run folder, model or adapter folder, or Hub id")
    command.add_argument(
        "--review", metavar="ALTS.JSONL", help="what `hfcap alt suggest` wrote: adds a tab to decide on its rows"
    )
    command.add_argument(
        "--tags", metavar="TAGS.JSONL", help="file of `hfcap moderate tag`: adds a tab to decide on its queue"
    )
    command.add_argument("--policy", metavar="FILE", help="policy of --tags (default: the path in its rows)")
    command.add_argument("--thresholds", metavar="FILE", help="scores of --tags that go to a person")
    command.add_argument("--decisions", metavar="FILE", help="decisions on --tags (default: decisions.jsonl)")
    command.add_argument("--port", type=_port, default=7860, help="of the page, on 127.0.0.1 (default: 7860)")
    command.add_argument("--prompt", help="instruction for models that take one (default: the one of the training)")
    command.add_argument(
        "--people",
        choices=("neutral", "as_seen"),
        default="neutral",
        help="words for people in descriptions: neutral ones (default) or those of the model",
    )
    command.add_argument(
        "--ocr", action="store_true", help='quote text in described photos; needs pip install "hfcap[ocr]"'
    )
    command.add_argument(
        "--load_in_4bit", "--load-in-4bit", action="store_true", help="load the language model (of an adapter) in NF4"
    )
    command.set_defaults(run=demo)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r}; wanted a number from 1 to 65535")
    return int(text)


def demo(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl+C or SIGTERM."""
    check_needs(args, {"policy": "tags", "thresholds": "tags", "decisions": "tags"})
    from hfcap.applications.demo import run_demo

    run_demo(args)
