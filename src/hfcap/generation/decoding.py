"""Decoding of an image's candidates (beams, samples) in one row of the model. The one place that calls `generate`.

Stock `generate` gives each of the K candidates a row: image and prompt run through the language model K times, their
keys and values are kept K times and read K times per step, and beam search copies all of them at every step. Here the
candidates are K columns of one row, as the references of an image are in training (`hfcap.training.packing`). A token
sees the prefix and the tokens it came from:

    image and prompt p0 p1 p2            cache     p0 p1 | p2 p2 | a  b | c  d
    beams "a c" and "a d" after two      "a c" ->   x  x |  x  . | x  . | x  .
    steps, K = 2                         "a d" ->   x  x |  x  . | x  . | .  x

so that the prefix is computed, kept and read once per image, and beam search reorders rows of this mask, not keys
and values. The search is stock `generate`: hooks around the model's forward lay its (B K, 1) tokens out as (B, K), and
its (B, K, V) logits as (B K, 1, V). The mathematics is the same, and so are the tokens
(`tests/models/test_decoding.py`).
"""

import copy
from collections.abc import Mapping
from contextlib import contextmanager

import torch
from peft import PeftModel
from transformers import DynamicCache, GenerationConfig, PreTrainedConfig, PreTrainedModel, cache_utils
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation import GenerationMode
from transformers.modeling_outputs import BaseModelOutput, ModelOutput

from hfcap.models.model_types import is_packable, spec_of
from hfcap.models.model_utils import to_additive_mask

# In the place of a layer that attends to the keys and values of an earlier one (Gemma 4; new in transformers 5.24).
WITHOUT_CACHE = getattr(cache_utils, "DummyLayer", None)
SEARCHES = (GenerationMode.SAMPLE, GenerationMode.BEAM_SEARCH, GenerationMode.BEAM_SAMPLE)


@torch.no_grad()
def generate(
    model: PreTrainedModel | PeftModel, inputs: Mapping[str, torch.Tensor], **generate_kwargs
) -> torch.Tensor:
    """Do what `model.generate(**inputs, **generate_kwargs)` does; candidates of an image share its prefix if they can.

    Args:
        model: captioner of any type.
        inputs: pixels or features; where there is a prompt, `input_ids` (B, L), padded on the left, and their
            `attention_mask` (B, L); of an encoder-decoder `decoder_input_ids` (B, L), of one length.
        generate_kwargs: override the model's `generation_config`.

    Returns:
        (B * num_return_sequences, T) int64 token ids, the prompt or start token first.
    """
    if isinstance(model, PeftModel):
        model = model.get_base_model()  # the LoRA layers are inside, and its forward is the one that gets called
    config = copy.deepcopy(generate_kwargs.get("generation_config") or model.generation_config)
    config.update(**generate_kwargs)
    width = max(config.num_beams or 1, config.num_return_sequences or 1)
    if width == 1 or not can_share_prefix(model, inputs, config):
        return model.generate(**inputs, **generate_kwargs)
    if model.config.is_encoder_decoder:
        images = next(iter(inputs.values()))
        prefix_mask = torch.ones(len(images), 0, dtype=torch.bool, device=images.device)
        position = prefix_mask.sum(-1, keepdim=True)
    else:
        inputs, position = prefill(model, inputs)
        prefix_mask = inputs["attention_mask"][:, :-1].bool()
    with candidates_share_prefix(model, SharedPrefixBeams(prefix_mask, position, width)):
        return model.generate(**inputs, **generate_kwargs)


@contextmanager
def decoding_by(model: PreTrainedModel | PeftModel, settings: GenerationConfig):
    """Within this context `generate` of `model` knows `settings` alone.

    It fills what it is not told from the model's own settings, and some types ask a part of the model, whose settings
    are not those of generation_config.json.
    """
    if isinstance(model, PeftModel):
        model = model.get_base_model()
    part = spec_of(model.config).generate_by
    owners = [model] if part is None else [model, getattr(model, part)]
    earlier = [owner.generation_config for owner in owners]
    for owner in owners:
        owner.generation_config = settings
    try:
        yield
    finally:
        for owner, own in zip(owners, earlier, strict=True):
            owner.generation_config = own


def can_share_prefix(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], config: GenerationConfig) -> bool:
    """Whether the candidates of an image may be columns of one row; otherwise stock `generate` expands them.

    The model must honour a 4-D mask and explicit positions in every layer (as for packed training), and the search
    must look at nothing but the logits.
    """
    decoder = model.config.get_text_config(decoder=True)
    return (
        is_packable(model.config)
        and spec_of(model.config).generate_by is None  # elsewhere another forward than the model's is called
        and decoder._attn_implementation in ("sdpa", "eager")
        and all(_sees_all(layer, inputs, config) for layer in DynamicCache(config=decoder).layers)
        and config.get_generation_mode() in SEARCHES
        and config.guidance_scale in (None, 1)  # it runs the model once more in each step
        and config.use_cache is not False
        and not model.training  # dropout would be drawn once for all candidates
        and config.cache_implementation in (None, "dynamic")
        and not (config.output_attentions or config.output_hidden_states)
        and (_starts_bare(inputs) if model.config.is_encoder_decoder else _ends_in_text(inputs, model.config))
    )


def _starts_bare(inputs: Mapping[str, torch.Tensor]) -> bool:
    """Whether an encoder-decoder has nothing but its start token before the caption: the first step has one column."""
    return "decoder_input_ids" not in inputs or inputs["decoder_input_ids"].shape[1] == 1


def _ends_in_text(inputs: Mapping[str, torch.Tensor], config: PreTrainedConfig) -> bool:
    """Whether the last token of the prompt is text: it is run again without the picture."""
    return bool((inputs["input_ids"][:, -1] != config.image_token_id).all())


def _sees_all(layer: CacheLayerMixin, inputs: Mapping[str, torch.Tensor], config: GenerationConfig) -> bool:
    """Whether every token sees all before it in the layer with this cache: no window, or one wider than the search."""
    if type(layer) is DynamicSlidingWindowLayer and config.max_new_tokens is not None:
        return inputs["input_ids"].shape[1] + config.max_new_tokens <= layer.sliding_window
    return type(layer) in (DynamicLayer, WITHOUT_CACHE)


def prefill(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> tuple[dict, torch.Tensor]:
    """Run picture and prompt, all but its last token, once per image, by the model's own forward.

    Where the prefix is read in both directions, the others see the last token: it runs, and leaves the cache again.

    Returns:
        Arguments for `generate`: `input_ids` (B, L), `attention_mask` (B, L), and the cache of L - 1 tokens under the
        name that this version of transformers gives it. And the position of the last token, (B, 1) int64.
    """
    spec, inputs = spec_of(model.config), dict(inputs)
    input_ids, attention_mask = inputs["input_ids"], inputs["attention_mask"]
    whole = spec.two_way == "prefix"
    length = input_ids.shape[1] if whole else input_ids.shape[1] - 1
    for name in ("input_ids", "attention_mask", spec.token_types):
        if name is not None:
            inputs[name] = inputs[name][:, :length]
    if not spec.mrope:  # else the model derives positions from token types and picture sizes
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    outputs = model(**inputs, logits_to_keep=1, use_cache=True)
    caches = {name: _without_windows(value) for name, value in outputs.items() if isinstance(value, Cache)}
    if whole:
        for cache in caches.values():
            cache.crop(-1)
    position = attention_mask[:, :-1].sum(-1, keepdim=True)
    if spec.mrope:
        position = position + model.base_model.rope_deltas
    return {"input_ids": input_ids, "attention_mask": attention_mask} | caches, position


def _without_windows(cache: Cache) -> Cache:
    """Give a cache with the same keys and values and no sliding windows, which count the tokens of all candidates."""
    if all(type(layer) is DynamicLayer for layer in cache.layers):
        return cache
    whole = DynamicCache()
    for number, layer in enumerate(layer for layer in cache.layers if type(layer) is not WITHOUT_CACHE):
        whole.update(layer.keys, layer.values, number)
    return whole


class SharedPrefixBeams:
    """Which cached token each candidate sees, and the hooks that lay candidates out as columns.

    Args:
        prefix_mask: (B, P) bool, the cached prefix without its padding.
        position: (B, 1) int64, of the first token behind it.
        width: candidates per image, K.
    """

    def __init__(self, prefix_mask: torch.Tensor, position: torch.Tensor, width: int):
        self.size = (len(prefix_mask), width)
        self.own = torch.eye(width, dtype=torch.bool, device=prefix_mask.device).expand(len(prefix_mask), -1, -1)
        self.seen = prefix_mask[:, None].expand(-1, width, -1)  # (B, K, P), from now on (B, K, P + K * steps)
        self.position = position

    def reorder(self, beam_idx: torch.Tensor) -> None:
        """Let candidate i continue candidate `beam_idx[i]`, in the place of `Cache.reorder_cache`; (B K,) int64."""
        self.seen = self.seen.flatten(0, 1)[beam_idx].unflatten(0, self.size)

    def before_forward(self, model: PreTrainedModel, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Turn the arguments of B K rows into those of B rows with K columns."""
        prefix = "decoder_" if model.config.is_encoder_decoder else ""
        self.seen = torch.cat([self.seen, self.own], dim=-1)
        kwargs |= {
            f"{prefix}input_ids": kwargs[f"{prefix}input_ids"].view(self.size),  # (B K, 1) -> (B, K)
            f"{prefix}position_ids": self.position.expand(self.size),
            f"{prefix}attention_mask": to_additive_mask(self.seen[:, None], model.dtype),
        }
        self.position = self.position + 1
        if model.config.is_encoder_decoder:
            images = kwargs["encoder_outputs"][0][:: self.size[1]].contiguous()  # (B K, N, D) -> (B, N, D)
            kwargs["encoder_outputs"] = BaseModelOutput(last_hidden_state=images)
        else:
            kwargs["logits_to_keep"] = 0
        cache = next(value for value in kwargs.values() if isinstance(value, Cache))
        cache.reorder_cache = self.reorder
        return args, kwargs

    def after_forward(self, model: PreTrainedModel, args: tuple, outputs: ModelOutput) -> ModelOutput:
        """Give each candidate its row of logits: (B, K, V) -> (B K, 1, V)."""
        outputs.logits = outputs.logits.flatten(0, 1)[:, None]
        return outputs


@contextmanager
def candidates_share_prefix(model: PreTrainedModel, columns: SharedPrefixBeams):
    """Within this context every forward of `model` is one decoding step of `columns`."""
    before = model.register_forward_pre_hook(columns.before_forward, with_kwargs=True)
    after = model.register_forward_hook(columns.after_forward)
    try:
        yield
    finally:
        before.remove()
        after.remove()
