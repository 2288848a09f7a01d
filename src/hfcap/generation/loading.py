"""Loading of captioners and their processors, from run folders, model folders, adapters and the Hub."""

import warnings
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    ProcessorMixin,
    TrOCRProcessor,
)
from transformers.image_processing_utils import BaseImageProcessor

from hfcap import runs
from hfcap.checkpoint_files import check_checkpoint
from hfcap.errors import ConfigError, as_config_error
from hfcap.generation.inputs import BLANK, SHAPE_ERRORS, end_token_id
from hfcap.generation.settings import (
    DEFAULT_DECODING,
    check_savable,
    drop_unused,
    end_token_ids,
    image_token_ids,
)
from hfcap.models.model_types import ModelTypeSpec, spec_of, spec_of_type
from hfcap.models.model_utils import keep_4bit_layers_unpacked
from hfcap.models.pretrained import POOLER, load_whole, loading, pretrained_config
from hfcap.models.quantization import compute_dtype, four_bit_config
from hfcap.ondevice.folder import refuse_onnx
from hfcap.origins import adapter_base


def captioner_type(source: str, revision: str | None = None) -> str:
    """Read the model type of a saved captioner, which `hfcap.models.model_types` knows, from its configuration alone.

    Raises:
        ConfigError: there is no model, or one of an unknown type.
    """
    model_type = pretrained_config("model", source, revision).model_type
    spec_of_type(model_type)
    return model_type


# Pixels; the largest models take pictures of some 4,000. At 200,000 the kernel would end the process for its memory.
LARGEST_SIDE = 10_000


def load_captioner(
    source: str, load_in_4bit: bool = False, image_processor_config: dict | None = None
) -> tuple[PreTrainedModel | PeftModel, ProcessorMixin]:
    """Load a captioner and its processor, ready to train and to generate.

    Args:
        source: a run folder, a model, or an adapter, which is put on the base that its configuration names, at its
            revision.
        load_in_4bit: the language model, or that of the adapter's base, in NF4 (`strategies.four_bit_config`).
        image_processor_config: settings of the image processor to change; they are saved with it.

    Weights that are not in 4 bits are float32: those that train are among them, and a projector of bfloat16 would lose
    most of what AdamW adds to it.

    Raises:
        ConfigError: a model of an unknown type, an ONNX export, weights that are no safetensors or not those of
            config.json, or settings of the image processor that it does not have or cannot follow.
    """
    source = runs.resolve_model(source).path
    refuse_onnx(source)
    check_checkpoint(source)
    base, revision = adapter_base(source)
    is_adapter = base is not None
    if is_adapter and Path(base).is_absolute() and not Path(base).exists():
        raise ConfigError(
            f"the base of this adapter, {base}, is not there",
            option="model",
            got=source,
            fix="bring it back, or write where it is into adapter_config.json (base_model_name_or_path)",
        )
    base = base or source
    check_checkpoint(base, revision)
    spec = spec_of_type(captioner_type(base, revision))
    processor = _load_working_processor(source, spec, image_processor_config)
    quantization_config = four_bit_config(spec, compute_dtype()) if load_in_4bit else None
    model = load_whole(
        AutoModelForImageTextToText,
        "model",
        base,
        may_lack=POOLER,
        revision=revision or "main",
        quantization_config=quantization_config,
    )
    keep_4bit_layers_unpacked(model)
    complete_settings(model, processor)
    return (_with_adapter(model, source) if is_adapter else model), processor


def _with_adapter(model: PreTrainedModel, source: str) -> PeftModel:
    """Put an adapter on its base; PEFT starts matrices that the file lacks anew, with a warning.

    Raises:
        ConfigError: it is not an adapter of this base, or not whole.
    """
    with loading("model", source), warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys")
        try:
            return PeftModel.from_pretrained(model, source)
        except (RuntimeError, UserWarning) as error:
            raise ValueError(f"it is no whole adapter of its base: {' '.join(str(error).split())}") from error


def load_shapes(source: str, image_processor_config: dict | None = None) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Build a captioner on the meta device, and load its processor: no weights are read or downloaded.

    Raises:
        ConfigError: a model of an unknown type, an adapter, or a configuration that no model can be built from.
    """
    source = runs.resolve_model(source).path
    refuse_onnx(source)
    check_checkpoint(source)
    if adapter_base(source)[0] is not None:
        raise ConfigError("an adapter", option="model", got=source, wanted="a model", fix="pass the adapter's base")
    spec = spec_of_type(captioner_type(source))
    processor = _load_working_processor(source, spec, image_processor_config)
    config = pretrained_config("model", source)
    with torch.device("meta"), as_config_error(f"config.json of {source}", SHAPE_ERRORS):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    with suppress(OSError):  # it has none
        model.generation_config = GenerationConfig.from_pretrained(source)
    complete_settings(model, processor)
    return model, processor


def _load_working_processor(source: str, spec: ModelTypeSpec, changes: dict | None) -> ProcessorMixin:
    processor = load_processor(source, spec)
    if changes:
        processor.image_processor = with_settings(processor.image_processor, changes)
        check_image_processor(processor.image_processor, "image_processor_config", changes)
    check_image_processor(processor.image_processor, "model", source)
    return processor


def check_image_processor(image_processor: BaseImageProcessor, option: str, got: Any) -> None:
    """Process a blank picture: libraries take any value from a file, and stumble over it at the first picture.

    Raises:
        ConfigError: about `option`, whose value is `got`: the picture cannot be processed, becomes larger than
            `LARGEST_SIDE`, or gives NaN or infinity.
    """
    fix = "correct its preprocessor_config.json or processor_config.json" if isinstance(got, str) else "correct it"
    side = largest_side(image_processor)
    if side > LARGEST_SIDE:
        reason = (
            f"its image processor makes pictures of {side:,} pixels on a side, and at most {LARGEST_SIDE:,} are made"
        )
        raise ConfigError(reason, option=option, got=got, fix=fix)
    try:
        tensors = image_processor([BLANK], return_tensors="pt")
    except SHAPE_ERRORS as error:
        said = shorten(f"{type(error).__name__}: {error}", 300, placeholder=" …")
        raise ConfigError(f"its image processor fails: {said}", option=option, got=got, fix=fix) from error
    for name, tensor in tensors.items():
        if not torch.isfinite(torch.as_tensor(tensor)).all():
            raise ConfigError(f"its image processor makes {name} that are not finite", option=option, got=got, fix=fix)


def largest_side(image_processor: BaseImageProcessor) -> int:
    """Return the largest side in pixels among the sizes of an image processor; 0 where they are no sides."""
    settings = image_processor.to_dict()
    if "merge_size" in settings:  # Qwen-VL's are numbers of pixels
        return 0
    sizes = [settings.get(name) for name in ("size", "crop_size", "pad_size")]
    sides = [side for size in sizes for side in (size.values() if isinstance(size, dict) else [size])]
    return max((side for side in sides if isinstance(side, int)), default=0)


def with_settings(image_processor: BaseImageProcessor, changes: dict) -> BaseImageProcessor:
    """Copy an image processor with some settings changed. Raises ConfigError for one that it does not have."""
    settings = image_processor.to_dict()
    unknown = sorted(set(changes) - set(settings))
    if unknown:
        own = ", ".join(sorted(name for name in settings if not name.endswith("_type")))
        raise ConfigError(
            f"{type(image_processor).__name__} has no {', '.join(unknown)}",
            option="image_processor_config",
            got=changes,
            wanted=f"keys among {own}",
        )
    return type(image_processor).from_dict(settings | changes)


def load_processor(source: str, spec: ModelTypeSpec) -> ProcessorMixin:
    """Load the processor of a captioner from a folder or a Hub id.

    `VisionEncoderDecoderModel` has no processor of its own: checkpoints hold an image processor and a tokenizer, of
    which `AutoProcessor` gives one. They become a `TrOCRProcessor`, the class that stock ones are saved as.

    Many checkpoints of chat models have their chat template in tokenizer_config.json alone, where `AutoProcessor` does
    not look.

    Raises:
        ConfigError: the processor cannot be loaded, or needs a library that is not installed.
    """
    # PIL gives the same pixels wherever it runs; a processor that handles video as well knows torchvision only.
    backend = {} if spec.needs_torchvision else {"backend": "pil"}
    try:
        with loading("model", source):
            processor = AutoProcessor.from_pretrained(source, trust_remote_code=False, **backend)
            if isinstance(processor, ProcessorMixin):
                if spec.prompt == "chat" and not processor.chat_template:
                    processor.chat_template = processor.tokenizer.chat_template
                return processor
            image_processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False, **backend)
            return TrOCRProcessor(image_processor, AutoTokenizer.from_pretrained(source, trust_remote_code=False))
    except ImportError as error:
        if not spec.needs_torchvision:
            raise
        raise ConfigError(
            "its processor handles video as well, and needs the libraries for it",
            option="model",
            got=source,
            fix="pip install torchvision num2words (of the same build as torch, CPU or CUDA)",
        ) from error


def complete_settings(model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """Fill in what checkpoints leave open and both training and `generate` need: start, end and padding tokens.

    Captions are a function of the picture: sampling is off where a checkpoint (Qwen-VL) has it on. No caption has an
    image token, which stands for features that are not there. The longest caption is stated, since the default of
    `generate` (20 tokens, the prompt among them) would cut every one.

    Raises:
        ConfigError: the checkpoint's own settings cannot be saved.
    """
    tokenizer, settings = processor.tokenizer, model.generation_config
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    config = model.config
    if spec_of(config).layout == "encoder_decoder":
        start = getattr(config, "decoder_start_token_id", None)
        for candidate in (settings.decoder_start_token_id, config.decoder.bos_token_id, tokenizer.cls_token_id):
            start = candidate if start is None else start
        config.decoder_start_token_id = settings.decoder_start_token_id = start
        if settings.guidance_scale not in (None, 1):
            raise ConfigError(
                "guidance runs the model without its prompt, and encoder-decoder captioners have none",
                option="guidance_scale",
                got=settings.guidance_scale,
                fix="remove it from generation_config.json",
            )
    end, known = end_token_id(processor, config), end_token_ids(settings)
    if end not in known:
        settings.eos_token_id = [*known, end] if known else end
    if settings.pad_token_id is None:
        settings.pad_token_id = tokenizer.pad_token_id
    if settings.max_new_tokens is None:
        settings.max_new_tokens, settings.max_length = DEFAULT_DECODING["max_new_tokens"], None
    suppressed = settings.suppress_tokens or []
    new = [token_id for token_id in image_token_ids(config) if token_id not in suppressed]
    if new:
        settings.suppress_tokens = [*suppressed, *new]
    drop_unused(settings)
    check_savable(settings)
