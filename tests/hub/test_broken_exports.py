"""One setting of an exported folder is changed at a time: verification fails, and names it."""

import json
import shutil

import pytest

from hfcap.errors import VerificationError
from hfcap.generation.inputs import keep_caption_prompt
from hfcap.hub import verify
from hfcap.hub.formats import to_stock
from hfcap.hub.usage import usage_code
from tiny.exports import see
from tiny.native import build_native

FILES = ("config.json", "generation_config.json", "processor_config.json", "tokenizer_config.json")
# What says nothing of the captions: who wrote a file, and the class and dtype that the weights themselves show.
NEUTRAL = {
    "transformers_version",
    "architectures",
    "dtype",
    "processor_class",
    "tokenizer_class",
    "_from_model_config",
}
# What a composite configuration sets itself, whatever the file says.
DERIVED = {
    "ours": {"tie_word_embeddings"},
    "blip": {"text_config.encoder_hidden_size", "text_config.model_type", "vision_config.model_type"},
    "idefics3": {"vision_config.model_type"},
}


@pytest.fixture(scope="module")
def exports(build, scene_rows, tmp_path_factory):
    """`{kind: (folder, expected)}`: of ours as stock LLaVA, of BLIP and of Idefics 3, as verification sees them."""
    found = {}
    captions = [caption for captions in scene_rows["captions"] for caption in captions]
    for kind in ("ours", "blip", "idefics3"):
        model, processor = build("llava") if kind == "ours" else build_native(kind, captions)
        keep_caption_prompt(processor, "describe it")
        shipped = to_stock(model, processor)
        folder = tmp_path_factory.mktemp(kind)
        for part in shipped:
            part.save_pretrained(folder)
        found[kind] = folder, verify.expect(model, processor, [], "describe it", shipped=shipped)
    return found


def compare(folder, expected, pictures=()):
    settings = json.loads((folder / "config.json").read_text())
    found = see(folder, list(pictures), usage_code(settings["model_type"], "describe it"))
    verify.refuse(verify.differences(expected, found))


def change(folder, file, path, value):
    settings = json.loads((folder / file).read_text())
    place = settings
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (folder / file).write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("kind", "file", "path", "value", "message"),
    [
        ("ours", "tokenizer_config.json", "caption_prompt", "say it", "caption prompt: expected 'describe it', found"),
        (
            "ours",
            "tokenizer_config.json",
            "caption_prompt",
            None,
            "caption prompt: expected .*, found None",
        ),
        ("ours", "tokenizer_config.json", "padding_side", "left", "tokenizer: padding_side was 'right', is 'left'"),
        ("ours", "tokenizer_config.json", "truncation_side", "left", "tokenizer: truncation_side was 'right', is"),
        ("ours", "tokenizer_config.json", "model_max_length", 5, "tokenizer: model_max_length was"),
        ("ours", "tokenizer_config.json", "backend", "pil", "tokenizer: backend was 'tokenizers', is 'pil'"),
        ("ours", "config.json", "projector_hidden_act", "relu", "config: projector_hidden_act was 'gelu', is 'relu'"),
        ("ours", "config.json", "vision_config.hidden_act", "relu", r"config: vision_config\.hidden_act was 'gelu'"),
        ("ours", "config.json", "vision_config.layer_norm_eps", 0.1, r"config: vision_config\.layer_norm_eps was"),
        ("ours", "config.json", "text_config.rms_norm_eps", 0.1, r"config: text_config\.rms_norm_eps was"),
        ("ours", "config.json", "text_config.max_position_embeddings", 9, r"text_config\.max_position_embeddings was"),
        ("ours", "config.json", "text_config.attention_dropout", 0.5, r"config: text_config\.attention_dropout was"),
        ("ours", "config.json", "vision_config.hidden_dropout_prob", 0.5, r"vision_config\.hidden_dropout_prob was"),
        ("ours", "config.json", "text_config.rope_parameters.rope_theta", 9, r"text_config\.rope_parameters\.rope"),
        ("ours", "processor_config.json", "vision_feature_select_strategy", "full", "processor: vision_feature_sel"),
        ("ours", "processor_config.json", "image_processor.resample", 0, "image processor: resample was"),
        ("ours", "generation_config.json", "repetition_penalty", 2.0, "generation config: repetition_penalty was"),
        ("blip", "config.json", "text_config.layer_norm_eps", 0.1, r"config: text_config\.layer_norm_eps was"),
        ("blip", "config.json", "vision_config.hidden_act", "relu", r"config: vision_config\.hidden_act was"),
        ("idefics3", "processor_config.json", "image_seq_len", 5, "processor: image_seq_len was 4, is 5"),
    ],
)
def test_a_changed_setting_is_named(exports, tmp_path, kind, file, path, value, message):
    folder, expected = exports[kind]
    broken = shutil.copytree(folder, tmp_path / "broken")
    compare(broken, expected)  # it was whole
    change(broken, file, path.split("."), value)
    with pytest.raises(VerificationError, match=message):
        compare(broken, expected)


def leaves(settings, path=()):
    """Each setting of a JSON object with its path, and another value of its kind."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, name))
        elif isinstance(value, bool) or value is None:
            yield (*path, name), not value
        elif isinstance(value, (int, float)):
            yield (*path, name), value + 1
        elif isinstance(value, str):
            yield (*path, name), value + "x"


@pytest.mark.parametrize("kind", ["ours", "blip", pytest.param("idefics3", marks=pytest.mark.slow)])
def test_no_setting_is_passed_over(exports, tmp_path, kind):
    """Whatever is changed in any of the files, the export is refused or does not load."""
    folder, expected = exports[kind]
    compare(folder, expected)  # it is whole
    unnoticed = []
    for file in FILES:
        for path, value in leaves(json.loads((folder / file).read_text())):
            if NEUTRAL & set(path):
                continue
            broken = shutil.copytree(folder, tmp_path / "broken")
            change(broken, file, path, value)
            try:
                compare(broken, expected)
            except Exception:
                pass
            else:
                unnoticed.append(f"{file}: {'.'.join(path)}")
            shutil.rmtree(broken)
    assert set(unnoticed) == {f"config.json: {setting}" for setting in DERIVED[kind]}


def test_shipped_settings_that_generate_does_not_follow_are_noticed(exports, pictures, scene_rows, tmp_path):
    """BLIP's `generate` asks its text decoder, which does not know generation_config.json: greedy captions agree."""
    captions = [caption for captions in scene_rows["captions"] for caption in captions]
    model, processor = build_native("blip", captions)
    model.generation_config.update(num_beams=3, max_new_tokens=8)
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    expected, usage = verify.expect(model, processor, pictures, "describe it"), usage_code("blip", "describe it")
    expected["caption_prompt"] = None
    assert verify.differences(expected, see(tmp_path, pictures, usage)) == []
    naive = usage.replace("generation_config=model.generation_config", "max_new_tokens=8")
    problems = verify.differences(expected, see(tmp_path, pictures, naive))
    assert problems and all(problem.startswith("caption by the shipped settings of pic") for problem in problems)


def test_samples_are_compared_by_the_same_random_numbers(exports, pictures, build, tmp_path):
    model, processor = build("llava")
    model.generation_config.update(do_sample=True, temperature=3.0, top_k=40)
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    expected, usage = (
        verify.expect(model, processor, pictures, "describe it"),
        usage_code("hfcap_llava", "describe it"),
    )
    assert expected["captions"] != expected["captions_as_shipped"]
    assert verify.differences(expected, see(tmp_path, pictures, usage)) == []
    (tmp_path / "generation_config.json").write_text(json.dumps(settings | {"temperature": 9.0}))
    problems = verify.differences(expected, see(tmp_path, pictures, usage))
    assert problems[0] == "generation config: temperature was 3.0, is 9.0"
    assert problems[1].startswith("caption by the shipped settings of picture")


def test_a_changed_setting_of_an_adapter_is_named(make_lora_run, tmp_path):
    run = make_lora_run()
    broken = shutil.copytree(run / "adapter", tmp_path / "broken")
    usage = usage_code("hfcap_llava", None)

    def loaded():
        return see(broken, [], usage, base=str(run.parent / "base" / "model"))

    expected = loaded()
    change(broken, "adapter_config.json", ["lora_alpha"], 16)
    assert verify.differences(expected, loaded()) == ["adapter: lora_alpha was 8, is 16"]
