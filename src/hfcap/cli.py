"""The console script `hfcap`: caption pictures and evaluate captions from the command line.

Heavy libraries are imported by the commands that need them, so that `hfcap evaluate` on files starts at once.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from hfcap.data_cli import add_data_commands
from hfcap.errors import ConfigError, run_main
from hfcap.hub_cli import add_hub_commands

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


def caption(args: argparse.Namespace) -> None:
    """Write one caption for each picture: `path<TAB>caption`, or JSON lines with `--json`."""
    pictures = find_pictures(args.pictures)

    from hfcap import runs
    from hfcap.data.pictures import load_picture
    from hfcap.generation.caption import caption_rows
    from hfcap.generation.inputs import caption_prompt
    from hfcap.training.build import load_captioner

    model, processor = load_captioner(runs.resolve_model(args.model).path)
    prompt = args.prompt or caption_prompt(processor)
    options = {} if args.num_beams is None else {"num_beams": args.num_beams}
    for start in range(0, len(pictures), args.batch_size):
        paths = pictures[start : start + args.batch_size]
        rows = [{"image": load_picture(path)} for path in paths]
        captions = caption_rows(model, processor, rows, prompt, args.batch_size, **options)
        for path, text in zip(paths, captions, strict=True):
            line = json.dumps({"image_id": path.stem, "path": str(path), "caption": text}, ensure_ascii=False)
            print(line if args.json else f"{path}\t{text}", flush=True)


def find_pictures(paths: Sequence[str]) -> list[Path]:
    """Files named, and the pictures in folders named, in order.

    Raises:
        ConfigError: a path does not exist, or a folder holds no picture.
    """
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
            if not inside:
                raise ConfigError(
                    f"{path}: no picture in this folder (looked for {', '.join(sorted(PICTURE_SUFFIXES))})"
                )
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise ConfigError(f"{path}: no such file or folder")
    return found


def evaluate(args: argparse.Namespace) -> None:
    """Compare predictions with references, and write `metrics.json` and `report.html` where asked for."""
    from hfcap.file_evaluation import evaluate_files

    evaluate_files(args)


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(prog="hfcap", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("caption", help="caption pictures or folders of pictures")
    command.add_argument("pictures", nargs="+", metavar="PHOTO", help="files, or folders of pictures")
    command.add_argument("--model", required=True, help="run folder, model folder or Hub id")
    command.add_argument("--prompt", help="instruction for LLaVA-style models (the one of the training by default)")
    command.add_argument("--num_beams", "--num-beams", type=int, help="beams (the model's own setting by default)")
    command.add_argument("--batch_size", "--batch-size", type=int, default=8, help="pictures decoded together")
    command.add_argument("--json", action="store_true", help="JSON lines {image_id, path, caption}")
    command.set_defaults(run=caption)

    command = commands.add_parser("evaluate", help="compare captions with references")
    captions = command.add_mutually_exclusive_group(required=True)
    captions.add_argument("--predictions", metavar="FILE", help="JSONL {image_id, caption} or COCO results JSON")
    captions.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two such files: B against A, image by image")
    command.add_argument(
        "--references",
        required=True,
        metavar="SOURCE",
        help="JSONL {image_id, captions}, COCO or Karpathy JSON, or a data source (folder, 'scenes', Hub id)",
    )
    command.add_argument("--split", help="split of a Karpathy file (all by default) or data source (validation)")
    command.add_argument("--metrics", default="bleu,rouge_l,cider", help="of bleu, meteor, rouge_l, cider, cider_d")
    command.add_argument(
        "--idf", metavar="FILE", help="document frequencies for CIDEr (of these references by default)"
    )
    command.add_argument(
        "--save_idf", "--save-idf", metavar="FILE", help="keep the document frequencies of these references"
    )
    command.add_argument("--output", metavar="FILE", help="where to write metrics.json")
    command.add_argument("--report", metavar="FILE", help="where to write report.html")
    command.add_argument("--images", metavar="FOLDER", help="pictures for the report, named by image id")
    command.add_argument(
        "--allow_missing",
        "--allow-missing",
        action="store_true",
        help="leave out images without a caption, and count them",
    )
    command.set_defaults(run=evaluate)
    add_data_commands(commands)
    add_hub_commands(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command."""
    args = make_parser().parse_args(sys.argv[1:] if argv is None else argv)
    run_main(lambda: args.run(args))


if __name__ == "__main__":
    main()
