"""A ViT and no token reduction: the weights are those of stock LLaVA."""

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from tiny.parts import BOS, IMAGE_ID, build_llava, random_images, random_words


@pytest.mark.parametrize(
    ("encoder", "language_model", "layer", "stock_strategy"),
    [
        ("vit", "llama", -1, "default"),
        ("vit", "qwen3", -2, "default"),
        ("dinov2", "llama", -1, "default"),
        ("siglip", "llama", -1, "full"),  # stock drops the first token of any encoder, and SigLIP has no CLS
    ],
)
@torch.no_grad()
def test_weights_load_into_stock_llava(encoder, language_model, layer, stock_strategy):
    model = build_llava(encoder, language_model, vision_feature_layer=layer)
    config = LlavaConfig(
        vision_config=model.config.vision_config.to_dict(),
        text_config=model.config.text_config.to_dict(),
        image_token_index=IMAGE_ID,
        image_seq_length=model.config.image_seq_length,
        vision_feature_layer=layer,
        vision_feature_select_strategy=stock_strategy,
    )
    stock = LlavaForConditionalGeneration(config).eval()
    stock.load_state_dict(model.state_dict(), strict=True)
    head = torch.tensor([[BOS] + [IMAGE_ID] * model.config.image_seq_length])
    input_ids = torch.cat([head.expand(2, -1), random_words(2, 5)], dim=1)
    inputs = {"input_ids": input_ids, "pixel_values": random_images(2)}
    torch.testing.assert_close(model(**inputs).logits, stock(**inputs).logits, atol=1e-5, rtol=1e-5)
