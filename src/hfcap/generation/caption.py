"""Captions for pictures, in batches."""

from collections.abc import Sequence

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hfcap.generation.decoding import generate
from hfcap.generation.inputs import prompt_token_ids, vision_inputs


@torch.inference_mode()
def caption_rows(
    model: PreTrainedModel,
    processor,
    rows: Sequence[dict],
    prompt: str | None = None,
    batch_size: int = 16,
    progress: str | None = None,
    **generate_kwargs,
) -> list[str]:
    """Caption rows that hold a picture or its cached features.

    Args:
        model: captioner of either family, on its device; it is left in the mode it was in.
        processor: its processor.
        rows: sequence of `{"image": RGB PIL image}` or `{"vision_features": (N, D) float32}`; read one batch at a
            time.
        prompt: instruction for LLaVA-style models, the one they were trained with.
        batch_size: pictures decoded together.
        progress: label of a progress bar; none is shown without one.
        generate_kwargs: override the model's `generation_config` (`num_beams`, `length_penalty`, …).

    Returns:
        One caption a row, in order, stripped of special tokens and surrounding space.
    """
    prefix = prompt_token_ids(processor, prompt)
    encoder_decoder = model.config.is_encoder_decoder
    captions = []
    was_training = model.training
    model.eval()
    starts = range(0, len(rows), batch_size)
    for start in tqdm(starts, desc=progress, disable=progress is None, leave=False):
        batch = [rows[i] for i in range(start, min(start + batch_size, len(rows)))]
        inputs = {k: v.to(model.device) for k, v in vision_inputs(processor, batch).items()}
        if not encoder_decoder:
            # Every row has the same prompt, so the batch needs no padding.
            input_ids = torch.tensor([prefix] * len(batch), device=model.device)
            inputs |= {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        tokens = generate(model, inputs, **generate_kwargs)
        if not encoder_decoder:
            tokens = tokens[:, len(prefix) :]
        texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        captions += [text.strip() for text in texts]
    model.train(was_training)
    return captions
