"""The steps that recipes share before training: open the run, prepare the captioner, build the data sets.

A recipe is a list of steps:

    with open_run(parse_arguments(DataArguments, ModelArguments, CaptionTrainingArguments)) as run:
        model, processor = prepare_captioner(run)
        data = caption_datasets(run, model, processor)
        trainer = CaptionTrainer(model=model, args=run.args, processing_class=processor, **data)
        trainer.train(resume_from_checkpoint=last_complete_checkpoint(run.args.output_dir))
        finish_run(run, trainer, save_captioner(run, trainer))
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import torch
from accelerate.state import AcceleratorState
from peft import PeftModel
from transformers import PreTrainedModel, ProcessorMixin, set_seed

from hfcap import runs
from hfcap.data.augmentation import View
from hfcap.data.caption_dataset import Augmentation, CaptionDataset
from hfcap.data.caption_stream import CaptionStream
from hfcap.data.features import ComputedFeatures, FeatureCache, cache_features
from hfcap.distributed import use_all_cores, whole_weights
from hfcap.errors import ConfigError
from hfcap.generation.inputs import caption_prompt
from hfcap.generation.loading import captioner_type, load_captioner
from hfcap.hub.publish import publish_if_asked
from hfcap.length_tokens import add_length_tokens
from hfcap.models.attention import eager_sdpa
from hfcap.models.vision_features import accept_cached_features, find_encoder
from hfcap.shipped import find_config
from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments
from hfcap.training.build import build_captioner, choose_kernels
from hfcap.training.data_arguments import DataArguments
from hfcap.training.part_checks import check_captioner
from hfcap.training.prompts import check_later_prompt, save_prompt_of_rows
from hfcap.training.run_folder import Rows, keep_part_hashes, print_next_command, run_lock, start_run
from hfcap.training.run_rows import tokenizer_texts
from hfcap.training.settings_checks import check_settings
from hfcap.training.strategies import apply_strategy


@dataclass(frozen=True)
class Run:
    """A training run of a captioner.

    Attributes:
        folder: the run folder.
        data: what it reads.
        model: what it trains.
        args: how it trains; `output_dir` is the folder of the checkpoints.
        rows: training split (a stream with `streaming`) and evaluation split.
        base: folder or Hub id of the captioner that it starts from; None if it is built from parts.
        is_done: whether the folder already holds all results.
        publish_to: repository that the finished run is uploaded to (`--push_to_hub`); None for no upload.
    """

    folder: Path
    data: DataArguments
    model: ModelArguments
    args: CaptionTrainingArguments
    rows: Rows
    base: str | None
    is_done: bool
    publish_to: str | None = None


@contextmanager
def open_run(
    arguments: tuple[DataArguments, ModelArguments, CaptionTrainingArguments],
    train_part: Callable[[list[str]], object] | None = None,
) -> Iterator[Run]:
    """Check all settings, lock the run folder, train a missing part, and read the rows.

    A finished run is reported, and published if asked. A dry run leaves no file.

    Args:
        arguments: of `parse_arguments`.
        train_part: `main` of the recipe that trains the part that `encoder_training` or `base_config` describes.

    Raises:
        ConfigError: settings that do not fit each other, the data or the run folder; see
            `hfcap.training.part_checks`, `settings_checks` and `run_folder`.
    """
    data_args, model_args, args = arguments
    folder = Path(args.output_dir)
    with ExitStack() as stack:
        stack.enter_context(run_lock(args))
        args.output_dir = str(folder / runs.CHECKPOINTS)
        if args.dry_run:  # `Trainer` makes its folder at once
            args.output_dir = stack.enter_context(TemporaryDirectory(prefix="hfcap-dry-run-"))
        # Trainer's own upload sends checkpoints that nobody verified: `hfcap.hub.publish` uploads the finished run.
        publish_to, args.push_to_hub = (args.hub_model_id if args.push_to_hub else None), False
        args.check(data_args, model_args)
        check_captioner(model_args)
        use_all_cores()
        base_config = getattr(model_args, "base_config", None)
        if base_config is not None:
            check_settings(data_args, model_args, args, "hfcap_llava")
            base_argv = ["--config", str(find_config(base_config)), "--output_dir", model_args.model]
            run_prerequisite(train_part, base_argv, Path(model_args.model), args)
        base = None if model_args.model is None else runs.resolve_model(model_args.model).path
        model_type = f"hfcap_{model_args.family}" if base is None else captioner_type(base)
        check_settings(data_args, model_args, args, model_type)
        rows, is_done = start_run(folder, arguments)
        if is_done:
            publish_if_asked(folder, args, publish_to)
            print_next_command(folder)
        elif model_args.encoder_training is not None:
            encoder_argv = ["--config", str(find_config(model_args.encoder_training))]
            run_prerequisite(train_part, encoder_argv, Path(model_args.encoder), args)
            keep_part_hashes(folder, arguments)
        yield Run(folder, data_args, model_args, args, rows, base, is_done, publish_to)


def run_prerequisite(
    main: Callable[[list[str]], object], argv: list[str], part: Path, args: CaptionTrainingArguments
) -> None:
    """Run the recipe whose `main` trains the part of a captioner that another recipe starts from.

    Raises:
        ConfigError: a dry run, which trains nothing, and `part`, what the recipe leaves, is not there; what the recipe
            refuses.
    """
    if args.dry_run:
        if not part.exists():
            recipe = main.__module__.rpartition(".")[2]
            command = f"accelerate launch recipes/{recipe}.py {' '.join(argv)}"
            raise ConfigError(
                f"a dry run trains nothing, and {part} does not exist yet",
                option="dry_run",
                got=True,
                fix=f"run {command}",
            )
        return
    try:
        main(argv)
    except ConfigError as error:
        if error.option == "output_dir":
            error = ConfigError(
                error.reason,
                option="output_dir",
                got=error.got,
                fix=f"remove the folder: {argv[1]} trains this part again, without the options of this command",
            )
        raise error from None
    # accelerate keeps the precision of a process's first training; this one has its own.
    AcceleratorState._reset_state()


def prepare_captioner(run: Run) -> tuple[PreTrainedModel | PeftModel, ProcessorMixin]:
    """Load or build the captioner, with its prompt, its decoding settings, and the parts that train.

    Raises:
        ConfigError: the parts do not fit each other, or the rows have prompts of their own and none is chosen.
    """
    model_args, args = run.model, run.args
    set_seed(args.seed)
    with whole_weights(args):
        if run.base is None:
            model, processor = build_captioner(model_args, args, tokenizer_texts(run.data, run.rows[0]))
        else:
            four_bit = model_args.strategy == "qlora"
            model, processor = load_captioner(run.base, four_bit, model_args.image_processor_config)
        if args.length_tokens:
            add_length_tokens(model, processor.tokenizer)
    save_prompt_of_rows(processor, run.rows, run.data.prompt)
    model = apply_strategy(
        model, model_args.strategy, model_args.lora_r, model_args.lora_alpha, model_args.lora_dropout
    )
    choose_kernels(model, model_args)
    return model, processor


def caption_datasets(run: Run, model: PreTrainedModel | PeftModel, processor) -> dict[str, torch.utils.data.Dataset]:
    """Training and evaluation data as `Trainer` takes them: `train_dataset` and `eval_dataset`.

    With `feature_cache` the encoder runs here, once, and not while training. Evaluation features are kept in float32:
    the captions of a run are those that its saved model gives for the pictures. A dry run keeps none: it computes
    those of its batch.
    """
    train_rows, eval_rows = run.rows
    train_features = eval_features = None
    names = ("references", "mirror", "crop", "cached_crops", "color_jitter")
    augmentation = {name: getattr(run.data, name) for name in names} | {"seed": run.args.seed}
    if run.model.feature_cache:
        views = Augmentation(**augmentation).cached_views()
        train_features, eval_features = _cached_features(run, model, processor, views)
    if isinstance(train_rows, datasets.IterableDataset):
        # Without a chosen prompt, all rows must have the one that the first rows had.
        check = None if run.data.prompt is not None else partial(check_later_prompt, known=caption_prompt(processor))
        train = CaptionStream(train_rows, check, **augmentation)
    else:
        train = CaptionDataset(train_rows, train_features, **augmentation)
    return {"train_dataset": train, "eval_dataset": CaptionDataset(eval_rows, eval_features)}


def _cached_features(run: Run, model, processor, views: list[View]) -> list[FeatureCache | ComputedFeatures]:
    image_processor, folder = processor.image_processor, run.model.cache_dir
    if run.args.dry_run:
        features = [ComputedFeatures(model, image_processor, rows) for rows in run.rows]
        accept_cached_features(model)
        return features
    encoder = find_encoder(model)
    home = next(encoder.parameters()).device
    encoder.to(run.args.device)
    with eager_sdpa(model):
        train = cache_features(model, image_processor, run.rows[0], folder, views=views)
        evaluation = cache_features(model, image_processor, run.rows[1], folder, dtype="float32")
    encoder.to(home)  # where the rest is: the trainer moves the model, or an engine partitions it
    accept_cached_features(model)
    return [train, evaluation]
