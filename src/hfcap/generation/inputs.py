"""Model inputs that training and generation share: the tokens before the caption, and the image tensors.

Both are made for one picture at a time, so that they never depend on its neighbours in a batch: with processors that
cut pictures into pieces, the length of the prompt is a property of the picture.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from textwrap import shorten
from typing import TypeVar

import torch
from PIL import Image
from transformers import PreTrainedConfig

from hfcap.data.pictures import PictureError
from hfcap.errors import ConfigError, as_config_error
from hfcap.models.model_types import ModelTypeSpec, setting_at, spec_of
from hfcap.plain_text import special_texts, split_special

# What a processor gives beside the tensors of the picture.
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels")
PROMPT_SETTING = "caption_prompt"
# Where features stand in for a picture, all pictures have as many tokens as this one.
BLANK = Image.new("RGB", (32, 32))
# What models and processors raise where fields of a configuration do not fit each other.
SHAPE_ERRORS = (ValueError, RuntimeError, TypeError, AttributeError, KeyError, IndexError, ArithmeticError)
T = TypeVar("T")


@dataclass(frozen=True)
class CaptionPrefix:
    """One picture and what stands before its caption.

    Attributes:
        input_ids: token ids before the caption, image tokens included; for encoder-decoders the start token.
        vision: tensors of the picture; the first dimension counts pictures, or the pieces of this one.
        token_types: type of each of `input_ids`, for the models that have them.
    """

    input_ids: list[int]
    vision: dict[str, torch.Tensor]
    token_types: list[int] | None = None


def caption_prompt(processor) -> str | None:
    """Instruction the captioner was trained with, `None` where its processor keeps none."""
    own = getattr(processor, PROMPT_SETTING, None)
    return own if own is not None else processor.tokenizer.init_kwargs.get(PROMPT_SETTING)


def keep_caption_prompt(processor, prompt: str) -> None:
    """Let the processor remember the instruction of a training run, also when it is saved and loaded again.

    Stock processors save no attributes but their own, so it is kept in the settings of the tokenizer. What looks like
    a special token in it is kept as text (`hfcap.plain_text`).
    """
    prompt = split_special(prompt, special_texts(processor))
    if hasattr(processor, PROMPT_SETTING):
        processor.caption_prompt = prompt
    processor.tokenizer.init_kwargs[PROMPT_SETTING] = prompt


def prompt_text(processor, spec: ModelTypeSpec, prompt: str | None) -> str:
    """Text before the caption, with one unexpanded image token where the type has image tokens.

    Raises:
        ConfigError: a chat model without a template.
    """
    if spec.prompt != "chat":
        return (processor.image_token if spec.image_token_in_text else "") + (prompt or "")
    if not processor.chat_template:
        raise ConfigError(
            f"its {type(processor).__name__} has no chat template",
            option="model",
            fix="add chat_template.jinja to its folder",
        )
    content = [{"type": "image"}] + ([{"type": "text", "text": prompt}] if prompt else [])
    with as_config_error("chat template of the model", (Exception,)):  # a template is a program
        return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def encode_prefix(processor, config: PreTrainedConfig, row: dict, prompt: str | None = None) -> CaptionPrefix:
    """Tokens before the caption of a row `{image | vision_features}`, and its picture's tensors.

    Args:
        processor: processor of the captioner.
        config: the captioner's config.
        row: `image` is an RGB PIL image; `vision_features` (N, D) float32 may stand in for it where the type has a
            feature cache. A `prompt` of its own wins over the argument.
        prompt: instruction of the run.

    Raises:
        PictureError: the processor cannot take this picture.
        ConfigError: it cannot take any, the chat template fails, or a token has no embedding.
    """
    prefix = _encode_prefix(processor, config, row, prompt)
    check_ids(prefix.input_ids, config)
    return prefix


def _encode_prefix(processor, config: PreTrainedConfig, row: dict, prompt: str | None) -> CaptionPrefix:
    spec = spec_of(config)
    prompt = row.get("prompt") or prompt
    if prompt:
        prompt = split_special(prompt, special_texts(processor))
    text = prompt_text(processor, spec, prompt)
    if not spec.image_tokens:
        prompt_ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return CaptionPrefix([setting_at(config, spec.start_token), *prompt_ids], _picture_alone(processor, spec, row))
    # A template that writes BOS itself must not get a second one from the tokenizer (as in `apply_chat_template`).
    bos = processor.tokenizer.bos_token
    special = {"add_special_tokens": not (bos and text.startswith(bos))}
    if "vision_features" in row and spec.feature_input == "vision_features":
        text = text.replace(processor.image_token, processor.image_token * processor.image_seq_length)
        return CaptionPrefix(processor.tokenizer(text, **special)["input_ids"], _picture_alone(processor, spec, row))
    if "vision_features" in row:
        blank = _blank_prefix(processor, spec, text, **special)
        return replace(blank, input_ids=list(blank.input_ids), vision=_picture_alone(processor, spec, row))
    return _encode_with_picture(processor, spec, row, text, **special)


def _encode_with_picture(processor, spec: ModelTypeSpec, row: dict, text: str, **special) -> CaptionPrefix:
    encoded = _of_picture(row, lambda one: processor(images=[one], text=[text], return_tensors="pt", **special))
    vision = {name: value for name, value in encoded.items() if name not in TEXT_INPUTS}
    types = encoded[spec.token_types][0].tolist() if spec.token_types else None
    ids = encoded["input_ids"][0].tolist()
    if spec.fewest_image_tokens > 1 and ids.count(processor.image_token_id) < spec.fewest_image_tokens:
        image = row["image"]
        raise PictureError(
            f"a picture of {image.width} x {image.height} pixels, which gives fewer than {spec.fewest_image_tokens} "
            "image tokens, and the model takes no fewer",
            option=row.get("image_id"),
        )
    return CaptionPrefix(ids, vision, types)


@lru_cache(maxsize=64)
def _blank_prefix(processor, spec: ModelTypeSpec, text: str, **special) -> CaptionPrefix:
    """Tokens with a blank picture in place of a cached one: it costs as much as a picture, so once for each prompt."""
    return replace(_encode_with_picture(processor, spec, {"image": BLANK}, text, **special), vision={})


def _picture_alone(processor, spec: ModelTypeSpec, row: dict) -> dict[str, torch.Tensor]:
    if "vision_features" in row:
        return {spec.feature_input: row["vision_features"][None]}  # (1, N, D)
    return dict(_of_picture(row, lambda one: processor.image_processor([one], return_tensors="pt")))


def _of_picture(row: dict, process: Callable[[Image.Image], T]) -> T:
    """Process the picture of a row; where that fails, a blank one tells whether it or the processor is at fault."""
    image = row["image"]
    try:
        return process(image)
    except SHAPE_ERRORS as error:
        with as_config_error("processor of the model", SHAPE_ERRORS):
            process(BLANK)
        said = shorten(str(error), 200, placeholder=" …")
        raise PictureError(
            f"a picture of {image.width} x {image.height} pixels, which the model's processor cannot take: {said}",
            option=row.get("image_id"),
        ) from error


def check_ids(ids: Sequence[int], config: PreTrainedConfig) -> None:
    """Check that every token id has an embedding: a GPU would end at one that has none without saying so.

    Raises:
        ConfigError: one has none.
    """
    rows, largest = config.get_text_config(decoder=True).vocab_size, max(ids, default=0)
    if largest >= rows:
        raise ConfigError(
            f"the tokenizer gives the id {largest}, and the language model has {rows} embeddings",
            option="vocab_size",
            got=rows,
            fix="pass the tokenizer and the config.json of one checkpoint",
        )


def join_vision(pictures: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Tensors of several pictures one after another.

    Where pictures were cut into different numbers of pieces, the missing ones are zero, as stock processors pad them.
    """
    joined = {}
    for name in pictures[0]:
        tensors = [picture[name] for picture in pictures]
        shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
        joined[name] = torch.cat([_pad_to(tensor, shape) for tensor in tensors])
    return joined


def _pad_to(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Zero-pad (N, ...) behind to (N, *shape)."""
    missing = [
        size for want, got in zip(reversed(shape), reversed(tensor.shape[1:]), strict=True) for size in (0, want - got)
    ]
    return torch.nn.functional.pad(tensor, missing) if any(missing) else tensor


def end_token_id(processor, config: PreTrainedConfig) -> int:
    """Id of the token that ends a caption.

    Raises:
        ConfigError: neither the model's config nor its tokenizer names one.
    """
    spec = spec_of(config)
    tokenizer = processor.tokenizer
    candidates = (
        [setting_at(config, spec.end_token)] if spec.end_token else [tokenizer.eos_token_id, tokenizer.sep_token_id]
    )
    found = next((token_id for token_id in candidates if token_id is not None), None)
    if found is None:
        raise ConfigError(
            "its tokenizer has neither EOS nor SEP, and one must end the captions", option="model", fix="set eos_token"
        )
    return found
