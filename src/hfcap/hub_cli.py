"""Command-line interface of `hfcap export`, `push` and `card`."""

import argparse
from pathlib import Path

from hfcap import runs
from hfcap.errors import ConfigError, WorkError, as_config_error


def add_hub_commands(commands) -> None:
    """Add `export`, `push` and `card` to the sub-commands of `hfcap`."""
    command = commands.add_parser("export", help="export a run to a verified folder for the Hub")
    _add_export_options(command)
    command.add_argument("--to", required=True, metavar="FOLDER", help="folder to create")
    command.add_argument(
        "--web", action="store_true", help="with --format onnx, add a page that captions photos in the browser"
    )
    command.add_argument(
        "--web_packages",
        "--web-packages",
        metavar="FOLDER",
        help="archives of the npm packages that the page loads (default: fetched by npm, once)",
    )
    command.set_defaults(run=export)

    command = commands.add_parser("push", help="export and verify a run, write its card, upload it")
    _add_export_options(command)
    add_target_options(command)
    command.add_argument("--license", help="licence id as on the Hub (default: that of the run's card)")
    command.add_argument(
        "--datasets", nargs="+", metavar="ID", help="Hub ids of the training data (default: those of the run's card)"
    )
    command.set_defaults(run=push)

    card = commands.add_parser("card", help="write or check model cards").add_subparsers(dest="action", required=True)
    command = card.add_parser("write", help="write README.md from a run's records; text you added is kept")
    command.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="run folders, or folders of records")
    command.add_argument("--to", type=Path, metavar="FOLDER", help="write card and records there instead")
    command.add_argument(
        "--thumbnails", action="store_true", default=None, help="include thumbnails of the sample images"
    )
    command.set_defaults(run=write_cards)
    command = card.add_parser("check", help="report missing, stale or hand-edited values in a card")
    command.add_argument(
        "cards", nargs="+", type=Path, metavar="README.md", help="cards next to their metrics.json, or their folders"
    )
    command.set_defaults(run=check_cards)


def add_target_options(command: argparse.ArgumentParser) -> None:
    """Add the options that say where on the Hub an upload goes; `target_options` reads them."""
    command.add_argument("--repo", required=True, metavar="USER/NAME", help="repository; created if it does not exist")
    command.add_argument("--private", action="store_true", help="create it as a private repository")
    command.add_argument("--revision", default="main", metavar="BRANCH", help="branch to commit to")
    command.add_argument("--tag", help="tag for the commit")
    command.add_argument("--overwrite", action="store_true", help="replace content that hfcap did not write")


def target_options(args: argparse.Namespace) -> dict:
    """Arguments of `hfcap.hub.push.Target` from the options of `add_target_options`."""
    return {"repo_id": args.repo} | {name: getattr(args, name) for name in ("private", "revision", "tag", "overwrite")}


def _add_export_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="RUN", help="run folder, model or adapter folder, or Hub id")
    command.add_argument(
        "--format",
        choices=("auto", "native", "hfcap", "remote-code", "onnx"),
        default="auto",
        help="auto: a stock transformers class if possible; onnx: graphs for onnxruntime and transformers.js",
    )
    command.add_argument("--merge", action="store_true", help="ship adapter and base as one model")
    command.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="dtype of the exported weights (default: unchanged)",
    )
    command.add_argument(
        "--base_model",
        "--base-model",
        metavar="BASE",
        help="base model of the adapter: FOLDER or OWNER/NAME[@REVISION]",
    )
    command.add_argument(
        "--pictures",
        nargs="+",
        default=[],
        metavar="PHOTO",
        help="images to caption before and after (default: the run's evaluation data)",
    )
    command.add_argument(
        "--quantize",
        nargs="+",
        choices=("none", "float16", "int8"),
        help="variants of an ONNX export; the first is what transformers.js loads (default: none, float32)",
    )
    command.add_argument("--opset", type=int, help="version of the ONNX operators (default: 18)")
    command.add_argument(
        "--data", help="data to measure quantized variants on (default: the evaluation data that run.json names)"
    )


def _export_options(args: argparse.Namespace) -> dict:
    from hfcap.generation.photo_files import find_photos
    from hfcap.hub.onnx_export import OnnxOptions

    names = ("format", "merge", "dtype", "base_model")
    options = {name: getattr(args, name) for name in names}
    options["pictures"] = [photo.path for photo in find_photos(args.pictures)]
    quantize = None if args.quantize is None else tuple(args.quantize)
    given = {"quantize": quantize, "opset": args.opset, "data": args.data}
    given = {name: value for name, value in given.items() if value is not None}
    return options | ({"onnx": OnnxOptions(**given)} if given else {})


def export(args: argparse.Namespace) -> None:
    """Write a run as a folder for the Hub, and load it in a clean process to see that nothing was lost."""
    from hfcap.hub.export import export_run
    from hfcap.hub.tagger_export import export_tagger, is_tagger, tagger_pictures
    from hfcap.ondevice.web_page import find_archives, write_page

    if args.web and args.format != "onnx":
        raise ConfigError("a page is for an ONNX export", option="--web", fix="add --format onnx")
    if args.web_packages and not args.web:
        raise ConfigError("it is for --web", option="--web_packages", got=args.web_packages, fix="add --web")
    if is_tagger(args.model):
        print(f"Ready: {export_tagger(args.model, args.to, tagger_pictures(_export_options(args)))}")
        return
    if args.web:
        find_archives(args.web_packages)  # what is missing is said before the work
    folder = export_run(args.model, args.to, **_export_options(args))
    print(f"Ready: {folder}")
    if args.web:
        print(f"Page: {write_page(folder, args.web_packages)}; serve it: python -m http.server --directory {folder}")


def push(args: argparse.Namespace) -> None:
    """Export, verify, describe and upload a run."""
    from hfcap.hub.publish import publish
    from hfcap.hub.push import Target
    from hfcap.hub.tagger_export import is_tagger, publish_tagger, tagger_pictures

    given = {"license": args.license, "datasets": args.datasets and tuple(args.datasets)}
    given = {name: value for name, value in given.items() if value}
    target = Target(**target_options(args))
    if is_tagger(args.model):
        print(publish_tagger(args.model, target, tagger_pictures(_export_options(args)), **given))
        return
    publish(args.model, target, given, **_export_options(args))


def write_cards(args: argparse.Namespace) -> None:
    """Write the cards of runs, or of folders of records, again."""
    from hfcap.hub.card import copy_records, write_card

    if args.to is not None and len(args.folders) > 1:
        raise ConfigError(
            f"{len(args.folders)} runs do not fit into one folder", option="--to", got=args.to, fix="pass one run"
        )
    for folder in args.folders:
        with as_config_error(kinds=(ValueError, OSError)):
            card = write_card(folder, thumbnails=args.thumbnails)
            print(card if args.to is None else copy_records(folder, args.to))


def check_cards(args: argparse.Namespace) -> None:
    """Compare cards with the measurements beside them; exit code 1 where one is stale."""
    from hfcap.hub.card_check import check_card

    num_stale = 0
    for card in args.cards:
        with as_config_error(kinds=(ValueError, OSError)):
            stale, missing = check_card(card)
        for line in stale + missing or ["as measured"]:
            print(f"{card}: {line}")
        num_stale += bool(stale)
    if num_stale:
        raise WorkError(
            f"{num_stale} of {len(args.cards)} cards do not match the measurements",
            fix="rewrite them with `hfcap card write` (it keeps your own text between the two comments of "
            f"{runs.CARD_README})",
        )
