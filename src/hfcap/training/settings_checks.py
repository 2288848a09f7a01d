"""Checks of settings against each other, before any weights load; `part_checks` looks at what a run starts from."""

import logging
from typing import Literal

import torch
from transformers import GenerationConfig, PreTrainedConfig

from hfcap.errors import ConfigError
from hfcap.generation.settings import DEFAULT_DECODING, check_savable
from hfcap.models.model_types import MODEL_TYPES, is_packable, spec_of_type
from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments
from hfcap.training.build import given_decoding
from hfcap.training.data_arguments import DataArguments, check_cached_views
from hfcap.training.engine import current_backend
from hfcap.training.strategies import TRAINED_PARTS
from hfcap.training.support import FAMILIES, NOT_ON_FSDP2, SUPPORT, Backend

logger = logging.getLogger(__name__)


def check_settings(
    data_args: DataArguments, model_args: ModelArguments, args: CaptionTrainingArguments, model_type: str
) -> None:
    """Check all settings of a run that trains a captioner of `model_type`, on the engine that will train it.

    Raises:
        ConfigError: see `check_supported`, `check_learning_rates`, `check_data`, `check_length_tokens` and
            `check_decoding`.
    """
    check_supported(model_args, model_type, current_backend())
    check_learning_rates(model_args, args, model_type)
    check_data(data_args, model_args, args)
    check_length_tokens(model_args, args)
    check_decoding(args, model_args.strategy in ("lora", "qlora"))


def check_supported(args: ModelArguments, model_type: str, backend: Backend) -> None:
    """Refuse what cannot work.

    Raises:
        ConfigError: strategy, model type and backend do not fit, or LoRA has no checkpoint to start from; cached
            features do not fit the model type or the strategy; FlexAttention does not fit the model type or the
            machine, or compiled layers the backend.
    """
    spec, family = spec_of_type(model_type), FAMILIES.get(model_type, "native")
    if args.strategy not in spec.strategies:
        raise ConfigError(
            f"not supported for {model_type}",
            option="strategy",
            got=args.strategy,
            wanted=f"one of {', '.join(spec.strategies)}",
        )
    if args.strategy == "lora" and args.model is None:
        raise ConfigError(
            "LoRA needs a base model",
            option="strategy",
            got=args.strategy,
            fix="pass --model, for instance the run of these parts with strategy 'projector'",
        )
    backends = SUPPORT[family, args.strategy]
    if backend not in backends:
        raise ConfigError(
            f"not supported for strategy {args.strategy!r} of {model_type} (docs/compatibility.md)",
            option="training engine",
            got=backend,
            wanted=f"one of {', '.join(backends)}",
        )
    if backend == "fsdp2" and model_type in NOT_ON_FSDP2:
        raise ConfigError(
            f"not supported for {model_type} (docs/compatibility.md)",
            option="training engine",
            got=backend,
            fix="use DDP or a ZeRO stage",
        )
    _check_kernels(args, model_type, backend)
    if args.feature_cache and spec.feature_input is None:
        able = ", ".join(name for name, other in MODEL_TYPES.items() if other.feature_input)
        raise ConfigError(
            f"{model_type} takes no cached features ({able} do)",
            option="feature_cache",
            got=True,
            fix="set feature_cache: false",
        )
    if args.feature_cache and "encoder" in TRAINED_PARTS[args.strategy]:
        raise ConfigError(
            f"features are cached for a frozen encoder, and strategy {args.strategy!r} trains it",
            option="feature_cache",
            got=True,
            fix="set strategy: frozen_encoder, or feature_cache: false",
        )


def _check_kernels(args: ModelArguments, model_type: str, backend: Backend) -> None:
    if args.attn_implementation == "flex_attention":
        if spec_of_type(model_type).layout == "encoder_decoder":
            raise ConfigError(
                f"it needs image and text in one row, and {model_type} reads the image by cross-attention",
                option="attn_implementation",
                got=args.attn_implementation,
                fix="remove it",
            )
        if not torch.cuda.is_available():
            raise ConfigError(
                "it trains on a GPU only, and this machine has none",
                option="attn_implementation",
                got=args.attn_implementation,
                fix="remove it",
            )
    if args.compile_layers and backend not in ("single", "ddp"):
        raise ConfigError(
            f"not supported on {backend}, which hooks into every layer",
            option="compile_layers",
            got=True,
            fix="remove it",
        )


def check_learning_rates(model_args: ModelArguments, args: CaptionTrainingArguments, model_type: str) -> None:
    """Check that a part with a learning rate of its own trains.

    Raises:
        ConfigError: the strategy keeps it frozen, or the type has no such part: the rate would be left unread.
    """
    for part in ("encoder", "projector"):
        name = f"{part}_learning_rate"
        if getattr(args, name) is None:
            continue
        if not getattr(spec_of_type(model_type), part):
            raise ConfigError(f"{model_type} has no {part}", option=name, got=getattr(args, name), fix="remove it")
        if part not in TRAINED_PARTS[model_args.strategy]:
            able = [strategy for strategy, parts in TRAINED_PARTS.items() if part in parts]
            raise ConfigError(
                f"strategy {model_args.strategy!r} keeps the {part} frozen",
                option=name,
                got=getattr(args, name),
                fix=f"remove it, or set strategy: {' or '.join(able)}",
            )


def choose_packing(packing: Literal["auto", "always", "never"], config: PreTrainedConfig) -> bool:
    """Whether a run lays all references of an image behind one copy of it.

    Raises:
        ConfigError: "always" for a model whose packed rows are not known to give the gradient of separate ones.
    """
    if packing == "never" or is_packable(config):
        return packing != "never"
    language_model = config.get_text_config(decoder=True).model_type
    reason = f"{config.model_type} with {language_model} is not among the models whose packed rows are exact"
    if packing == "always":
        raise ConfigError(
            f"{reason} (docs/models.md lists them)",
            option="packing",
            got=packing,
            fix="set packing: auto for one row per reference",
        )
    logger.info("one row per reference, no packing: %s", reason)
    return False


def check_data(data_args: DataArguments, model_args: ModelArguments, args: CaptionTrainingArguments) -> None:
    """Check that the way data is read fits how it is used.

    Raises:
        ConfigError: a stream without `max_steps`, or with cached features; cached features of pictures that change.
    """
    if data_args.streaming and args.max_steps <= 0:
        raise ConfigError(
            "a stream has no length",
            option="streaming",
            got=True,
            fix="set max_steps, the number of optimizer steps",
        )
    if data_args.streaming and model_args.feature_cache:
        raise ConfigError(
            "the feature cache holds a whole data set",
            option="streaming",
            got=True,
            fix="remove streaming or feature_cache",
        )
    check_cached_views(data_args, model_args.feature_cache)


def check_length_tokens(model_args: ModelArguments, args: CaptionTrainingArguments) -> None:
    """Check that the embeddings of new tokens train, and that words can be counted.

    Raises:
        ConfigError: `length_tokens` beside a strategy that leaves the language model as it is, or captions of a script
            without spaces.
    """
    if not args.length_tokens:
        return
    if "lm" not in TRAINED_PARTS[model_args.strategy]:
        raise ConfigError(
            f"their embeddings would stay random with strategy {model_args.strategy!r}",
            option="length_tokens",
            got=True,
            fix="set strategy: full or frozen_encoder, or remove it",
        )
    if args.tokenizer in ("zh", "char"):
        raise ConfigError(
            f"it counts words between spaces, and tokenizer is {args.tokenizer!r}",
            option="length_tokens",
            got=True,
            fix="remove it",
        )


def check_decoding(args: CaptionTrainingArguments, trains_adapter: bool) -> None:
    """Check that decoding settings are kept with what a run saves.

    Raises:
        ConfigError: they are given for an adapter, which has none of its own; or they do not fit each other.
    """
    given = given_decoding(args)
    if given and trains_adapter:
        name, value = next(iter(given.items()))
        raise ConfigError(
            "an adapter decodes by the generation_config.json of its base",
            option=name,
            got=value,
            fix="remove it, train the base with it, or pass it to recipes/evaluate.py and `hfcap caption`",
        )
    check_savable(GenerationConfig(**DEFAULT_DECODING | given))
