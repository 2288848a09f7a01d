"""`hfcap export --format onnx`: files, equality with PyTorch in a clean process, what is refused."""

import copy
import json
import shutil
from importlib.util import find_spec

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from huggingface_hub import ModelCard  # noqa: E402
from onnx import numpy_helper  # noqa: E402
from transformers import AutoModelForImageTextToText  # noqa: E402

from hfcap import cli, runs  # noqa: E402
from hfcap.content_hashes import file_sha256  # noqa: E402
from hfcap.errors import VerificationError  # noqa: E402
from hfcap.generation.loading import load_captioner  # noqa: E402
from hfcap.hub import onnx_export, onnx_format, onnx_snapshot  # noqa: E402
from hfcap.hub.card import write_shipped_card  # noqa: E402
from hfcap.hub.card_check import check_card  # noqa: E402
from hfcap.hub.card_data import read_card_data  # noqa: E402
from hfcap.hub.card_metadata import Given  # noqa: E402
from hfcap.hub.export import export_run  # noqa: E402
from hfcap.hub.formats import to_stock  # noqa: E402
from hfcap.hub.onnx_export import OnnxOptions  # noqa: E402
from hfcap.hub.onnx_files import cleans_up  # noqa: E402
from hfcap.hub.onnx_format import OnnxFormat, check_onnx  # noqa: E402
from hfcap.hub.publish import publish, shipped_card_data  # noqa: E402
from hfcap.hub.push import Target  # noqa: E402
from hub.conftest import write_records  # noqa: E402
from hub.test_publish import judge_run  # noqa: E402
from refusals import refused  # noqa: E402
from tiny.captioners import TINY_ENCODER  # noqa: E402
from tiny.exports import LIVELY_DECODERS, LIVELY_VIT  # noqa: E402
from tiny.native import build_native  # noqa: E402

BRIDGE = {"num_bridge_layers": 1, "feature_layer_norm": True, "image_position_embeddings": True}
ENCODER_DECODER = ["encoder_model", "decoder_model_merged"]
LLAVA = ["vision_encoder", "embed_tokens", "decoder_model_merged"]


def save_run(run, model, processor, **settings):
    """A run folder whose captioner decodes with two beams."""
    model.generation_config.update(num_beams=2, early_stopping=True, no_repeat_ngram_size=2, max_new_tokens=8)
    write_records(run, max_eval_images=12, **settings)
    for part in (model, processor):
        part.save_pretrained(run / runs.MODEL)
    return run


@pytest.fixture(scope="module")
def build_small(build):
    """Build a captioner whose decoder has one layer: tracing takes time by the number of operators."""

    def build_one(family, **options):
        one_layer = {"n_layer": 1} if family == "encoder_decoder" else {"num_hidden_layers": 1}
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(LIVELY_DECODERS, family, LIVELY_DECODERS[family] | one_layer)
            return build(family, encoder=TINY_ENCODER, **options)

    return build_one


@pytest.fixture(scope="module")
def encoder_decoder(build_small, tmp_path_factory):
    """A run with a CNN and all parts of the bridge, and its export in all variants."""
    place = tmp_path_factory.mktemp("encoder_decoder")
    run = save_run(place / "run", *build_small("encoder_decoder", **BRIDGE))
    options = OnnxOptions(("float16", "int8", "none"))
    return run, export_run(run, place / "export", "onnx", onnx=options)


@pytest.fixture(scope="module")
def written(encoder_decoder, pictures, tmp_path_factory):
    """The same export in float32: its format, folder, four pictures, and what PyTorch says of them."""
    run, exported = encoder_decoder
    folder = shutil.copytree(exported, tmp_path_factory.mktemp("written") / "export")
    form = OnnxFormat(*load_captioner(str(run / runs.MODEL)), 18)
    form.graphs = ENCODER_DECODER
    form.list_variants(folder, ["none"])
    return form, folder, pictures[:4], form.expect(pictures[:4])


def read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_the_folder_is_laid_out_for_transformers_js(encoder_decoder):
    _, folder = encoder_decoder
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    graphs = {f"onnx/{name}{suffix}.onnx" for name in ENCODER_DECODER for suffix in ("", "_quantized", "_fp16")}
    settings = {"config", "generation_config", "preprocessor_config", "tokenizer", "tokenizer_config"}
    assert files == graphs | {f"{name}.json" for name in (*settings, "hfcap_ondevice", "verification")}
    config = read(folder, "config.json")
    assert (config["model_type"], config["is_encoder_decoder"]) == ("vision-encoder-decoder", True)
    sizes = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 32}
    assert sizes.items() <= config["decoder"].items()
    assert config["transformers.js_config"] == {"dtype": "fp16"}  # the first of --quantize
    assert read(folder, "preprocessor_config.json")["image_processor_type"] == "ViTImageProcessor"
    assert read(folder, "tokenizer_config.json")["clean_up_tokenization_spaces"] is False
    assert read(folder, "generation_config.json")["num_beams"] == 1
    assert not {"early_stopping", "length_penalty"} & set(read(folder, "generation_config.json"))


def test_hfcap_ondevice_json_keeps_what_the_web_cannot_do(encoder_decoder):
    run, folder = encoder_decoder
    settings, model_settings = read(folder, "hfcap_ondevice.json"), read(run / "model", "generation_config.json")
    for name in ("num_beams", "no_repeat_ngram_size", "max_new_tokens", "eos_token_id", "decoder_start_token_id"):
        assert settings["decoding"][name] == model_settings[name], name
    assert settings["prompt_ids"] == [model_settings["decoder_start_token_id"]]
    assert settings["image_processor"] == read(folder, "preprocessor_config.json")
    assert settings["versions"]["pillow"] and settings["opset"] == 18
    for graphs in settings["variants"].values():
        for found in graphs.values():
            assert (folder / found["file"]).stat().st_size == found["bytes"]
            assert file_sha256(folder / found["file"]) == found["sha256"]


def test_graphs_hold_no_paths_and_take_any_batch(encoder_decoder):
    _, folder = encoder_decoder
    for path in (folder / "onnx").iterdir():
        assert b"site-packages" not in path.read_bytes(), path.name
        graph = onnx.load(path).graph
        # transformers.js sizes an empty cache by an axis of this name.
        for one in (*graph.input, *graph.output):
            assert one.type.tensor_type.shape.dim[0].dim_param == "batch_size", (path.name, one.name)


def test_the_record_says_what_was_verified_and_what_variants_cost(encoder_decoder):
    _, folder = encoder_decoder
    record = read(folder, "verification.json")
    assert (record["format"], record["class"]) == ("onnx", "HfcapEncoderDecoderModel")
    assert record["captions"] == {"compared": 8, "of": "8 pictures of scenes, validation"}
    assert record["dtypes"] == ["fp16", "q8", "fp32"] and record["num_beams"] == 2
    assert all(milliseconds > 0 for milliseconds in record["cpu_milliseconds"].values())
    assert set(record["costs"]) == {"float16", "int8"}
    for cost in record["costs"].values():
        assert cost["num_images"] == 12 and cost["ci95"][0] <= cost["difference"] <= cost["ci95"][1]


def test_the_card_says_what_loads_and_what_variants_cost(encoder_decoder, scene_rows, tmp_path):
    run, folder = encoder_decoder
    judge_run(run, scene_rows, ["a red square"] * len(scene_rows))
    ready = shutil.copytree(folder, tmp_path / "ready")
    card_data = shipped_card_data(read_card_data(run), ready, "user/dogs")
    write_shipped_card(run, ready, card_data, Given(license="mit", datasets=("user/photos",)))
    card = (ready / "README.md").read_text(encoding="utf-8")
    assert ModelCard(card).data.library_name == "transformers.js"
    assert 'await pipeline("image-to-text", "user/dogs")' in card and "from_pretrained" not in card
    rows = [line for line in card.splitlines() if line.startswith(("| fp16", "| q8", "| fp32"))]
    record = read(folder, "verification.json")
    for row, dtype, variant in zip(rows, record["dtypes"], ("float16", "int8", "none"), strict=True):
        size = sum(found["bytes"] for found in record["files"][variant].values()) / 1e6
        milliseconds = record["cpu_milliseconds"][variant]
        cider = record["costs"].get(variant, {"b": record["costs"]["int8"]["a"]})["b"]
        assert row.startswith(f"| {dtype} | {size:.1f} | {milliseconds:.0f} | {100 * cider:.1f} |")
        cost = record["costs"].get(variant)
        assert f"| {0 - 100 * cost['difference']:.2f} |" in row if cost else "the captions of PyTorch" in row
    assert check_card(ready / "README.md") == ([], [])


def test_variants_are_smaller(encoder_decoder):
    _, folder = encoder_decoder

    def weights(suffix):
        tensors = onnx.load(folder / "onnx" / f"encoder_model{suffix}.onnx").graph.initializer
        return sum(numpy_helper.to_array(tensor).nbytes for tensor in tensors)

    assert weights("_fp16") < 0.6 * weights("") and weights("_quantized") < 0.4 * weights("")


def test_a_clean_process_says_what_pytorch_says(written):
    form, folder, images, expected = written
    found = form.load(folder, images)
    assert form.compare(expected, found) == [] and found["modules"] == []
    assert len({sample["caption"] for sample in beams(expected, "1")}) > 1  # the picture matters
    assert expected["captions"]["greedy search"] != expected["captions"]["the shipped settings"]


def beams(found, batch_size):
    return found["captions"]["the shipped settings"][batch_size]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda found: beams(found, "3")[1].update(tokens=[5]), "tokens by the shipped settings at batch size 3, pic"),
        (
            lambda found: beams(found, "1")[0].update(caption="man 's"),
            "caption by the shipped settings at batch size 1",
        ),
        (
            lambda found: found["captions"]["greedy search"]["1"][2].update(log_probabilities=[-40.0]),
            "log-probabilities by greedy search at batch size 1, picture 3",
        ),
        (lambda found: found["prompt_ids"].append(1), "prompt ids"),
        (lambda found: found["pixel_values"][3, 0].fill(0), "pixel values of picture 4"),
        (lambda found: found["modules"].append("torch"), "torch was imported"),
    ],
)
def test_each_difference_is_named(written, spoil, says):
    form, _, _, expected = written
    found = copy.deepcopy(expected) | {"modules": []}
    assert form.compare(expected, found) == []
    spoil(found)
    (problem,) = form.compare(expected, found)
    assert says in problem


@pytest.mark.parametrize("graph", ENCODER_DECODER)
def test_other_weights_are_noticed(written, tmp_path, graph):
    form, folder, images, expected = written
    spoiled = shutil.copytree(folder, tmp_path / "spoiled")
    path = spoiled / "onnx" / f"{graph}.onnx"
    model = onnx.load(path)
    largest = max(model.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    values = numpy_helper.to_array(largest)
    largest.CopyFrom(numpy_helper.from_array(np.flip(values).copy(), largest.name))
    onnx.save(model, path)
    form.list_variants(spoiled, ["none"])
    assert form.compare(expected, form.load(spoiled, images))


def test_a_graph_that_was_cut_off_is_one_line(written, tmp_path):
    form, folder, images, _ = written
    half = shutil.copytree(folder, tmp_path / "half")
    path = half / "onnx" / "encoder_model.onnx"
    path.write_bytes(path.read_bytes()[:2000])
    with refused(VerificationError, says=("clean process", "encoder_model.onnx")):
        form.load(half, images)
    (half / "tokenizer.json").unlink()
    path.write_bytes((folder / "onnx" / "encoder_model.onnx").read_bytes())
    with refused(VerificationError, says="clean process"):
        form.load(half, images)


@pytest.mark.parametrize("name", ["torch.nn", "transformers", "hfcap.models", "hfcap.generation.caption"])
def test_the_clean_process_cannot_import(name):
    with pytest.raises(ModuleNotFoundError, match="blocked"):
        onnx_snapshot._Blocked().find_spec(name)


def test_a_variant_that_costs_too_much_is_refused(written, scene_rows, monkeypatch, tmp_path):
    form, folder, _, _ = written
    spoiled = shutil.copytree(folder, tmp_path / "spoiled")
    rows = [{"image": row["image"].convert("RGB"), "captions": row["captions"]} for row in scene_rows][:6]
    said = {"none": ["a red square"] * 6, "float16": ["a red square"] * 6, "int8": ["blue"] * 6}
    monkeypatch.setattr(onnx_export._Judge, "_captions", lambda judge, variant: said[variant])
    rows = [{**row, "captions": ["a red square", "one red square"]} for row in rows[:3]] + rows[3:]
    with refused(
        VerificationError,
        option="--quantize",
        got="int8",
        says=("float16", "it costs 0.00", "more than the 1.0 allowed"),
    ):
        onnx_export._add_variants(spoiled, form, ["int8"], rows, "ptb")
    costs = onnx_export._add_variants(spoiled, form, ["float16"], rows, "ptb")
    assert costs["float16"]["difference"] == 0 and costs["float16"]["same_captions"] == 1


def test_the_figure_decides_and_a_wide_interval_is_said():
    pairs = ((-0.002, -0.01), (-0.01, -0.02), (-0.011, -0.02))
    sure, unsure, dear = ({"difference": lost, "ci95": [low, 0.02]} for lost, low in pairs)
    assert onnx_export.is_small(sure) and onnx_export.is_small(unsure) and not onnx_export.is_small(dear)
    assert onnx_export.said_doubt(sure) == "" and "more than 1.0 cannot be excluded" in onnx_export.said_doubt(unsure)


def test_what_cannot_be_exported_is_refused_by_name(build, scene_rows, monkeypatch):
    captions = [caption for captions in scene_rows["captions"] for caption in captions]
    blip, _ = build_native("blip", captions)
    with refused(option="--format", got="onnx", says=("a blip captioner", "hfcap_llava", "vision-encoder-decoder")):
        check_onnx(blip, 18)
    model, _ = build("llava")
    for opset in (17, 99):
        with refused(option="--opset", got=opset, wanted="18 to 21"):
            check_onnx(model, opset)
    monkeypatch.setattr(onnx_format, "find_spec", lambda name: None if name == "onnxscript" else find_spec(name))
    with refused(option="--format", fix='run: pip install "hfcap[onnx]"', says="onnxscript is not installed"):
        check_onnx(model, 18)


@pytest.mark.parametrize("family", ["encoder_decoder", "llava"])
@pytest.mark.parametrize(
    ("changes", "option", "says"),
    [
        ({"size": {"height": 40, "width": 40}}, "image processor", "does not take such pictures: Input image size"),
        ({"size": {"height": 2, "width": 2}}, "image processor", "does not take such pictures"),
        ({"size": {"shortest_edge": 32}}, "image processor", "the shape of each picture"),
        ({"do_resize": False}, "image processor", "the shape of each picture"),
        ({"resample": 9}, "resample", "wanted 0 to 5"),
        ({"image_mean": [0.5, 0.5]}, "image_mean", "a number, or three"),
    ],
    ids=str,
)
def test_pictures_that_do_not_fit_the_model_are_one_line(build, family, changes, option, says):
    model, processor = build(family)
    for name, value in changes.items():
        setattr(processor.image_processor, name, value)
    with refused(option=option, says=says):
        OnnxFormat(model, processor, 18)


def test_wrong_wishes_are_refused_before_anything_is_traced(make_run, tmp_path):
    run = make_run()
    with refused(option="--quantize, --opset and --data", says="--format onnx"):
        export_run(run, tmp_path / "ready", onnx=OnnxOptions())
    with refused(option="--revision", got="onnx", says="--repo user/dogs-onnx"):
        publish(run, Target("user/dogs", revision="onnx"), format="onnx")
    with refused(option="--dtype", got="float16", fix="pass --quantize float16 or int8"):
        export_run(run, tmp_path / "ready", "onnx", dtype="float16")
    with refused(option="--quantize", got="int4", wanted="one or more of none, float16, int8"):
        OnnxOptions(("int4",))
    (tmp_path / "there").mkdir()
    with refused(option="--to", got=str(tmp_path / "there")):
        export_run(run, tmp_path / "there", "onnx")
    with refused(option="--quantize", says=("evaluation split", "--data")):
        missing = OnnxOptions(("int8",), data=str(tmp_path / "nowhere"))
        export_run(run, tmp_path / "ready", "onnx", onnx=missing)
    (run / runs.RUN_JSON).unlink()
    with refused(option="--quantize", says=("run.json", "--quantize none")):
        export_run(run, tmp_path / "ready", "onnx", onnx=OnnxOptions(("int8",)))
    assert not (tmp_path / "ready").exists()


def test_the_command_line_asks_for_it(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("hfcap.hub.export.export_run", lambda run, to, **options: asked.append(options) or to)
    command = ["export", "RUN", "--to", str(tmp_path), "--format", "onnx"]
    cli.main([*command, "--quantize", "int8", "none", "--opset", "19", "--data", "PLACE"])
    cli.main(command)
    assert asked[0]["onnx"] == OnnxOptions(("int8", "none"), 19, "PLACE")
    assert asked[1]["format"] == "onnx" and "onnx" not in asked[1]


def test_spaces_are_cleaned_where_hfcap_cleans_them(build):
    """JavaScript takes a missing setting for true, and cleans what a BPE tokenizer of transformers would not."""
    _, processor = build("encoder_decoder")
    assert not cleans_up(processor)
    processor = copy.deepcopy(processor)
    processor.tokenizer.clean_up_tokenization_spaces = True
    assert not cleans_up(processor)  # byte-level BPE: transformers ignores it
    tokens = processor.tokenizer("a man 's dog , here")["input_ids"]
    assert processor.tokenizer.decode(tokens).strip() == "a man 's dog , here"


BERT = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT |= {"intermediate_size": 64, "max_position_embeddings": 64, "initializer_range": 0.3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("encoder_decoder", {"stock": True}),
        ("encoder_decoder", {"num_bridge_layers": 2}),
        ("encoder_decoder", {"decoder": BERT}),
        ("llava", {"stock": True}),
        ("llava", {"encoder": TINY_ENCODER, "pixel_shuffle_factor": 2}),
        ("llava", {"image_position_embeddings": True, "decoder": LIVELY_DECODERS["encoder_decoder"]}),
    ],
)
def test_other_parts_say_what_pytorch_says(build, pictures, tmp_path, monkeypatch, family, options):
    options = dict(options)
    stock, decoder = options.pop("stock", False), options.pop("decoder", None)
    if decoder:
        monkeypatch.setitem(LIVELY_DECODERS, family, decoder)
    model, processor = build(family, **{"encoder": LIVELY_VIT} | options)
    if stock:  # loaded, since some buffers of `to_stock` have no values
        shipped, processor = to_stock(model, processor)
        shipped.save_pretrained(tmp_path / "stock")
        model = AutoModelForImageTextToText.from_pretrained(tmp_path / "stock").eval()
    model.generation_config.update(num_beams=2, early_stopping=True, max_new_tokens=8)
    form = OnnxFormat(model, processor, 18)
    expected = form.expect(pictures)
    folder = tmp_path / "export"
    folder.mkdir()
    form.write(folder)
    assert form.compare(expected, form.load(folder, pictures)) == []
    assert form.graphs == (LLAVA if family == "llava" else ENCODER_DECODER)
    if family == "llava":
        check_llava_settings(folder, form)


def check_llava_settings(folder, form):
    # Where transformers.js looks for the class that joins tokenizer and image processor.
    assert read(folder, "preprocessor_config.json")["processor_class"] == "LlavaProcessor"
    processor = read(folder, "processor_config.json")
    assert processor["num_additional_image_tokens"] == form.model.config.image_seq_length
    assert read(folder, "tokenizer_config.json")["chat_template"] == form.processor.chat_template
    image_token_id = read(folder, "hfcap_ondevice.json")["image_token_id"]
    assert (
        read(folder, "hfcap_ondevice.json")["prompt_ids"].count(image_token_id) == form.model.config.image_seq_length
    )
