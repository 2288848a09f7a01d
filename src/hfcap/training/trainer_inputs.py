"""Inputs of `CaptionTrainer`: rows, prompt, decoding settings and collator, checked and made to fit each other."""

from pathlib import Path

import datasets
import torch
from peft import PeftModel
from transformers import PreTrainedModel, ProcessorMixin

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.caption_stream import CaptionStream
from hfcap.errors import ConfigError
from hfcap.generation.inputs import caption_prompt
from hfcap.generation.loading import load_captioner
from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.build import set_decoding
from hfcap.training.collators import CaptionCollator, check_positions
from hfcap.training.part_checks import check_whole_weights
from hfcap.training.prompts import choose_prompt_if_missing
from hfcap.training.reference_lengths import follow_references
from hfcap.training.settings_checks import check_decoding, choose_packing

COLUMNS = ("image_id", "image", "captions")


def load_trained(
    model: PreTrainedModel | PeftModel | str | Path, processor: ProcessorMixin | None
) -> tuple[PreTrainedModel | PeftModel, ProcessorMixin]:
    """Load a captioner that is given by its folder or Hub id, with its processor unless there is one.

    Raises:
        ConfigError: it cannot be loaded, is an adapter, or is a model without its processor.
    """
    if isinstance(model, (str, Path)):
        check_whole_weights(str(model))
        model, loaded = load_captioner(str(model))
        return model, processor or loaded
    if processor is None:
        raise ConfigError(
            "the model is given without its processor",
            option="processing_class",
            fix="pass that of `load_captioner`, or the folder or Hub id of the captioner as `model`",
        )
    return model, processor


def check_arguments(args: CaptionTrainingArguments) -> None:
    """Refuse what only a recipe does before or after training.

    Raises:
        ConfigError: `push_to_hub`.
    """
    if args.push_to_hub:
        raise ConfigError(
            "a trainer would upload checkpoints; recipes evaluate and verify what they upload",
            option="push_to_hub",
            got=True,
            fix="remove it, save the captioner, then `hfcap evaluate` and `hfcap push` its folder",
        )


def as_training_data(data, seed: int) -> CaptionDataset | CaptionStream:
    """Rows of `load_captions` as `Trainer` reads them; a torch data set stays what it is.

    Raises:
        ConfigError: something else, or rows without the columns of `load_captions`.
    """
    if isinstance(data, torch.utils.data.Dataset) and not isinstance(data, datasets.IterableDataset):
        return data
    _check_rows("train_dataset", data)
    return (CaptionStream if isinstance(data, datasets.IterableDataset) else CaptionDataset)(data, seed=seed)


def as_evaluation_data(data) -> CaptionDataset | None:
    """Rows of `load_captions` as evaluations read them.

    Raises:
        ConfigError: a stream, several data sets, or rows without the columns of `load_captions`.
    """
    if isinstance(data, (datasets.IterableDataset, CaptionStream)):
        raise ConfigError(
            "a stream, and each evaluation reads all rows",
            option="eval_dataset",
            fix="load that split without streaming",
        )
    if data is None or isinstance(data, torch.utils.data.Dataset):
        return data
    _check_rows("eval_dataset", data)
    return CaptionDataset(data)


def _check_rows(name: str, rows) -> None:
    if not isinstance(rows, (datasets.Dataset, datasets.IterableDataset)):
        raise ConfigError(
            f"a {type(rows).__name__}",
            option=name,
            wanted="the rows of one split, as `load_captions` returns them",
            fix="convert a list with datasets.Dataset.from_list",
        )
    features = rows.features or {}
    missing = [column for column in COLUMNS if column not in features]
    if features and missing:
        raise ConfigError(
            f"no column {', '.join(missing)} (it has {', '.join(features)})",
            option=name,
            fix="rename its columns, or read the source with `load_captions`, which finds them",
        )
    if features and not isinstance(features["captions"], (datasets.List, datasets.LargeList)):
        raise ConfigError(option=f"{name}.captions", got=features["captions"], wanted="a list of strings per row")


def caption_collator(
    model: PreTrainedModel | PeftModel,
    processor: ProcessorMixin,
    data: tuple[CaptionDataset | CaptionStream, CaptionDataset | None],
    args: CaptionTrainingArguments,
    prompt: str | None = None,
) -> CaptionCollator:
    """Make the collator of a training: packed where that is exact, with the prompt that the processor keeps.

    The processor keeps the prompt of the training rows (see `choose_prompt_if_missing`), and the model the decoding
    settings that `args` state. Where references are learned, `max_new_tokens` follows their length (see
    `follow_references`).

    Raises:
        ConfigError: `packing: always` for a model whose packed rows are not exact, too few positions, decoding
            settings of an adapter, or different prompts of which none is chosen.
    """
    check_decoding(args, isinstance(model, PeftModel))
    set_decoding(model, args)
    choose_prompt_if_missing(processor, data, prompt)
    collator = CaptionCollator(
        processor,
        model.config,
        prompt=caption_prompt(processor),
        packing=choose_packing(args.packing, model.config),
        max_caption_tokens=args.max_caption_tokens,
        pad_to_multiple_of=args.pad_to_multiple_of,
    )
    if args.learns_references:
        follow_references(model, collator, data[0], args)
    check_positions(model, collator)
    return collator
