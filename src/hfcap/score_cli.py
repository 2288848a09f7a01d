"""The command `hfcap score`: metrics of captions in files."""

import argparse

from hfcap.data_cli import add_source_options


def score(args: argparse.Namespace) -> None:
    """Compare captions with references, and write `metrics.json` and `report.html` where asked for."""
    from hfcap.file_evaluation import score_files
    from hfcap.metrics import CLIP_MODEL, DEFAULT_METRICS, METRICS, metric_names, needs_images, refuse_unused

    args.metrics = ",".join(DEFAULT_METRICS) if args.metrics is None else args.metrics
    names = metric_names(args.metrics)
    refuse_unused("--clip_model", args.clip_model, names, needs_images([metric.key for metric in METRICS]))
    refuse_unused("--meteor", args.meteor, names, ("meteor",))
    refuse_unused("--chair_synonyms", args.chair_synonyms, names, ("chair",))
    refuse_unused("--instances", args.instances, names, ("chair",))
    args.meteor = args.meteor or "python"
    args.clip_model = CLIP_MODEL if args.clip_model is None else args.clip_model
    score_files(args)


def add_score_command(commands: argparse._SubParsersAction) -> None:
    """Add `hfcap score FILE [FILE] --references SOURCE`."""
    command = commands.add_parser("score", help="score caption files against references")
    command.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="JSONL {image_id, caption} or COCO results JSON; with two files, the second is compared with the "
        "first, image by image",
    )
    command.add_argument(
        "--references",
        required=True,
        metavar="SOURCE",
        help="JSONL {image_id, captions} or {image_id, caption}, COCO or Karpathy JSON, or a data source (folder, "
        "'scenes', Hub id)",
    )
    command.add_argument(
        "--split",
        help="split of a Karpathy file or of JSONL with a `split` (default: all), or of a data source "
        "(default: validation)",
    )
    add_source_options(command)
    command.add_argument(
        "--metrics",
        help="metrics, separated by commas (default: bleu,rouge_l,cider; docs/metrics.md lists all)",
    )
    command.add_argument(
        "--clip_model",
        "--clip-model",
        help="folder or Hub id of the CLIP model of clip_score and ref_clip_score (default: OpenAI's ViT-B/32)",
    )
    command.add_argument(
        "--meteor",
        choices=("python", "jar"),
        help="what aligns captions for METEOR: python (default), or the original jar, which needs Java, for checking",
    )
    command.add_argument(
        "--chair_synonyms",
        "--chair-synonyms",
        metavar="FILE",
        help="words for each object of chair, a line per object: its name and synonyms, separated by commas",
    )
    command.add_argument(
        "--instances",
        metavar="FILE",
        help="COCO instances JSON: for chair, objects annotated in the images are there too (default: those that the "
        "references name)",
    )
    command.add_argument(
        "--tokenizer",
        choices=("ptb", "intl", "zh", "char"),
        default="ptb",
        help="what splits captions into words: ptb for English, as in COCO's figures (default); intl for any language "
        "with spaces between words; zh for Chinese; char, by characters, for Japanese, Thai and the like",
    )
    command.add_argument(
        "--idf", metavar="FILE", help="document frequencies for CIDEr (default: those of these references)"
    )
    command.add_argument(
        "--save_idf", "--save-idf", metavar="FILE", help="save the document frequencies of these references"
    )
    command.add_argument("--output", metavar="FILE", help="where to write metrics.json")
    command.add_argument("--report", metavar="FILE", help="where to write report.html")
    command.add_argument(
        "--images",
        metavar="FOLDER",
        help="pictures for the report and for clip_score, named by image id, or as the references name them",
    )
    command.add_argument(
        "--allow_missing",
        "--allow-missing",
        action="store_true",
        help="skip images without a caption, and count them",
    )
    command.set_defaults(run=score)
