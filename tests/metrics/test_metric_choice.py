"""One tuple of metrics: a new one reaches `compute_metrics`, files, reports and cards without further code."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from test_clip_score import CANDIDATES, REFERENCES, make_scorer

from hfcap import cli
from hfcap.evaluation import Measured, judge, results_table, write_evaluation
from hfcap.hub.card_metadata import figures
from hfcap.metrics import (
    DEFAULT_METRICS,
    METRICS,
    choice,
    clip_metrics,
    compute_metrics,
    display_name,
    display_order,
    for_people,
    headline,
)
from hfcap.metrics.metric import Metric
from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.metric_choice import text_metrics
from refusals import refused

LENGTH = Metric(
    key="length",
    names={"length": "Length x 1"},
    statistics=lambda inputs: np.array([[len(text)] for text in inputs.predictions]),
    scale=1.0,
)
pytestmark = pytest.mark.filterwarnings("ignore:CIDEr weighs")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    scorer = make_scorer("clip")
    scorer.model.save_pretrained(folder)
    scorer.processor.save_pretrained(folder)
    clip_metrics.load_scorer.cache_clear()
    return str(folder)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(random.integers(256, size=(20, 24, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def caption_files(tmp_path):
    (tmp_path / "p.jsonl").write_text(
        "".join(
            json.dumps({"image_id": name, "caption": text}) + "\n"
            for name, text in zip("abc", CANDIDATES, strict=True)
        )
    )
    (tmp_path / "r.jsonl").write_text(
        "".join(
            json.dumps({"image_id": name, "captions": texts}) + "\n"
            for name, texts in zip("abc", REFERENCES, strict=True)
        )
    )
    return [str(tmp_path / "p.jsonl"), "--references", str(tmp_path / "r.jsonl")]


def test_keys_of_all_metrics_differ_and_each_default_exists():
    keys = [key for metric in METRICS for key in metric.names]
    assert len(set(keys)) == len(keys)
    assert set(DEFAULT_METRICS) <= {metric.key for metric in METRICS}


def test_people_see_names_order_and_scale():
    assert [display_name(key) for key in ("bleu_4", "cider_d", "ref_clip_score", "spice")] == [
        *("BLEU-4", "CIDEr-D", "RefCLIPScore", "spice"),
    ]
    assert display_order(["spice", "rouge_l", "bleu_1", "cider", "bleu_4"]) == [
        *("cider", "bleu_4", "bleu_1", "rouge_l", "spice"),
    ]
    assert for_people("cider", 0.5) == 50
    assert headline(["bleu_1", "bleu_4", "rouge_l", "cider", "clip_score"]) == ["bleu_4", "cider", "clip_score"]
    assert headline(["rouge_l"]) == ["rouge_l"]


def test_a_new_metric_is_one_object(scene_rows, tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "METRICS", (*METRICS, LENGTH))
    rows = scene_rows.select(range(3))
    captions = ["a", "a red", "a red square"]
    assert compute_metrics(captions, list(rows["captions"]), ("length",))["length_per_image"] == [1, 5, 12]
    evaluation = judge(captions, rows, {}, metrics=("cider", "length"))
    assert evaluation.value("length") == 6
    assert "Length x 1" in results_table({"run": (None, evaluation)}).splitlines()[0]
    write_evaluation(tmp_path, evaluation, rows, "title", Measured(None, None, {}))
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert [line["length"] for line in lines] == [1, 5, 12]
    report = (tmp_path / "report.html").read_text()
    assert "Length x 1" in report
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert [figure[:3] for figure in figures(record)][-1] == ("length", "Length x 1", 6.0)


def test_clip_score_of_files(caption_files, photos, clip_folder, tmp_path, capsys):
    names = ["--metrics", "clip_score,ref_clip_score,cider", "--clip_model", clip_folder]
    output = ["--images", str(photos), "--output", str(tmp_path / "m.json"), "--report", str(tmp_path / "r.html")]
    cli.main(["score", *caption_files, *names, *output])
    pictures = [str(photos / f"{name}.png") for name in "abc"]
    expected = make_scorer("clip").score(pictures, CANDIDATES, REFERENCES)
    record = json.loads((tmp_path / "m.json").read_text())
    for key in ("clip_score", "ref_clip_score"):
        assert record["metrics"][key]["value"] == pytest.approx(expected[key], abs=1e-6)
    assert record["clip_model"] == "tiny-clip" and len(record["clip_model_hash"]) == 64
    assert "RefCLIPScore" in capsys.readouterr().out
    report = (tmp_path / "r.html").read_text()
    assert "CLIPScore" in report and "tiny-clip" in report


def test_two_systems_are_compared_by_clip_score(caption_files, photos, clip_folder, capsys):
    files = [caption_files[0], *caption_files]
    names = ["--metrics", "clip_score", "--clip_model", clip_folder, "--images", str(photos)]
    cli.main(["score", *files, *names])
    assert "B - A  +0.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--images: clip_score needs the images, .*; pass --images FOLDER"),
        (
            ["--images", "PHOTOS", "--clip_model", "nowhere/at/all"],
            "clip_model is 'nowhere/at/all': ",
        ),
        (["--images", "PHOTOS", "--clip_model", "SIGLIP"], "its type is siglip, whose score is not CLIPScore"),
        (["--images", "ONE"], "image b: its picture is missing"),
    ],
)
def test_what_clip_score_lacks_is_named(options, message, caption_files, photos, clip_folder, tmp_path, capsys):
    make_scorer("siglip").model.save_pretrained(tmp_path / "siglip")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").write_bytes((photos / "a.png").read_bytes())
    places = {"PHOTOS": str(photos), "SIGLIP": str(tmp_path / "siglip"), "ONE": str(tmp_path / "one")}
    options = [places.get(option, option) for option in options]
    model = [] if "--clip_model" in options else ["--clip_model", clip_folder]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["score", *caption_files, "--metrics", "clip_score", *model, *options])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("sharded", ["deepspeed.is_deepspeed_zero3_enabled", "fsdp.is_fsdp_enabled"])
def test_a_clip_model_is_not_loaded_where_it_would_be_split(sharded, clip_folder, monkeypatch):
    monkeypatch.setattr(f"transformers.integrations.{sharded}", lambda: True)
    with refused(option="metrics", says="ZeRO-3 and FSDP"):
        compute_metrics(["a"], [["a"]], ("clip_score",), clip_model=clip_folder)


def test_a_clip_folder_without_weights_is_one_line(clip_folder, photos, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").unlink()
    folder = str(tmp_path / "clip")
    with refused(option="clip_model", got=folder, says="model.safetensors"):
        compute_metrics(["a"], [["a"]], ("clip_score",), images=[photos / "a.png"], clip_model=folder)


def test_recipes_check_their_metrics_before_anything_loads(tmp_path, clip_folder):
    def arguments(**settings):
        return CaptionTrainingArguments(output_dir=str(tmp_path), **settings)

    args = arguments(metrics="cider, clip_score", clip_model=clip_folder)
    assert text_metrics(args) == ["cider"]  # while training
    with refused(option="metrics", got="cider,spice", says=("spice", "some of cider")):
        arguments(metrics="cider,spice")
    with refused(option="tokenizer", got="zh", wanted="ptb", fix="remove meteor"):
        arguments(metrics="cider,meteor", tokenizer="zh")
    with refused(option="metric_for_best_model", got="cider", wanted="one of loss, rouge_l"):
        arguments(metrics="rouge_l")
    with refused(option="metric_for_best_model", got="clip_score", wanted="one of loss, cider"):
        arguments(metrics="cider,clip_score", metric_for_best_model="clip_score", clip_model=clip_folder)


def test_an_evaluation_by_clip_score_keeps_what_it_rests_on(scene_rows, clip_folder, tmp_path):
    rows = scene_rows.select(range(3))
    evaluation = judge(["a", "b", "c"], rows, {}, metrics=("clip_score",), clip_model=clip_folder)
    write_evaluation(tmp_path, evaluation, rows, "title", Measured(None, None, {}))
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["clip_model"] == "tiny-clip" and list(record["metrics"]) == ["clip_score"]
    line = json.loads((tmp_path / "captions.jsonl").read_text().splitlines()[0])
    assert line["clip_score"] == evaluation.per_image["clip_score"][0] and "cider" not in line
