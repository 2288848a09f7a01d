"""The inputs that training and generation share: the prompt's tokens and the picture's tensors."""

from collections.abc import Sequence

import torch

from hfcap.errors import ConfigError


def prompt_text(processor, prompt: str | None) -> str:
    """Text before the caption, as the chat template writes it, with one unexpanded image token."""
    content = [{"type": "image"}] + ([{"type": "text", "text": prompt}] if prompt else [])
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def caption_prompt(processor) -> str | None:
    """Instruction the captioner was trained with, `None` where its processor keeps none."""
    return getattr(processor, "caption_prompt", None)


def is_prompted(processor) -> bool:
    """Whether captions follow a prompt with image tokens (LLaVA-style), or only a start token (encoder-decoder)."""
    return hasattr(processor, "image_token")


def prompt_token_ids(processor, prompt: str | None) -> list[int]:
    """Token ids before the caption: the prompt with its image tokens, or the decoder's start token.

    Raises:
        ConfigError: a prompt for an encoder-decoder, which has nowhere to put it.
    """
    if not is_prompted(processor):
        if prompt:
            raise ConfigError(f"prompt: encoder-decoder captioners take none, got {prompt!r}; leave it out")
        return [processor.start_token_id]
    text = prompt_text(processor, prompt)
    expanded = text.replace(processor.image_token, processor.image_token * processor.image_seq_length)
    return processor.tokenizer(expanded)["input_ids"]


def end_token_id(processor) -> int:
    """Id of the token that ends a caption."""
    return processor.tokenizer.eos_token_id if is_prompted(processor) else processor.end_token_id


def vision_inputs(processor, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
    """Tensors of the pictures: `pixel_values` (B, 3, H, W), or `vision_features` (B, N, D) where rows carry them."""
    if "vision_features" in rows[0]:
        return {"vision_features": torch.stack([row["vision_features"] for row in rows])}
    pictures = [row["image"] for row in rows]
    return {"pixel_values": processor.image_processor(pictures, return_tensors="pt")["pixel_values"]}
