"""`hfcap.ondevice.Captioner`: its captions are PyTorch's; batches, prompts, settings; what is refused."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from PIL import Image

from hfcap.data.scenes import load_scenes
from hfcap.generation.caption import caption, generate_tokens
from hfcap.generation.inputs import caption_prompt, encode_prefix, keep_caption_prompt
from hfcap.generation.loading import complete_settings
from hfcap.generation.settings import end_token_ids
from hfcap.generation.word_probabilities import scored_caption_stream
from hfcap.hub.onnx_format import OnnxFormat
from hfcap.ondevice import Captioner
from hfcap.ondevice.image_processing import ImageProcessor
from hfcap.ondevice.settings import read_decoding
from refusals import refused
from tiny.captioners import build_joined, captions_of
from tiny.exports import LIVELY_DECODERS
from tiny.onnx_export import DECODING, IMAGE, change, make_export

COLORS = [(220, 40, 30), (30, 200, 40), (20, 40, 90), (240, 240, 240), (90, 20, 200), (128, 128, 128), (200, 200, 20)]


@pytest.fixture(scope="module", params=["encoder_decoder", "llava"])
def both(request, tmp_path_factory, scene_rows):
    """A captioner in torch, its processor, and its export."""
    parts = {"pixel_shuffle_factor": 2} if request.param == "llava" else {}
    model, processor = build_joined(
        request.param, captions_of(scene_rows), decoder_config=LIVELY_DECODERS[request.param], **parts
    )
    if request.param == "llava":
        keep_caption_prompt(processor, "What is <image> in it?")
    complete_settings(model, processor)
    model.generation_config.update(max_new_tokens=10, num_beams=3, early_stopping=True)
    folder = tmp_path_factory.mktemp("export")
    OnnxFormat(model.eval(), processor, 18).write(folder)
    return model, processor, Captioner(folder, num_threads=1)


@pytest.fixture(scope="module")
def images():
    return [row["image"].convert("RGB") for row in load_scenes("validation", 6, "caption", image_size=48)]


SETTINGS = [
    {},
    {"num_beams": 1},
    {"num_beams": 4, "length_penalty": 0.3, "early_stopping": False, "no_repeat_ngram_size": 2},
    {"num_beams": 2, "repetition_penalty": 1.4, "min_new_tokens": 4, "max_new_tokens": 7},
    {"num_beams": 1, "no_repeat_ngram_size": 1, "repetition_penalty": 0.8},
]


def torch_tokens(model, processor, images, batch_size, **changes):
    import copy

    settings = copy.deepcopy(model.generation_config)
    settings.update(**changes, num_return_sequences=1)
    if settings.num_beams == 1:
        settings.update(early_stopping=False, length_penalty=1.0)
    prompt = caption_prompt(processor)
    prefixes = [encode_prefix(processor, model.config, {"image": image}, prompt) for image in images]
    rows = []
    for start in range(0, len(images), batch_size):
        rows += generate_tokens(model, processor, prefixes[start : start + batch_size], settings)
    ends = end_token_ids(settings)
    cut = [next((place + 1 for place, token in enumerate(row) if token in ends), len(row)) for row in rows]
    return [row[:end] for row, end in zip(rows, cut, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_tokens_are_those_of_torch(both, images, changes):
    model, processor, captioner = both
    wanted = torch_tokens(model, processor, images, len(images), **changes)
    assert captioner.caption_ids(images, **changes) == wanted
    assert [captioner.caption_ids([image], **changes)[0] for image in images] == wanted
    assert len({tuple(row) for row in wanted}) > 1


@pytest.mark.slow
def test_captions_prompts_pixels_and_probabilities_are_those_of_torch(both, images):
    model, processor, captioner = both
    assert captioner.caption(images, batch_size=4) == caption(model, processor, images, batch_size=4)
    prompt = caption_prompt(processor)
    prefix = encode_prefix(processor, model.config, {"image": images[0]}, prompt)
    assert captioner.prompt_ids() == prefix.input_ids
    np.testing.assert_array_equal(captioner.image_processor(images[0]), prefix.vision["pixel_values"][0].numpy())
    loads = [lambda image=image: {"image": image} for image in images]
    wanted = dict(scored_caption_stream(model, processor, loads, prompt, batch_size=4))
    found = dict(captioner.scored_stream(loads, batch_size=4))
    for index, sample in wanted.items():
        assert (found[index].tokens, found[index].caption) == (sample.tokens, sample.caption)
        np.testing.assert_allclose(found[index].log_probabilities, sample.log_probabilities, atol=1e-4)
    if captioner.image_token_id is not None:
        for other in ("", "And <image> the other?", "Describe it."):
            prefix = encode_prefix(processor, model.config, {"image": images[0]}, other)
            assert captioner.prompt_ids(other) == prefix.input_ids


# ---- without torch: exports made by hand


@pytest.fixture(params=["encoder_decoder", "decoder_only"])
def export(request, tmp_path):
    return make_export(tmp_path / "export", request.param)


def pictures():
    return [Image.new("RGB", (20, 30), color) for color in COLORS]


def test_a_picture_has_its_caption_in_any_batch(export):
    captioner = Captioner(export)
    captions = captioner.caption(pictures())
    assert len(set(captions)) > 3 and len({len(one.split()) for one in captions}) > 1
    for batch_size in (1, 3):
        assert captioner.caption(pictures(), batch_size=batch_size) == captions
    assert captioner.caption(pictures(), num_beams=1) != captions
    assert all(len(one.split()) <= 2 for one in captioner.caption(pictures(), max_new_tokens=2))
    assert captioner.caption([]) == []


def test_a_prompt_counts_where_there_is_one(export):
    captioner = Captioner(export)
    if captioner.image_token_id is None:
        with refused(option="prompt", got="red"):
            captioner.caption(pictures(), prompt="red")
        return
    assert captioner.prompt_ids("red ball <eos>")[:3] == [3, 8, 9] and 2 not in captioner.prompt_ids("red ball <eos>")
    assert captioner.caption(pictures(), prompt="red") != captioner.caption(pictures())


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ({"num_beam": 2}, "num_beam"),
        ({"num_beams": 0}, "num_beams"),
        ({"max_new_tokens": True}, "max_new_tokens"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"batch_size": "8"}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"early_stopping": "late"}, "early_stopping"),
        ({"temperature": 2.0}, "temperature"),
    ],
)
def test_arguments_that_are_wrong_are_refused(tmp_path, arguments, option):
    with refused(option=option):
        Captioner(make_export(tmp_path / "export")).caption(pictures(), **arguments)


def test_a_single_picture_is_refused_and_a_variant_is_chosen(tmp_path):
    captioner = Captioner(make_export(tmp_path / "export"))
    with refused(option="pictures", wanted="a list of images"):
        captioner.caption(Image.new("RGB", (3, 3)))
    with refused(option="variant", got="int8", wanted="one of none"):
        Captioner(tmp_path / "export", variant="int8")


def break_graph(folder):
    path = folder / "onnx" / "decoder_model_merged.onnx"
    path.write_bytes(b"\0" * path.stat().st_size)


def raise_opset(folder):
    path = folder / "onnx" / "decoder_model_merged.onnx"
    model = onnx.load(path)
    model.opset_import[0].version = 99
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda folder: (folder / "hfcap_ondevice.json").unlink(), "hfcap_ondevice.json is missing"),
        (lambda folder: (folder / "hfcap_ondevice.json").write_text("{"), "hfcap_ondevice.json"),
        (lambda folder: change(folder, "hfcap_ondevice", schema_version=9), "schema_version is 9"),
        (lambda folder: change(folder, "hfcap_ondevice", layout="ctc"), "'ctc'"),
        (lambda folder: change(folder, "hfcap_ondevice", layout=["ctc"]), "no usable layout;"),
        (lambda folder: change(folder, "hfcap_ondevice", variants={}), "no usable variants;"),
        (lambda folder: change(folder, "hfcap_ondevice", variants=["none"]), "no usable variants;"),
        (
            lambda folder: change(folder, "hfcap_ondevice", variants={"none": {"encoder_model": {"file": "a.onnx"}}}),
            "no graph encoder_model",
        ),
        (lambda folder: change(folder, "hfcap_ondevice", decoding=None, image_processor=[]), "decoding, image_proc"),
        (lambda folder: change(folder, "hfcap_ondevice", prompt_ids=[]), "no usable prompt_ids"),
        (lambda folder: change(folder, "hfcap_ondevice", decoding=DECODING | {"eos_token_id": "</s>"}), "token ids"),
        (
            lambda folder: change(folder, "hfcap_ondevice", decoding=DECODING | {"do_sample": True}),
            "do_sample",
        ),
        (lambda folder: change(folder, "hfcap_ondevice", decoding={"num_beams": 1}), "eos_token_id"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "no tokenizer"),
        (lambda folder: (folder / "onnx" / "encoder_model.onnx").unlink(), "encoder_model.onnx is missing"),
        (lambda folder: (folder / "onnx" / "encoder_model.onnx").write_bytes(b"half"), "it has 4 bytes of"),
        (lambda folder: (folder / "hfcap_ondevice.json").write_text('{"layout'), "a part of one; write it again"),
        (break_graph, "cannot load it"),
        (raise_opset, "its operator set is 99, and the newest known one "),
    ],
)
def test_a_folder_that_is_wrong_is_one_line(tmp_path, break_it, says):
    folder = make_export(tmp_path / "export")
    break_it(folder)
    with refused(says=says):
        Captioner(folder)


@pytest.mark.parametrize("size", [{"height": 24, "width": 16}, {"shortest_edge": 16}], ids=str)
def test_pictures_of_another_size_than_the_graphs_take_are_one_line(tmp_path, size):
    folder = make_export(tmp_path / "export")
    change(folder, "hfcap_ondevice", image_processor=IMAGE | {"size": size})
    with refused(option="image_processor", got=size, fix="export the model again", says="the graphs take 16 x 16"):
        Captioner(folder, num_threads=1).caption(pictures())


def test_an_encoder_that_takes_no_pictures_is_one_line(tmp_path):
    folder = make_export(tmp_path / "export")
    settings = json.loads((folder / "hfcap_ondevice.json").read_text())["variants"]["none"]
    change(folder, "hfcap_ondevice", variants={"none": settings | {"encoder_model": settings["decoder_model_merged"]}})
    with refused(option="model", wanted="pixel_values of one size"):
        Captioner(folder, num_threads=1)


def test_graphs_of_another_kind_are_one_line(tmp_path):
    folder = make_export(tmp_path / "export")
    settings = json.loads((folder / "hfcap_ondevice.json").read_text())["variants"]["none"]
    change(folder, "hfcap_ondevice", variants={"none": settings | {"decoder_model_merged": settings["encoder_model"]}})
    with refused(says=("its inputs are pixel_values", "past_key_values")):
        Captioner(folder)


def test_settings_off_are_no_settings():
    off = {"do_sample": False, "guidance_scale": 1.0, "diversity_penalty": 0.0, "bad_words_ids": None}
    assert read_decoding(DECODING | off) == read_decoding(DECODING)


def test_it_imports_little_and_fast(tmp_path):
    code = (
        "import sys, time; start = time.process_time(); from hfcap.ondevice import Captioner; "
        "print(time.process_time() - start, sorted({'torch', 'transformers', 'datasets'} & {*sys.modules}))"
    )
    seconds, loaded = min(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120).stdout.split()
        for _ in range(2)
    )
    assert loaded == "[]" and float(seconds) < 0.5


def test_an_image_processor_of_another_kind_is_refused(tmp_path):
    folder = make_export(tmp_path / "export")
    change(folder, "hfcap_ondevice", image_processor={"image_processor_type": "DonutImageProcessor"})
    with refused(option="image_processor_type", got="DonutImageProcessor"):
        Captioner(folder)
    with refused(option="image_processor_type"):
        ImageProcessor({})


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("num_beams", "3", "1 or more"),
        ("min_new_tokens", -3, "0 or more"),
        ("min_length", "x", "0 or more"),
        ("no_repeat_ngram_size", 2.5, "0 or more"),
        ("length_penalty", float("nan"), "a number"),
        ("repetition_penalty", "1.2", "a number"),
        ("suppress_tokens", [-1], "token ids"),
        ("eos_token_id", "</s>", "token ids"),
        ("length", 8, "caption with the run that was exported"),
    ],
)
def test_a_decoding_setting_that_is_wrong_is_one_line(name, value, wanted):
    with refused(says=(name, wanted)):
        read_decoding(DECODING).changed({name: value})


def test_a_dtype_for_each_graph_is_for_javascript_alone(tmp_path):
    folder = make_export(tmp_path / "export")
    change(folder, "config", **{"transformers.js_config": {"dtype": {"encoder_model": "fp32"}}})
    Captioner(folder, num_threads=1)
