"""`hfcap alt …`: check alt texts, propose what is missing, and write what people decided."""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from hfcap.atomic_files import only_writer
from hfcap.cli_options import add_data_options, add_model_options, check_needs, positive
from hfcap.errors import ConfigError, WorkError, for_terminal


def add_alt_commands(commands: argparse._SubParsersAction) -> None:
    """Add `alt` and its commands to those of the console script."""
    alt = commands.add_parser("alt", help="check, propose and write the alt texts of documents")
    group = alt.add_subparsers(dest="alt_command", required=True)
    _add_check(group)
    _add_suggest(group)
    _add_review(group)
    _add_apply(group)
    _add_evaluate(group)


def _add_check(group: argparse._SubParsersAction) -> None:
    command = group.add_parser("check", help="find missing and meaningless alt texts")
    command.add_argument("paths", nargs="+", metavar="PATH", help="documents, or folders of them")
    command.add_argument(
        "--format", choices=("text", "json", "sarif"), default="text", help="format of the findings (default: text)"
    )
    command.add_argument(
        "--decided",
        metavar="ALTS.JSONL",
        help="rows of `hfcap alt`: pictures marked decorative there need no alt",
    )
    command.set_defaults(run=check)


def _add_suggest(group: argparse._SubParsersAction) -> None:
    command = group.add_parser("suggest", help="propose an alt text for each picture that has none")
    command.add_argument("paths", nargs="*", metavar="PATH", help="documents, folders of them, or photos")
    add_data_options(command)
    add_model_options(command, "pictures")
    command.add_argument(
        "--output", required=True, metavar="ALTS.JSONL", help="file to write; run again to add what is missing"
    )
    command.add_argument(
        "--people",
        choices=("neutral", "as_seen"),
        default="neutral",
        help="words for people: neutral ones that guess no gender, race or faith (default), or the model's own",
    )
    command.add_argument("--ocr", action="store_true", help='quote text in pictures; needs pip install "hfcap[ocr]"')
    command.add_argument(
        "--root",
        metavar="FOLDER",
        help="folder that a leading slash in a path stands for (default: PATH, if only one)",
    )
    command.set_defaults(run=suggest, load_in_4bit=False)


def _add_review(group: argparse._SubParsersAction) -> None:
    command = group.add_parser("review", help="decide on proposals, in the terminal or in a spreadsheet")
    command.add_argument("rows", metavar="ALTS.JSONL", help="file of `hfcap alt suggest`")
    command.add_argument("--skipped", action="store_true", help="ask about the skipped rows, not the pending ones")
    command.add_argument("--csv_export", "--csv-export", metavar="FILE", help="write the rows for a spreadsheet")
    command.add_argument("--csv_import", "--csv-import", metavar="FILE", help="read the decisions from a spreadsheet")
    command.set_defaults(run=review)


def _add_apply(group: argparse._SubParsersAction) -> None:
    command = group.add_parser("apply", help="write the decided alts of alts.jsonl into their documents")
    command.add_argument("rows", metavar="ALTS.JSONL", help="file of `hfcap alt suggest`, with people's decisions")
    command.add_argument("--dry_run", "--dry-run", action="store_true", help="print the diff and write nothing")
    command.add_argument(
        "--replace", action="store_true", help="also replace an existing alt, if it still equals the row's `before`"
    )
    command.add_argument(
        "--metadata",
        default="",
        metavar="WAYS",
        help="also write the alts into the metadata of the photos: sidecar (PHOTO.jpg.xmp), embed (by ExifTool), or "
        "both, separated by a comma",
    )
    command.add_argument(
        "--root",
        metavar="FOLDER",
        help="with --metadata: write for photos anywhere in this folder (default: for those in the folder of their "
        "document)",
    )
    command.set_defaults(run=apply)


def _add_evaluate(group: argparse._SubParsersAction) -> None:
    command = group.add_parser("evaluate", help="count proposals that break a rule, and what neutral words cost")
    add_model_options(command, "pictures")
    command.add_argument("--data", required=True, help="folder, file or Hub id (see docs/data.md)")
    command.add_argument("--split", default="validation", help="split of the data (default: validation)")
    command.add_argument(
        "--num_images", "--num-images", type=positive, help="evaluate the first images only (default: all)"
    )
    command.add_argument(
        "--output", metavar="FOLDER", help="where metrics.json, captions.jsonl and report.html are written"
    )
    command.set_defaults(run=evaluate, load_in_4bit=False)


def check(args: argparse.Namespace) -> None:
    """Print the findings; exit code 1 where an alt is missing or there is another error."""
    from hfcap.applications.check import as_json, as_sarif, as_text, check_documents, summary
    from hfcap.applications.rows import read_rows

    findings, notes = check_documents(args.paths, read_rows(args.decided) if args.decided else ())
    sys.stdout.write({"text": as_text, "json": as_json, "sarif": as_sarif}[args.format](findings))
    for note in [*notes, summary(findings)]:
        print(for_terminal(note), file=sys.stderr)
    if any(finding.level == "error" for finding in findings):
        sys.exit(1)


def suggest(args: argparse.Namespace) -> None:
    """Write a row for each picture without an alt, or each picture of a data source."""
    if bool(args.paths) == (args.data is not None):
        raise ConfigError(
            "both are given" if args.paths else "neither is given",
            option="PATH or --data",
            wanted="one of the two",
        )
    check_needs(args, {"split": "data"})
    if args.data is None:
        _check_root(args)
    args.split = args.split or "train"
    from hfcap.processes import join_processes, one_writer

    join_processes()
    with one_writer(args.output):
        if args.data is None:
            from hfcap.applications.suggest import suggest_alts

            suggest_alts(args)
        else:
            from hfcap.ondevice.folder import refuse_onnx

            refuse_onnx(args.model)
            from hfcap.applications.suggest_data import suggest_for_data

            suggest_for_data(args)


def _check_root(args: argparse.Namespace) -> None:
    from hfcap.applications.images import PHOTOS

    if args.root is not None and all(Path(path).suffix.lower() in PHOTOS for path in args.paths):
        raise ConfigError("only paths in documents start there", option="--root", got=args.root, fix="remove it")


def review(args: argparse.Namespace) -> None:
    """Ask about each pending row, or write or read a spreadsheet of all."""
    from hfcap.applications.review import export_csv, import_csv
    from hfcap.applications.review import review as ask_about
    from hfcap.applications.rows import PENDING, SKIPPED, read_rows, write_rows
    from hfcap.counts import counted

    if (args.csv_export is not None) + (args.csv_import is not None) + args.skipped > 1:
        raise ConfigError("--csv_export, --csv_import and --skipped exclude each other", fix="pass one of them")
    if args.csv_export:
        print(export_csv(read_rows(args.rows), args.csv_export))
        return
    with only_writer(args.rows):
        if args.csv_import:
            rows, changed = import_csv(read_rows(args.rows), args.csv_import)
            write_rows(args.rows, rows)
            print(f"{args.rows}: {counted(changed, 'row')} changed")
        else:
            ask_about(args.rows, status=SKIPPED if args.skipped else PENDING)


def evaluate(args: argparse.Namespace) -> None:
    """Print the figures of a captioner's proposals."""
    from hfcap.applications.evaluation import evaluate_alts

    evaluate_alts(args)


def apply(args: argparse.Namespace) -> None:
    """Write the decided alts, and print the diff; exit code 1 where a file is refused."""
    from hfcap.applications.apply import apply_rows
    from hfcap.applications.photo_metadata import ways_of
    from hfcap.applications.rows import DECIDED, read_rows, write_rows
    from hfcap.counts import counted

    ways = ways_of(args.metadata)
    if args.root is not None and not ways:
        raise ConfigError("read only with --metadata", option="--root", fix="add --metadata sidecar, or remove it")
    if args.root is not None and not Path(args.root).is_dir():
        raise ConfigError("no such folder", option="--root", got=args.root)
    with nullcontext() if args.dry_run else only_writer(args.rows):
        rows = read_rows(args.rows)
        before = [dict(row) for row in rows]
        refused = apply_rows(rows, ways, args.dry_run, args.replace, args.root and Path(args.root))
        if rows != before:
            write_rows(args.rows, rows)
    left = sum(row["status"] not in DECIDED for row in rows)
    if left:
        print(f"{left} of {counted(len(rows), 'row')} not decided", file=sys.stderr)
    if refused:
        raise WorkError(f"{counted(refused, 'file')} refused and left unchanged", fix="see the reasons above")
