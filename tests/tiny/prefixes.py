"""Tiny captioners whose prefix has positions in three dimensions or is read in both directions, without processors."""

import torch
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    Gemma4Config,
    PaliGemmaConfig,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3VLConfig,
)

from hfcap.generation.inputs import CaptionPrefix, join_vision
from hfcap.models.model_types import spec_of
from tiny.native import QWEN2, SIDE, TEXT, VISION, WIDTH
from tiny.parts import BOS, EOS, PAD

IMAGE, START, END, VIDEO = 60, 61, 62, 63
IDS = {"vocab_size": 64, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
QWEN = {"vision_start_token_id": START, "vision_end_token_id": END, "image_token_id": IMAGE, "video_token_id": VIDEO}
QWEN_VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 8}
QWEN_VISION |= {"out_hidden_size": 32}
HEADS = {"num_key_value_heads": 2, "head_dim": 8}
SIGLIP = {"model_type": "siglip_vision_model", **VISION, "vision_use_head": False}
# Height and width of each picture in patches; the references of each one, one to seven.
GRIDS = ((4, 4), (2, 6), (6, 4))
PROMPTS = ([7], [12, 13, 14], [15, 16])
TARGETS = (
    [[8, 9, 10, EOS], [11, EOS]],
    [[20, EOS]],
    [[21, 22, EOS], [23, EOS], [EOS], [24, 25, 26, 27, EOS], [28, EOS], [29, 30, EOS], [31, EOS]],
)


def qwen2_vl():
    vision = {"depth": 2, "embed_dim": 32, "mlp_ratio": 2, "num_heads": 2, "patch_size": 8, "hidden_size": 32}
    text = {**QWEN2, **IDS, "model_type": "qwen2_vl_text", "rope_parameters": ROPE}
    return Qwen2VLConfig(vision_config={**vision, "initializer_range": 0.2}, text_config=text, **QWEN)


def qwen2_5_vl():
    vision = {**QWEN_VISION, "window_size": 32, "fullatt_block_indexes": [1]}
    text = {**QWEN2, **IDS, "model_type": "qwen2_5_vl_text", "rope_parameters": ROPE}
    return Qwen2_5_VLConfig(vision_config=vision, text_config=text, **QWEN)


def qwen3_vl():
    vision = {**QWEN_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0], "initializer_range": 0.2}
    return Qwen3VLConfig(vision_config=vision, text_config={**TEXT, **HEADS, **IDS, "rope_parameters": ROPE}, **QWEN)


def gemma3(sliding_window):
    text = {**TEXT, **HEADS, **IDS, "query_pre_attn_scalar": 8, "sliding_window": sliding_window}
    text |= {"layer_types": ["sliding_attention", "full_attention"]}
    tokens = {"boi_token_index": START, "eoi_token_index": END, "image_token_index": IMAGE}
    return Gemma3Config(vision_config=SIGLIP, text_config=text, mm_tokens_per_image=4, **tokens)


def gemma4():
    """Two layers of each kind, the latter ones with the keys and values of the former."""
    vision = {"patch_size": 4, "pooling_kernel_size": 2, "position_embedding_size": 64, "num_key_value_heads": 2}
    text = {**TEXT, **HEADS, **IDS, "global_head_dim": 8, "sliding_window": 64, "num_hidden_layers": 4}
    text |= {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2}
    text |= {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 64}
    tokens = {"boi_token_id": START, "eoi_token_id": END, "image_token_id": IMAGE, "video_token_id": VIDEO}
    tokens |= {"audio_token_id": 59, "boa_token_id": 58, "eoa_token_index": 57}
    return Gemma4Config(
        vision_config={**WIDTH, **vision, "num_attention_heads": 2, "head_dim": 16}, text_config=text, **tokens
    )


def paligemma(text_type, **more):
    vision = {**SIGLIP, "projection_dim": 32}
    text = {**TEXT, **HEADS, **IDS, "model_type": text_type, **more}
    return PaliGemmaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, projection_dim=32, hidden_size=32
    )


CONFIGS = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "gemma3": lambda: gemma3(sliding_window=64),
    # Shorter than a row: the two kinds of layers need two masks. Shorter than a picture, too: its last token does not
    # see its first, which sees it.
    "gemma3, short window": lambda: gemma3(sliding_window=3),
    "gemma4": gemma4,
    "paligemma": lambda: paligemma("gemma"),
    "paligemma 2": lambda: paligemma("gemma2", query_pre_attn_scalar=8, sliding_window=64),
}


def build_prefixed(name):
    """Random model of a type of `CONFIGS`, the same every time."""
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(CONFIGS[name]())
    if model.config.model_type == "gemma3":
        torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)  # zeros at first
    return model


def prefixes_of(model):
    """The pictures with their prompts, as the type's processor would give them."""
    torch.manual_seed(1)
    build = {"gemma3": _gemma3_prefix, "gemma4": _gemma4_prefix, "paligemma": _paligemma_prefix}.get(
        model.config.model_type, _qwen_prefix
    )
    return [build(*sizes, prompt) for sizes, prompt in zip(GRIDS, PROMPTS, strict=True)]


def _qwen_prefix(height, width, prompt):
    ids = [5, START] + [IMAGE] * (height * width // 4) + [END, *prompt]
    vision = {"pixel_values": torch.randn(height * width, 3 * 2 * 8 * 8)}
    vision["image_grid_thw"] = torch.tensor([[1, height, width]])
    return CaptionPrefix(ids, vision, [int(token == IMAGE) for token in ids])


def _gemma3_prefix(height, width, prompt):
    """A picture that is not square comes with a crop of it (pan and scan)."""
    crops = 1 + (height != width)
    ids = [BOS] + [5, START, IMAGE, IMAGE, IMAGE, IMAGE, END] * crops + prompt
    return CaptionPrefix(
        ids, {"pixel_values": torch.randn(crops, 3, SIDE, SIDE)}, [int(token == IMAGE) for token in ids]
    )


def _gemma4_prefix(height, width, prompt):
    ids = [BOS, START] + [IMAGE] * (height * width) + [END, *prompt]
    places = torch.cartesian_prod(torch.arange(2 * height), torch.arange(2 * width)).flip(1)  # x before y
    padding = 4 * 24 - len(places)
    vision = {"pixel_values": torch.nn.functional.pad(torch.rand(1, len(places), 3 * 4 * 4), (0, 0, 0, padding))}
    vision["image_position_ids"] = torch.nn.functional.pad(places[None], (0, 0, 0, padding), value=-1)
    return CaptionPrefix(ids, vision, [int(token == IMAGE) for token in ids])


def _paligemma_prefix(_height, _width, prompt):
    ids = [IMAGE] * 16 + [BOS, *prompt]
    return CaptionPrefix(ids, {"pixel_values": torch.randn(1, 3, SIDE, SIDE)}, [0] * len(ids))


def prompts_of(model):
    """Arguments of `generate` for the same pictures and prompts, padded on the left."""
    prefixes, spec = prefixes_of(model), spec_of(model.config)
    longest = max(len(prefix.input_ids) for prefix in prefixes)

    def padded(rows, value):
        return torch.tensor([[value] * (longest - len(row)) + row for row in rows])

    input_ids = padded([prefix.input_ids for prefix in prefixes], PAD)
    types = padded([prefix.token_types for prefix in prefixes], 0)
    inputs = {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long(), spec.token_types: types}
    return inputs | join_vision([prefix.vision for prefix in prefixes])
