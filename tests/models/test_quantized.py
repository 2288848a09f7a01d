"""4-bit layers on a CPU: what the stock library does to them in eval() must not reach training."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from tiny.parts import BOS, IMAGE_ID, build_llava, random_images, random_words

bitsandbytes = pytest.importorskip("bitsandbytes")


@pytest.fixture
def quantized(tmp_path):
    build_llava("vit", "llama").save_pretrained(tmp_path)
    skipped = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=skipped,
    )
    return AutoModelForImageTextToText.from_pretrained(tmp_path, quantization_config=config)


def test_only_the_language_model_is_quantized(quantized):
    names = [name for name, module in quantized.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert len(names) == 14
    assert all(name.startswith("model.language_model.") for name in names)


def test_gradients_pass_through_4bit_layers_after_an_evaluation(quantized):
    layers = [module for module in quantized.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = True  # as on a CPU that has it
    quantized.eval()
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    input_ids = torch.cat([torch.tensor([[BOS] + [IMAGE_ID] * 16]), random_words(1, 5)], dim=1)
    features = quantized.get_vision_features(random_images(1)).detach()
    inputs = {"input_ids": input_ids, "vision_features": features}
    quantized.generate(**inputs, max_new_tokens=2)
    with torch.no_grad():
        evaluated = quantized(**inputs).logits
    quantized.model.vision_tower.requires_grad_(False)
    quantized.train()
    outputs = quantized(**inputs, labels=input_ids)
    torch.testing.assert_close(outputs.logits, evaluated)
    outputs.loss.backward()
    assert quantized.model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0
    # Through all layers, not around them by the residual connections.
    assert all(not getattr(layer.weight.quant_state, "packing_format_for_cpu", False) for layer in layers)
