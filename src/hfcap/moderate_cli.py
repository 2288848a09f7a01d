"""`hfcap moderate …`: pictures in an order for a person to look at, thresholds that were measured, and a review."""

import argparse
import sys
from pathlib import Path

from hfcap.atomic_files import only_writer, write_atomic, write_json
from hfcap.cli_options import positive
from hfcap.counts import counted
from hfcap.errors import ConfigError, for_terminal
from hfcap.tag_cli import add_tag_command

TAGS = "what `hfcap moderate tag` wrote"


def add_moderate_commands(commands: argparse._SubParsersAction) -> None:
    """Add `moderate` and its commands to those of the console script."""
    moderate = commands.add_parser("moderate", help="put pictures into an order for a person to look at")
    group = moderate.add_subparsers(dest="moderate_command", required=True)
    add_tag_command(group)
    _add_sample(group)
    _add_threshold(group)
    _add_review(group)
    _add_report(group)


def _add_sample(group: argparse._SubParsersAction) -> None:
    command = _add_command(group, "sample", "choose pictures to label, of all scores")
    command.add_argument("--n", type=positive, default=200, help="pictures per tag (default: 200)")
    command.add_argument("--tag", help="the only tag to label (default: all)")
    command.add_argument("--seed", type=int, default=0, help="another one draws other pictures (default: 0)")
    command.add_argument("--output", default="labels.csv", metavar="FILE", help="CSV to fill in (default: labels.csv)")
    command.set_defaults(run=sample)


def _add_threshold(group: argparse._SubParsersAction) -> None:
    command = _add_command(group, "threshold", "find the scores above which pictures go to a person")
    command.add_argument("--labels", metavar="FILE", help="CSV or JSONL: image_id or path, tag, label")
    targets = command.add_mutually_exclusive_group()
    for kind, text in (
        ("precision", "of the pictures in the queue, the share that shows it"),
        ("recall", "of the pictures that show it, the share that is in the queue"),
        ("queue", "longest queue, as a share of all pictures, such as 5%%"),
    ):
        targets.add_argument(f"--{kind}", metavar="SHARE", help=f"{text} (default: the target of the policy)")
    command.add_argument("--tag", help="the only tag to do (default: all)")
    command.add_argument("--output", default="thresholds.json", metavar="FILE", help="default: thresholds.json")
    _add_policy(command)
    command.set_defaults(run=threshold)


def _add_review(group: argparse._SubParsersAction) -> None:
    command = _add_command(group, "review", "decide on tagged pictures, the highest scores first")
    command.add_argument(
        "--decisions",
        default="decisions.jsonl",
        metavar="FILE",
        help="lines are added to it (default: decisions.jsonl)",
    )
    command.add_argument(
        "--thresholds", metavar="FILE", help="what goes to a person (default: what rows call review or unsure)"
    )
    command.add_argument("--tag", help="the only tag to decide on (default: all)")
    command.add_argument("--viewer", metavar="COMMAND", help="shows a picture (default: its path is printed)")
    command.add_argument("--appeal", metavar="IMAGE_ID", help="open the decision of --tag again; needs --reason")
    command.add_argument("--reason", metavar="TEXT", help="of the appeal")
    _add_policy(command)
    command.set_defaults(run=review)


def _add_report(group: argparse._SubParsersAction) -> None:
    command = _add_command(group, "report", "figures per tag: queue, precision, recall, slices, decisions")
    command.add_argument("--labels", metavar="FILE", help="CSV or JSONL: image_id or path, tag, label")
    command.add_argument("--decisions", metavar="FILE", help="what `hfcap moderate review` wrote")
    command.add_argument(
        "--thresholds", metavar="FILE", help="what goes to a person (default: what rows call review or unsure)"
    )
    command.add_argument("--html", metavar="FILE", help="write the report as a page")
    command.add_argument("--json", metavar="FILE", help="write the figures")
    _add_policy(command)
    command.set_defaults(run=report)


def _add_command(group: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    command = group.add_parser(name, help=text)
    command.add_argument("tags", metavar="TAGS.JSONL", help=TAGS)
    return command


def _add_policy(command: argparse.ArgumentParser) -> None:
    command.add_argument("--policy", metavar="FILE", help="policy of the rows (default: the path in the rows)")


def sample(args: argparse.Namespace) -> None:
    """Write a CSV of pictures to label."""
    from hfcap.applications.tag_labels import labels_csv
    from hfcap.applications.tag_rows import read_tags
    from hfcap.applications.tag_sample import draw_sample

    tags = read_tags(args.tags)
    if Path(args.output).exists():
        raise ConfigError("it is there, and may hold labels", option=args.output, fix="pass another --output")
    lines = [line for tag in tags.chosen(args.tag) for line in draw_sample(tags, tag, args.n, args.seed)]
    path = write_atomic(args.output, labels_csv(lines))
    print(f"{path}: {counted(len(lines), 'line')}; fill in the column label with yes, no or cannot tell")


def threshold(args: argparse.Namespace) -> None:
    """Write `thresholds.json`; exit code 2 where a tag has no threshold."""
    from hfcap.applications.moderation_texts import threshold_lines
    from hfcap.applications.policy import Target, share
    from hfcap.applications.tag_labels import read_labels
    from hfcap.applications.tag_rows import read_tags
    from hfcap.applications.threshold_file import threshold_record

    tags = read_tags(args.tags)
    target = None
    for kind in ("precision", "recall", "queue"):
        text = getattr(args, kind)
        if text is not None:
            try:
                target = Target(kind, share(text))
            except ValueError as error:
                raise ConfigError(str(error), option=f"--{kind}") from None
    labels = read_labels(args.labels, tags) if args.labels else None
    names = tags.chosen(args.tag)
    record, refused = threshold_record(tags, tags.read_policy(args.policy), labels, names, target)
    for error in refused:
        print(for_terminal(f"error: {error}"), file=sys.stderr)
    if record["tags"]:
        path = write_json(args.output, record)
        print("\n".join([*threshold_lines(record), str(path)]))
    if refused:
        sys.exit(2)


def review(args: argparse.Namespace) -> None:
    """Ask about each picture in the queue, or open a decision again."""
    from hfcap.applications.decisions import read_decisions
    from hfcap.applications.review_queue import ReviewQueue, appeal
    from hfcap.applications.tag_review import review_tags
    from hfcap.applications.tag_rows import read_tags
    from hfcap.applications.threshold_file import read_thresholds, tags_without_threshold

    if args.appeal is not None and args.tag is None:
        raise ConfigError("an appeal is about one tag", option="--appeal", got=args.appeal, fix="pass --tag")
    tags = read_tags(args.tags)
    policy, names = tags.read_policy(args.policy), tags.chosen(args.tag)
    thresholds = read_thresholds(args.thresholds, tags) if args.thresholds else None
    if args.appeal is None and (note := tags_without_threshold(thresholds, names)) is not None:
        print(note, file=sys.stderr)
    with only_writer(args.decisions):
        log = read_decisions(args.decisions, policy.sha256)
        if log.num_torn:
            print(
                f"{args.decisions}: the last line was cut off, {counted(log.num_torn, 'byte')}; taken away",
                file=sys.stderr,
            )
        log.repair()
        if args.appeal is not None:
            appeal(tags, log, args.appeal, args.tag, args.reason or "")
            print(f"{args.appeal}, {args.tag}: open again; `hfcap moderate review` asks about it first")
        else:
            review_tags(ReviewQueue(tags, log, names, thresholds), policy, args.viewer)


def report(args: argparse.Namespace) -> None:
    """Print the figures, and write them as a page or as JSON."""
    from hfcap.applications.decisions import check_pictures, read_decisions
    from hfcap.applications.moderation_page import report_lines, write_moderation_page
    from hfcap.applications.moderation_report import moderation_record
    from hfcap.applications.moderation_texts import NO_TAG
    from hfcap.applications.tag_labels import read_labels
    from hfcap.applications.tag_rows import read_tags
    from hfcap.applications.threshold_file import read_thresholds

    tags = read_tags(args.tags)
    policy = tags.read_policy(args.policy)
    labels = read_labels(args.labels, tags) if args.labels else None
    thresholds = read_thresholds(args.thresholds, tags) if args.thresholds else None
    log = None
    if args.decisions:
        if not Path(args.decisions).is_file():
            raise ConfigError("no such file", option="--decisions", got=args.decisions, fix="run the review first")
        log = read_decisions(args.decisions, policy.sha256)
        absent = check_pictures(log, tags)
        if absent:
            print(
                f"{args.decisions}: {counted(absent, 'tag')} of pictures that {args.tags} lacks; left out",
                file=sys.stderr,
            )
        if log.num_torn:
            print(f"{args.decisions}: the last line was cut off and does not count", file=sys.stderr)
    if labels is not None and labels.num_blank:
        print(f"{args.labels}: {counted(labels.num_blank, 'line')} without a label", file=sys.stderr)
    record = moderation_record(tags, policy, labels, log, thresholds)
    print("\n".join(map(for_terminal, [*report_lines(record), "", NO_TAG])))
    if args.html:
        print(write_moderation_page(args.html, record))
    if args.json:
        print(write_json(args.json, record))
