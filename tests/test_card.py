import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from safetensors.numpy import save_file

from hfcap import cli
from hfcap.atomic_files import write_json
from hfcap.content_hashes import captioner_hashes, captions_sha256
from hfcap.hub.card import WORDS_END, WORDS_START, write_card
from hfcap.hub.card_check import check_card
from hfcap.hub.card_claims import describe_weights
from hfcap.hub.card_data import CardData, count_parameters, read_card_data
from hfcap.hub.card_metadata import Given, eval_results
from hfcap.predictions import write_predictions
from hfcap.runs import write_metrics

RECORD = {
    "arguments": {
        "data": "/home/somebody/flickr8k",
        "eval_split": "validation",
        "strategy": "qlora",
        "model": "outputs/stage_1/model",
        "lora_r": 16,
        "learning_rate": 2e-4,
        "num_train_epochs": 3.0,
        "max_steps": -1,
        "packing": True,
        "label_smoothing_factor": 0.0,
        "seed": 0,
    },
    "data": {
        "train": {"num_images": 5999, "num_captions": 29995, "sha256": "ab" * 32},
        "eval": {"num_images": 3, "num_captions": 6, "sha256": "cd" * 32},
    },
    "versions": {"python": "3.11.7", "hfcap": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.6"},
    "git": {"commit": "0123456789abcdef", "dirty": True},
    "machine": {"system": "Linux", "processor": "x86_64", "cores": 2, "accelerators": []},
    "created": "2025-01-02T03:04:05+00:00",
    "throughput": {"seconds": 5400.0},
}


DATA = {"name": "flickr8k", "split": "validation", "num_images": 3, "num_captions": 6, "sha256": "cd" * 32}


def _run(folder, model_type="hfcap_llava", artifact="merged", caption="a dog", arguments=None, hashes=True, **metrics):
    """A run folder; without `hashes` one of an earlier hfcap."""
    weights = folder / artifact
    weights.mkdir(parents=True)
    write_json(weights / "config.json", {"model_type": model_type})
    write_json(weights / "processor_config.json", {"caption_prompt": 'Say "what" it is.'})
    save_file({"a": np.zeros((10, 100), np.float32), "b": np.zeros((34,), np.float32)}, weights / "model.safetensors")
    write_json(folder / "run.json", RECORD | {"arguments": RECORD["arguments"] | (arguments or {})})
    rows = [{"image_id": f"{n}_x", "caption": caption, "captions": ["the dog", "one dog"]} for n in range(3)]
    write_predictions(folder / "captions.jsonl", rows)
    settings = {
        "metrics": {"rouge_l": {"value": 0.4, "ci95": (0.35, 0.45)}, "cider": {"value": 0.531, "ci95": (0.5, 0.56)}},
        "num_images": 3,
        "tokenizer": "ptb",
        "idf": "references",
        "decoding": {"num_beams": 3, "max_new_tokens": 40},
        "model_artifact": "merged",
    }
    measured = {
        "data": DATA,
        **captioner_hashes(weights),
        "captions_hash": captions_sha256((row["image_id"], row["caption"]) for row in rows),
        "prompt": 'Say "what" it is.',
        "load_in_4bit": False,
        "date": "2025-02-03",
    }
    write_metrics(folder / "metrics.json", **(settings | (measured if hashes else {}) | metrics))
    return folder


def _metric(key, name, value, interval):
    return {"type": key, "name": name, "value": value, "args": {"ci95": interval, "num_images": 3}}


METADATA = {
    "language": "en",
    "license": "apache-2.0",
    "library_name": "hfcap",
    "pipeline_tag": "image-text-to-text",
    "tags": ["image-captioning", "hfcap", "qlora"],
    "model-index": [
        {
            "name": "dogs",
            "results": [
                {
                    "task": {"type": "image-to-text", "name": "Image captioning"},
                    "dataset": {"name": "flickr8k", "type": "flickr8k", "split": "validation"},
                    "metrics": [
                        {
                            "type": "cider",
                            "value": 53.1,
                            "name": "CIDEr",
                            "args": {"ci95": [50.0, 56.0], "num_images": 3},
                        },
                        {
                            "type": "rouge_l",
                            "value": 40.0,
                            "name": "ROUGE-L",
                            "args": {"ci95": [35.0, 45.0], "num_images": 3},
                        },
                    ],
                }
            ],
        }
    ],
}

BODY = """\

# dogs

<!-- Your own words go here; they are kept when hfcap writes this card again. -->
Captions for pictures of dogs. No cats.
<!-- End of your own words. -->

Describes a picture in a sentence. 1,034 parameters, model type `hfcap_llava`, trained with hfcap.

For alt text and caption suggestions that a person checks, and as one signal among others where pictures are looked
through for tags. Not for anything that rests on a caption being true: it can be fluent and wrong. It has not been
trained or tested to recognise offensive content: what it does not mention may be there all the same.

## Use

```
pip install "hfcap[train]"
hfcap caption PHOTO.jpg --model outputs/dogs/merged
```

```python
import hfcap.models  # tells transformers the model type
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained("outputs/dogs/merged")
model = AutoModelForImageTextToText.from_pretrained("outputs/dogs/merged")
picture = Image.open("PHOTO.jpg").convert("RGB")
content = [{"type": "image", "image": picture}, {"type": "text", "text": "Say \\"what\\" it is."}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True,
    tokenize=True,
    return_dict=True,
    return_tensors="pt",
)
inputs = inputs.to(model.device, model.dtype)
tokens = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
caption = processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
print(caption)
```

## Results

Split “validation” of flickr8k, 3 images, × 100, with 95 % intervals over images:

| metric | value | 95 % interval |
| --- | ---: | ---: |
| CIDEr | 53.1 | 50.0 to 56.0 |
| ROUGE-L | 40.0 | 35.0 to 45.0 |

Measured with the weights here: a merge of the adapter onto the base in its original precision.
Words split by `ptb`; document frequencies of CIDEr from references; decoding:
`num_beams=3`, `max_new_tokens=40`.

## Captions

Drawn at random, not chosen:

| picture | caption |
| --- | --- |
| 1\\_x | a dog |
| 2\\_x | a dog |
| 0\\_x | a dog |

## Known failures

Measured on the 3 captions of the evaluation (2.0 words each, 2 different words):

| what | share of captions |
| --- | ---: |
| no word at all | 0.0 % |
| a word, or a group of two to four, twice running | 0.0 % |
| the same caption under another picture | 100.0 % |
| names a person's gender | 0.0 % |
| names a gender that no reference of the picture names | 0.0 % |

It describes what pictures like those of flickr8k show, with the gaps and the biases of their captions.

## Training

| data | images | captions | SHA-256 |
| --- | ---: | ---: | --- |
| flickr8k, train | 5,999 | 29,995 | `abababababababab` |
| flickr8k, eval | 3 | 6 | `cdcdcdcdcdcdcdcd` |

| setting | value |
| --- | --- |
| strategy | qlora |
| started from | stage\\_1 |
| LoRA rank | 16 |
| learning rate | 0.0002 |
| epochs | 3 |
| packing of references | yes |
| seed | 0 |

On 2 CPU cores, with
hfcap 0.1.0, torch 2.13.0, transformers 5.23.0, at commit `0123456789ab` with changes that were not committed.
Its optimizer steps took 90.0 minutes (of a resumed run the last part): some 0.03 kWh, an estimate from 10 W a core.

## Citation

```bibtex
@software{hfcap,
  title = {hfcap: recipes for image captioning with Hugging Face libraries},
  version = {0.1.0},
  license = {Apache-2.0}
}
```
"""


def test_the_whole_card(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = _run(tmp_path / "outputs" / "dogs")
    given = Given(license="apache-2.0", words="Captions for pictures of dogs. No cats.")
    path = write_card(folder, given)
    assert path.name == "README.md"
    text = path.read_text(encoding="utf-8")
    start, metadata, body = text.split("---\n", 2)
    assert start == ""
    assert yaml.safe_load(metadata) == METADATA  # the order of its keys is huggingface_hub's
    assert body == BODY
    assert write_card(folder).read_text(encoding="utf-8") == text  # what was given is taken over


def test_the_hub_library_reads_the_metadata(tmp_path):
    card = ModelCard.load(
        write_card(_run(tmp_path / "dogs"), Given(datasets=("owner/set",), base_model=("owner/lm",)))
    )
    assert card.data.datasets == ["owner/set"]
    assert card.data.base_model == ["owner/lm"]
    assert card.data.license is None
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {"cider": 53.1, "rouge_l": 40.0}


def test_an_encoder_decoder_is_used_without_a_prompt(tmp_path):
    folder = _run(tmp_path / "dogs", "hfcap_encoder_decoder", "model", model_artifact="model")
    text = write_card(folder).read_text(encoding="utf-8")
    assert "apply_chat_template" not in text
    assert "inputs = processor(images=picture, return_tensors=" in text
    assert "Measured with the weights here.\n" in text
    assert str(tmp_path) not in text  # the way to the folder is nobody's business


def test_a_stock_model_needs_no_hfcap(tmp_path):
    text = write_card(_run(tmp_path / "dogs", "llava")).read_text(encoding="utf-8")
    assert "import hfcap" not in text
    assert yaml.safe_load(text.split("---")[1])["library_name"] == "transformers"


def test_the_card_of_an_export_names_the_oldest_version_that_loads_it(tmp_path):
    card_data = replace(read_card_data(_run(tmp_path / "dogs")), form="native", oldest_transformers="4.57.3")
    shutil.rmtree(tmp_path / "dogs" / "merged")
    write_json(tmp_path / "dogs" / "card.json", asdict(card_data))
    assert "```\n\nNeeds transformers 4.57.3 or newer.\n\n## Results" in card_text(tmp_path / "dogs")


def test_an_adapter_whose_type_was_not_recorded_is_used_by_the_command(tmp_path):
    """In `card.json` of an earlier hfcap the type of an adapter is "adapter"."""
    card_data = replace(
        read_card_data(_run(tmp_path / "dogs")), form="adapter", model_type="adapter", base="user/base"
    )
    shutil.rmtree(tmp_path / "dogs" / "merged")
    write_json(tmp_path / "dogs" / "card.json", asdict(card_data))
    text = card_text(tmp_path / "dogs")
    assert "hfcap caption PHOTO.jpg --model " in text and "```python" not in text


def test_a_card_says_what_training_did_to_references_and_pictures(tmp_path):
    off = {"references": None, "mirror": False, "crop": 1.0, "cached_crops": 0, "color_jitter": 0.0}
    on = {"references": 2, "mirror": True, "crop": 0.7, "cached_crops": 2, "color_jitter": 0.1}
    names = (
        "references per image and step",
        "pictures mirrored",
        "random crops",
        "crops in the feature",
        "color jitter",
    )
    for arguments, are_said in ((off, False), (on, True)):
        text = write_card(_run(tmp_path / str(are_said), arguments=arguments)).read_text()
        assert [name in text for name in names] == [are_said] * len(names)


def test_a_figure_is_rounded_once(tmp_path):
    """38.152 is 38.2, though it is 38.15 with two decimals, which one more rounding makes 38.1."""
    folder = _run(tmp_path, metrics={"cider": {"value": 0.38152, "ci95": (0.35449, 0.40852)}})
    text = write_card(folder).read_text()
    assert "| CIDEr | 38.2 | 35.4 to 40.9 |" in text and "value: 38.15\n" in text


def test_figures_of_the_adapter_do_not_pass_for_those_of_the_merge(tmp_path):
    text = write_card(_run(tmp_path / "dogs", model_artifact="adapter")).read_text(encoding="utf-8")
    assert "another model, which these figures do not judge" in text


def card_text(folder):
    return write_card(folder, thumbnails=False).read_text(encoding="utf-8")


def test_another_split_and_style_that_were_judged_are_the_ones_that_the_card_names(tmp_path):
    judged = DATA | {"name": "scenes", "split": "test", "style": "alt_text", "sha256": "ef" * 32}
    folder = _run(tmp_path / "dogs", arguments={"data": "scenes", "scenes_style": "caption"}, data=judged)
    text = card_text(folder)
    assert "Split “test” of scenes (alt_text), 3 images" in text.replace("\\_", "_") and "validation" not in text
    (result,) = yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"]
    assert result["dataset"] == {"name": "scenes (alt_text)", "type": "scenes (alt_text)", "split": "test"}


@pytest.mark.parametrize(
    "judged, is_of_set",
    [
        (DATA, True),
        (DATA | {"split": "test", "sha256": "ef" * 32}, True),
        (DATA | {"sha256": "ef" * 32}, False),  # other pictures or captions under the same names
        (DATA | {"name": "coco", "split": "test", "sha256": "ef" * 32}, False),
    ],
)
def test_figures_of_other_data_are_not_ascribed_to_the_data_set_of_the_training(tmp_path, judged, is_of_set):
    folder = _run(tmp_path / "dogs", data=judged)
    given = Given(datasets=("owner/set",))
    metadata = yaml.safe_load(write_card(folder, given).read_text(encoding="utf-8").split("---\n")[1])
    dataset = metadata["model-index"][0]["results"][0]["dataset"]
    assert (dataset["type"], dataset["split"]) == ("owner/set" if is_of_set else judged["name"], judged["split"])
    results = eval_results(given, json.loads((folder / "metrics.json").read_text()), RECORD)
    assert (results is not None) == is_of_set


def judge_again(folder, caption, **metrics):
    """What `recipes/evaluate.py --output_dir RUN` leaves: other captions and figures; the card is as it was."""
    rows = [{"image_id": f"{n}_x", "caption": caption, "captions": ["a man"]} for n in range(3)]
    write_predictions(folder / "captions.jsonl", rows)
    record = json.loads((folder / "metrics.json").read_text())
    record["captions_hash"] = captions_sha256((row["image_id"], row["caption"]) for row in rows)
    write_json(folder / "metrics.json", record | metrics)


def test_after_judging_again_the_facts_are_of_the_new_captions(tmp_path):
    folder = _run(tmp_path / "dogs")
    card = write_card(folder)
    judge_again(folder, "a woman")
    card_data = read_card_data(folder, recorded=True)  # as `hfcap push` reads them
    assert [sample["caption"] for sample in card_data.samples] == ["a woman"] * 3
    assert card_data.habits.gendered_without_evidence == 1.0
    assert any("a woman" in line for line in check_card(card)[0])  # the card is stale, and said to be
    assert card_text(folder).count("a woman") == 3


def test_a_card_counts_by_the_tokenizer_of_its_figures(tmp_path):
    """Gender is looked for in English words; 0 % of other captions would not have been measured."""
    folder = _run(tmp_path / "dogs", caption="一个男人")
    assert "1.0 words each, 1 different words" in card_text(folder)
    write_card(folder)
    write_json(folder / "metrics.json", json.loads((folder / "metrics.json").read_text()) | {"tokenizer": "char"})
    assert read_card_data(folder, recorded=True).habits.mean_length == 4
    text = card_text(folder)
    assert "4.0 tokens each, 4 different tokens" in text and "Words split by `char`" in text
    assert "gender" not in text


@pytest.mark.parametrize(("tokenizer", "language"), [("ptb", "en"), ("zh", "zh"), ("intl", None), ("char", None)])
def test_the_language_is_that_of_the_tokenizer_of_the_figures(tokenizer, language, tmp_path):
    folder = _run(tmp_path, tokenizer=tokenizer)
    write_card(folder)
    assert ModelCard.load(folder / "README.md").data.language == language


@pytest.mark.parametrize("caption", ["ein Mann steht in einem Garten", "رجل على دراجة يقفز", "一个男人"])
def test_captions_that_do_not_look_like_english_are_not_said_to_be(caption, tmp_path):
    """With the default tokenizer, which splits other languages at their spaces too."""
    folder = _run(tmp_path, caption=caption)
    card = write_card(folder)
    assert ModelCard.load(card).data.language is None
    assert "gender" not in card.read_text(encoding="utf-8")
    assert "gender" in card_text(_run(tmp_path / "english", caption="a man in a garden"))
    record = json.loads((folder / "card.json").read_text())
    del record["habits"]["english"]  # as an earlier hfcap wrote it
    write_json(folder / "card.json", record)
    (folder / "captions.jsonl").unlink()
    assert read_card_data(folder, recorded=True).habits.english


@pytest.mark.parametrize(
    ("said", "tokenizer", "language"),
    [("en", "zh", "zh"), ("en", "intl", "en"), ("fr", "ptb", "fr"), ("zh", "ptb", "zh")],
)
def test_the_language_follows_new_figures_and_keeps_what_a_person_said(said, tokenizer, language, tmp_path):
    folder = _run(tmp_path)
    card = write_card(folder)
    card.write_text(card.read_text().replace("language: en", f"language: {said}"))
    metrics = json.loads((folder / "metrics.json").read_text())
    write_json(folder / "metrics.json", metrics | {"tokenizer": tokenizer})
    assert ModelCard.load(write_card(folder)).data.language == language


def test_a_card_names_the_model_of_clip_score(tmp_path):
    figures = {"metrics": {"clip_score": {"value": 0.75, "ci95": [0.7, 0.8]}}}
    text = card_text(_run(tmp_path, **figures, clip_model="owner/clip", clip_model_hash="ab" * 32))
    assert "| CLIPScore | 75.0 | 70.0 to 80.0 |" in text
    assert "CLIPScore by `owner/clip` (SHA-256 of its weights `abababababab`)" in text


def test_captions_that_the_figures_are_not_of_are_left_out(tmp_path):
    folder = _run(tmp_path / "dogs")
    rows = [{"image_id": f"{n}_x", "caption": "a cat", "captions": ["a man"]} for n in range(3)]
    write_predictions(folder / "captions.jsonl", rows)
    text = card_text(folder)
    assert "a cat" not in text and "no word at all" not in text
    assert "samples and failures are left out" in text
    assert any("metrics.json is of other captions" in line for line in check_card(folder / "README.md")[1])


def test_figures_of_other_weights_in_the_same_folder_are_not_of_these(tmp_path):
    folder = _run(tmp_path / "dogs")
    assert "Measured with the weights here:" in card_text(folder)
    save_file({"a": np.ones((10, 100), np.float32)}, folder / "merged" / "model.safetensors")
    assert any("Measured with other weights" in line for line in check_card(folder / "README.md")[0])
    assert "Measured with other weights than those here (SHA-256 `" in card_text(folder)


@pytest.mark.parametrize(
    "artifact, metrics, card_data, said",
    [
        ("model", {}, {}, "Measured with the weights here."),
        (
            "model",
            {"weights_hash": "b" * 64},
            {},
            "other weights than those here (SHA-256 `bbbbbbbbbbbb`, here `aaaaaaa",
        ),
        ("model", {}, {"weights_hash": None}, "other weights than those here (SHA-256 `aaaaaaaaaaaa`, here `unknown`"),
        ("model", {"weights_hash": None}, {}, "Which weights wrote the captions is not recorded."),
        ("model", {"settings_hash": "c" * 64}, {}, "with these weights under another configuration, processor or"),
        ("model", {"load_in_4bit": True}, {}, "while the language model was in 4 bits (NF4)"),
        ("adapter", {"model_artifact": "adapter"}, {}, "Measured with the weights here."),
        ("adapter", {"model_artifact": "adapter", "load_in_4bit": True}, {}, "was in 4 bits (NF4)"),
        ("merged", {"model_artifact": "adapter", "load_in_4bit": True}, {}, "with the adapter on its 4-bit base."),
        ("merged", {"model_artifact": "adapter", "load_in_4bit": False}, {}, "with the adapter on its base."),
        ("adapter", {"model_artifact": "merged"}, {}, "another form of these weights (`merged`; here: `adapter`)"),
        (
            "model",
            {},
            {"dtype_change": {"before": "float32", "after": "bfloat16", "num_images": 100}},
            "Measured with these weights in float32. Here they are in bfloat16, which these figures do not judge: on "
            "100 pictures CIDEr × 100 was 53.1 before and 52.9 after that change.",
        ),
    ],
)
def test_which_weights_were_measured(artifact, metrics, card_data, said):
    if "dtype_change" in card_data:
        card_data["dtype_change"] |= {"cider_before": 0.531, "cider_after": 0.529}
    known = CardData("dogs", "x", artifact, "native", "git", 1, None, None, None, [], weights_hash="a" * 64)
    record = {"model_artifact": artifact, "weights_hash": "a" * 64, "load_in_4bit": False}
    assert said in describe_weights(record | metrics, replace(known, **card_data))


def test_another_prompt_than_the_captioners_own_is_said(tmp_path):
    text = card_text(_run(tmp_path / "dogs", prompt="What is it?"))
    assert "The captioner was given another prompt than its own: “What is it?”." in text
    assert "another prompt" not in card_text(_run(tmp_path / "cats"))


def test_a_run_of_an_earlier_hfcap_has_a_card_that_says_what_was_not_recorded(tmp_path):
    folder = _run(tmp_path / "dogs", hashes=False)
    card = write_card(folder)
    text = card.read_text(encoding="utf-8")
    assert "Split “validation” of flickr8k, 3 images" in text and "| 1\\_x | a dog |" in text
    assert "These figures were recorded without hashes of data, weights and captions" in text
    old = json.loads((folder / "card.json").read_text())
    write_json(folder / "card.json", {k: v for k, v in old.items() if k not in ("weights_hash", "captions_hash")})
    assert check_card(card)[0] == []


def test_old_figures_of_another_number_of_images_are_not_of_the_runs_evaluation_split(tmp_path):
    text = card_text(_run(tmp_path / "dogs", hashes=False, num_images=7))
    assert "Data that were not recorded, 7 images" in text and "validation" not in text
    assert "samples and failures are left out" in text


def test_the_demo_says_what_it_cannot_do(tmp_path):
    folder = _run(tmp_path / "dogs", arguments={"data": "scenes", "max_steps": 50})
    text = write_card(folder, thumbnails=False).read_text(encoding="utf-8")
    assert "it cannot describe a photograph" in text
    assert "| steps | 50 |" in text
    assert "| epochs |" not in text


def test_no_caption_becomes_markup(tmp_path):
    caption = "<b>a|b</b> `c` *d* _e_ [f](g)\n# h"
    text = write_card(_run(tmp_path / "dogs", caption=caption)).read_text(encoding="utf-8")
    escaped = "| &lt;b&gt;a\\|b&lt;/b&gt; \\`c\\` \\*d\\* \\_e\\_ \\[f\\](g) # h |"
    assert text.count(escaped) == 3


def test_a_folder_stands_for_its_card_and_what_cannot_be_read_is_named(tmp_path):
    folder = _run(tmp_path / "dogs")
    card = write_card(folder)
    assert check_card(folder) == check_card(card)
    with pytest.raises(FileNotFoundError, match="nowhere"):  # and not a record that would be beside it
        check_card(Path("nowhere"))
    card.write_bytes(b"---\n\xff")
    with pytest.raises(ValueError, match=r"README.md is no UTF-8 text \(byte 4\)"):
        check_card(folder)
    weights = next(folder.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:20])
    with pytest.raises(ValueError, match="safetensors is cut off or damaged"):
        write_card(folder)


WORDS = "Mine, *with* Markdown.\n\n| a | table |\n| --- | --- |"


def test_own_words_and_given_metadata_survive_new_figures(tmp_path):
    folder = _run(tmp_path / "dogs")
    card = write_card(folder)
    text = card.read_text(encoding="utf-8").replace(f"{WORDS_START}\n", f"{WORDS_START}\n{WORDS}\n")
    text = text.replace("tags:\n", "license: mit\ndatasets:\n- owner/set\ntags:\n- mine\n", 1)
    card.write_text(text, encoding="utf-8")
    settings = {"tokenizer": "ptb", "idf": "references", "decoding": {}, "model_artifact": "merged", "num_images": 3}
    write_metrics(folder / "metrics.json", {"cider": {"value": 0.7, "ci95": (0.6, 0.8)}}, **settings)
    assert any("cider: the card says 53.1, metrics.json says 70.0" in line for line in check_card(card)[0])
    again = write_card(folder).read_text(encoding="utf-8")
    assert f"{WORDS_START}\n{WORDS}\n{WORDS_END}" in again and "| CIDEr | 70.0 | 60.0 to 80.0 |" in again
    data = ModelCard(again).data
    assert (data.license, data.datasets, data.tags) == (
        "mit",
        ["owner/set"],
        ["image-captioning", "hfcap", "qlora", "mine"],
    )
    assert check_card(card) == ([], [])


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("value: 53.1", "value: 63.1", "cider: the card says 63.1, metrics.json says 53.1"),
        ("| CIDEr | 53.1 |", "| CIDEr | 63.1 |", "has '| CIDEr | 63.1 | 50.0 to 56.0 |'"),
        ("5,999", "6,000", "6,000"),
        ("100.0 %", "0.0 %", "has '| the same caption under another picture | 0.0 % |'"),
        ("## Known failures", "", "lacks '## Known failures'"),
    ],
)
def test_a_card_edited_by_hand_is_found(tmp_path, old, new, said):
    card = write_card(_run(tmp_path / "dogs"))
    text = card.read_text(encoding="utf-8")
    assert old in text and check_card(card)[0] == []
    card.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert any(said in line for line in check_card(card)[0])


def test_a_card_says_what_is_missing(tmp_path):
    stale, missing = check_card(write_card(_run(tmp_path / "dogs")))
    assert stale == [] and [line.split()[0] for line in missing] == ["license", "datasets"]


def test_words_outside_the_comments_are_not_lost(tmp_path):
    folder = _run(tmp_path / "dogs")
    (folder / "README.md").write_text("# All mine\n")
    with pytest.raises(ValueError, match="Move what is yours"):
        write_card(folder)
    assert (folder / "README.md").read_text() == "# All mine\n"


def test_metadata_that_hfcap_does_not_write_survives(tmp_path):
    folder = _run(tmp_path / "dogs")
    card = write_card(folder)
    more = {"license_name": "my-licence", "license_link": "LICENSE.md", "extra_gated_prompt": "Be kind."}
    lines = yaml.safe_dump({"license": "other", **more})
    card.write_text(card.read_text(encoding="utf-8").replace("---\n", f"---\n{lines}", 1), encoding="utf-8")
    text = write_card(folder).read_text(encoding="utf-8")
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert {key: metadata[key] for key in more} == more and metadata["license"] == "other"
    assert write_card(folder).read_text(encoding="utf-8") == text
    assert check_card(card)[0] == []


@pytest.mark.parametrize("action", ["write", "check"])
def test_metadata_that_is_no_yaml_is_one_line(tmp_path, capsys, action):
    folder = _run(tmp_path / "dogs")
    card = write_card(folder)
    text = card.read_text(encoding="utf-8").replace("---\n", "---\nlicense: [mit\n", 1)
    card.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as exit_:
        cli.main(["card", action, str(folder if action == "write" else card)])
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: {card}: its metadata is not YAML (") and error.count("\n") == 0
    assert card.read_text(encoding="utf-8") == text


def test_results_for_the_leaderboards_carry_their_settings(tmp_path):
    folder = _run(tmp_path / "dogs")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert eval_results(Given(), metrics, RECORD) is None
    entries = parse_eval_result_entries(yaml.safe_load(eval_results(Given(datasets=("o/set",)), metrics, RECORD)))
    assert [(entry.dataset_id, entry.task_id, entry.value) for entry in entries] == [
        ("o/set", "cider", 53.1),
        ("o/set", "rouge_l", 40.0),
    ]
    assert entries[0].notes == (
        "CIDEr x 100 of 3 images, validation split, 95 % interval 50.0 to 56.0; num_beams=3, max_new_tokens=40; "
        "tokenizer ptb, idf from references"
    )


@pytest.mark.parametrize("name", ["run.json", "metrics.json", "captions.jsonl"])
def test_an_unfinished_run_has_no_card(tmp_path, name):
    folder = _run(tmp_path / "dogs")
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        write_card(folder)
    assert not (folder / "README.md").exists()


def test_parameters_are_counted_over_all_files(tmp_path):
    save_file({"a": np.zeros((2, 3), np.float16)}, tmp_path / "model-1.safetensors")
    save_file({"b": np.zeros((4,), np.int8)}, tmp_path / "model-2.safetensors")
    assert count_parameters(tmp_path) == 10
    with pytest.raises(ValueError, match=r"no \.safetensors file"):
        count_parameters(tmp_path.parent / "other")


def test_run_record_is_enough_for_a_card(tmp_path):
    # The fixture above has the fields of a real record, not others.
    from hfcap.provenance import run_record

    record = run_record({}, seeds={}, data={}, throughput={})
    assert set(RECORD) <= set(record)
    assert set(RECORD["machine"]) == set(record["machine"])
    assert json.loads(json.dumps(record)) == record
