"""Evaluation of a model on a split of a data set: `hfcap evaluate`, `recipes/evaluate.py`."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from accelerate import PartialState

from hfcap import runs
from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.picture_checks import content_hashes
from hfcap.distributed import use_all_cores
from hfcap.errors import ConfigError, as_config_error
from hfcap.evaluation import (
    Measured,
    describe_data,
    evaluate_captioner,
    results_table,
    show_captions,
    write_evaluation,
)
from hfcap.generation.inputs import caption_prompt
from hfcap.generation.loading import load_captioner
from hfcap.generation.settings import change_decoding
from hfcap.metrics import CLIP_MODEL, DEFAULT_METRICS
from hfcap.processes import join_processes
from hfcap.training.argument_checks import check_minima
from hfcap.training.arguments import TOKENIZER_HELP
from hfcap.training.data_arguments import SourceArguments
from hfcap.training.metric_choice import (
    CHAIR_SYNONYMS_HELP,
    CLIP_MODEL_HELP,
    METRICS_HELP,
    check_metrics,
    metric_options,
)
from hfcap.training.parsing import parse_arguments
from hfcap.training.run_rows import load_evaluation_split


@dataclass
class EvaluationArguments:
    """Which checkpoint, and how it decodes."""

    model: str = field(metadata={"help": "Run folder, model or adapter folder, or Hub id."})
    load_in_4bit: bool = field(default=False, metadata={"help": "Load the language model in NF4."})
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for the results (default: `evaluation/` in the run folder)."},
    )
    batch_size: int = field(default=16, metadata={"min": 1, "help": "Pictures decoded together."})
    tokenizer: Literal["ptb", "intl", "zh", "char"] | None = field(
        default=None, metadata={"help": f"{TOKENIZER_HELP} Default: that of the run's own figures, else ptb."}
    )
    metrics: str = field(default=",".join(DEFAULT_METRICS), metadata={"help": METRICS_HELP})
    clip_model: str = field(default=CLIP_MODEL, metadata={"help": CLIP_MODEL_HELP})
    chair_synonyms: str | None = field(default=None, metadata={"help": CHAIR_SYNONYMS_HELP})
    num_beams: int | None = field(
        default=None, metadata={"min": 1, "help": "Beams of beam search (default: the model's own setting)."}
    )
    length_penalty: float | None = field(
        default=None, metadata={"help": "Length penalty of beam search (default: the model's own setting)."}
    )

    def __post_init__(self):
        check_minima(self)
        if self.tokenizer is None:
            with as_config_error("model"):
                self.tokenizer = runs.metrics_tokenizer(Path(self.model))
        check_metrics(self)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """Evaluate one checkpoint on one split.

    Args:
        argv: command-line options: the fields of `SourceArguments` and `EvaluationArguments`.
        prog: name of the command in its help.
    """
    data_args, args = parse_arguments(SourceArguments, EvaluationArguments, argv=argv, prog=prog)
    check_scenes_options(data_args)
    state = join_processes()
    source = runs.resolve_model(args.model)
    run = Path(args.model)
    # For a Hub id not ./OWNER/NAME: the next command would take that folder for the model.
    default = run / "evaluation" if run.is_dir() else Path("outputs", f"{run.name}-evaluation")
    folder = Path(args.output_dir or default)
    rows = load_evaluation_split(data_args, folder)
    use_all_cores()
    model, processor = load_captioner(source.path, args.load_in_4bit)
    if not args.load_in_4bit:  # which is on its device already
        model.to(PartialState().device)
    decoding = {"num_beams": args.num_beams, "length_penalty": args.length_penalty}
    change_decoding(model, {name: value for name, value in decoding.items() if value is not None})
    prompt = data_args.prompt or caption_prompt(processor)
    evaluation = evaluate_captioner(
        model, processor, CaptionDataset(rows), prompt, args.batch_size, **metric_options(args)
    )
    if state.is_main_process:
        data = describe_data(
            vars(data_args), runs.data_fingerprint(rows.remove_columns("image"), content_hashes(rows))
        )
        measured = Measured(source.artifact, source.path, data, prompt, args.load_in_4bit)
        write_evaluation(folder, evaluation, rows, f"{args.model} on {data_args.data}", measured)
        print(results_table({run.name: (None, evaluation)}), show_captions(evaluation), sep="\n\n")
        print(f"\nResults in {folder}")


def check_scenes_options(args: SourceArguments) -> None:
    """Refuse options of the embedded data set where another one is evaluated.

    Raises:
        ConfigError: one is given.
    """
    defaults = {field.name: field.default for field in fields(args)}
    for name in ("scenes_style", "scenes_image_size"):
        value = getattr(args, name)
        if args.data != "scenes" and value != defaults[name]:
            raise ConfigError(
                f"only for the data 'scenes', and data is {args.data}", option=name, got=value, fix="remove it"
            )
