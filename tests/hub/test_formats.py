"""Which form a captioner is shipped in, and that stock classes say what ours say."""

import pytest

from hfcap.generation.inputs import caption_prompt
from hfcap.hub import snapshot, verify
from hfcap.hub.formats import choose_format, to_stock
from hfcap.hub.remote_code import AUTO_MAP, add_code
from hfcap.hub.usage import usage_code
from refusals import refused
from tiny.captioners import TINY_ENCODER as CNN
from tiny.exports import LIVELY_VIT, see

# Settings of ours that change nothing where no obstacle was found: sizes that were measured, dropouts, and ways off.
NOT_CARRIED = ("model_type", "image_size", "vision_grid", "vision_hidden_size", "image_seq_length")
NOT_CARRIED += ("pixel_shuffle_factor", "image_position_embeddings", "vision_feature_select_strategy")
NOT_CARRIED += ("feature_layer_norm", "num_bridge_layers", "num_bridge_heads", "vision_feature_layer")
NOT_CARRIED += ("bridge_dropout", "feature_dropout", "image_token_dropout", "image_dropout")
NOT_CARRIED += ("image_token_id",)  # stock LLaVA writes it as image_token_index
ODD_PROJECTOR = {"projector_hidden_act": "relu", "multimodal_projector_bias": False}
ODD_VIT = {**LIVELY_VIT, "hidden_act": "relu", "layer_norm_eps": 0.1}
SIGLIP = {**LIVELY_VIT, "model_type": "siglip_vision_model"}
REGISTERS = {**LIVELY_VIT, "model_type": "dinov2_with_registers", "num_register_tokens": 2}


@pytest.mark.parametrize(
    ("family", "encoder", "options", "stock"),
    [
        ("llava", LIVELY_VIT, {}, "LlavaForConditionalGeneration"),
        ("llava", LIVELY_VIT, {"vision_feature_select_strategy": "full"}, "LlavaForConditionalGeneration"),
        ("llava", LIVELY_VIT, {"vision_feature_layer": -2}, "LlavaForConditionalGeneration"),
        ("llava", ODD_VIT, ODD_PROJECTOR, "LlavaForConditionalGeneration"),
        ("llava", SIGLIP, {}, "LlavaForConditionalGeneration"),  # has no CLS that stock could drop
        ("llava", REGISTERS, {"vision_feature_select_strategy": "full"}, "LlavaForConditionalGeneration"),
        ("encoder_decoder", LIVELY_VIT, {}, "VisionEncoderDecoderModel"),
        ("encoder_decoder", SIGLIP, {"image_dropout": 0.1}, "VisionEncoderDecoderModel"),
        ("encoder_decoder", ODD_VIT, {}, "VisionEncoderDecoderModel"),
    ],
)
def test_stock_classes_hold_the_same_captioner(build, pictures, tmp_path, family, encoder, options, stock):
    model, processor = build(family, encoder, **options)
    assert choose_format(model)[0] == "native"
    prompt = caption_prompt(processor)
    shipped = to_stock(model, processor)
    expected = verify.expect(model, processor, pictures, prompt, shipped=shipped)
    assert len(set(expected["captions"])) > 2, "captions that do not depend on the picture would prove nothing"
    for part in shipped:
        part.save_pretrained(tmp_path)
    found = see(tmp_path, pictures, usage_code(shipped[0].config.model_type, prompt))
    assert found["class"] == stock
    own, carried = snapshot.describe_config(model)["config"], found["config"]
    lost = {name for name, value in own.items() if carried.get(name) != value}
    assert lost <= set(NOT_CARRIED), "a setting that stock classes have no place for must be an obstacle"
    assert verify.differences(expected, found) == []


@pytest.mark.parametrize(
    ("family", "encoder", "options", "reason"),
    [
        ("llava", CNN, {}, "a convnext encoder"),
        ("llava", LIVELY_VIT, {"pixel_shuffle_factor": 2}, "pixel_shuffle_factor=2"),
        ("llava", LIVELY_VIT, {"image_position_embeddings": True}, "image_position_embeddings=True"),
        ("llava", LIVELY_VIT, {"vision_feature_layer": None}, "vision_feature_layer=None"),
        ("llava", REGISTERS, {}, "dropping 3 tokens before the patches"),
        ("encoder_decoder", CNN, {}, "a convnext encoder"),
        ("encoder_decoder", LIVELY_VIT, {"num_bridge_layers": 1}, "num_bridge_layers=1"),
        ("encoder_decoder", LIVELY_VIT, {"feature_layer_norm": True}, "feature_layer_norm=True"),
        ("encoder_decoder", LIVELY_VIT, {"image_position_embeddings": True}, "image_position_embeddings=True"),
        ("encoder_decoder", LIVELY_VIT, {"vision_feature_layer": -2}, "vision_feature_layer=-2"),
        ("encoder_decoder", LIVELY_VIT, {"vision_feature_select_strategy": "default"}, "dropping the tokens"),
    ],
)
def test_what_stock_classes_cannot_express_stays_ours(build, family, encoder, options, reason):
    model, _ = build(family, encoder, **options)
    chosen, why = choose_format(model)
    assert chosen == "hfcap"
    assert reason in why
    assert choose_format(model, "remote-code")[0] == "remote-code"
    with refused(option="--format", got="native", says=reason):
        choose_format(model, "native")


def test_a_stock_captioner_stays_what_it_is(build):
    stock = to_stock(*build("llava"))[0]
    assert choose_format(stock) == ("native", "LlavaForConditionalGeneration is a class of transformers")
    with refused(option="--format", got="remote-code", wanted="native"):
        choose_format(stock, "remote-code")


@pytest.mark.parametrize("model_type", AUTO_MAP)
def test_the_code_beside_a_checkpoint_is_whole_without_hfcap(tmp_path, model_type):
    """`add_code` raises where a module imports more of hfcap than its siblings."""
    for name in ("config.json", "processor_config.json"):
        (tmp_path / name).write_text("{}")
    names = add_code(tmp_path, model_type)
    assert {reference.split(".")[0] + ".py" for reference in AUTO_MAP[model_type].values()} < set(names)
    assert sorted(path.name for path in tmp_path.glob("*.py")) == names
