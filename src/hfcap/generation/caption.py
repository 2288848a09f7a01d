"""Captions for pictures, in batches."""

from collections.abc import Sequence

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hfcap.generation.decoding import generate
from hfcap.generation.inputs import CaptionPrefix, encode_prefix, end_token_id, join_vision
from hfcap.models.facts import facts_of


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
        model: captioner of any type in `hfcap.models.facts`, on its device; it is left in the mode it was in.
        processor: its processor.
        rows: sequence of `{"image": RGB PIL image}` or `{"vision_features": (N, D) float32}`, with a `prompt` of their
            own or not; read one batch at a time.
        prompt: instruction for the rows without their own; the one the captioner was trained with.
        batch_size: pictures decoded together.
        progress: label of a progress bar; none is shown without one.
        generate_kwargs: override the model's `generation_config` (`num_beams`, `length_penalty`, …).

    Returns:
        One caption a row, in order, stripped of special tokens and surrounding space.
    """
    captions = []
    was_training = model.training
    model.eval()
    starts = range(0, len(rows), batch_size)
    for start in tqdm(starts, desc=progress, disable=progress is None, leave=False):
        batch = [rows[i] for i in range(start, min(start + batch_size, len(rows)))]
        prefixes = [encode_prefix(processor, model.config, row, prompt) for row in batch]
        tokens = generate_tokens(model, processor, prefixes, **generate_kwargs)
        captions += [text.strip() for text in processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
    model.train(was_training)
    return captions


def generate_tokens(
    model: PreTrainedModel, processor, prefixes: Sequence[CaptionPrefix], **generate_kwargs
) -> list[list[int]]:
    """Generate the tokens behind each prefix, padding included; `num_return_sequences` lists for each, in order."""
    facts, each = facts_of(model.config), generate_kwargs.get("num_return_sequences") or 1
    if facts.generate_by:
        # `generate` of these types asks a part of the model, which knows nothing of generation_config.json.
        generate_kwargs = {"generation_config": model.generation_config, **generate_kwargs}
    tokens = [[]] * (len(prefixes) * each)
    # Prompts of one length need no padding, which some models' positions do not survive.
    for length in {len(prefix.input_ids) for prefix in prefixes}:
        chosen = [i for i, prefix in enumerate(prefixes) if len(prefix.input_ids) == length]
        inputs = join_vision([prefixes[i].vision for i in chosen])
        inputs |= prompt_inputs(model, processor, [prefixes[i] for i in chosen])
        found = generate(model, {k: v.to(model.device) for k, v in inputs.items()}, **generate_kwargs)
        places = [i * each + k for i in chosen for k in range(each)]
        for place, row in zip(places, found[:, length:].tolist(), strict=True):
            tokens[place] = row
    return tokens


def prompt_inputs(model: PreTrainedModel, processor, prefixes: Sequence[CaptionPrefix]) -> dict[str, torch.Tensor]:
    """Arguments of `generate` for the tokens before the caption; an encoder-decoder knows its start token itself."""
    facts = facts_of(model.config)
    if facts.layout == "encoder_decoder":
        return {}
    ids = [prefix.input_ids for prefix in prefixes]
    if facts.generate_drops_last:
        ids = [[*row, end_token_id(processor, model.config)] for row in ids]
    inputs = {"input_ids": torch.tensor(ids)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if facts.token_types:
        inputs[facts.token_types] = torch.tensor([prefix.token_types for prefix in prefixes])
    return inputs
