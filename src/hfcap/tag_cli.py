"""`hfcap moderate tag`: the command-line interface."""

import argparse

from hfcap.cli_options import positive


def add_tag_command(group: argparse._SubParsersAction) -> None:
    """Add `tag` to the commands of `hfcap moderate`."""
    command = group.add_parser("tag", help="score pictures by the tags of a policy")
    command.add_argument("pictures", nargs="*", metavar="PHOTO", help="files, or folders of pictures")
    command.add_argument(
        "--data", metavar="SOURCE", help="parquet, tar shards, JSONL or another source of docs/data.md, or a Hub id"
    )
    command.add_argument("--split", default="train", help="split of --data (default: train)")
    command.add_argument(
        "--tagger", required=True, help="run of recipes/train_tagger.py, or an image-classification checkpoint"
    )
    command.add_argument("--model", help="captioner whose captions stand beside the scores as evidence")
    command.add_argument("--policy", metavar="FILE", help="policy file (default: the one the tagger was trained by)")
    command.add_argument(
        "--batch_size", "--batch-size", type=positive, default=8, help="pictures tagged together (default: 8)"
    )
    command.add_argument("--json", action="store_true", help="JSON lines, no table")
    command.add_argument(
        "--output", metavar="FILE", help="write JSON lines to this file; run again, it tags what is missing"
    )
    command.add_argument(
        "--keep_both",
        "--keep-both",
        action="store_true",
        help="where --output has another picture with the same image id, keep both under different ids",
    )
    command.set_defaults(run=tag)


def tag(args: argparse.Namespace) -> None:
    """Write scores and evidence for each picture, to the terminal or to a file."""
    from hfcap.applications.tag_pictures import tag_pictures

    tag_pictures(args)
