"""CHAIR: objects that neither references nor instances know, counted by hand on captions made for it."""

import json
import zipfile

import pytest

from hfcap.metrics import compare_systems, compute_metrics, lower_is_better
from hfcap.metrics.chair import find_objects, read_instances, read_synonyms
from hfcap.metrics.meteor_words import WordNet
from hfcap.training.arguments import CaptionTrainingArguments
from refusals import refused, run_command

SYNONYMS = "person, man, woman, people\ndog, puppy\nhot dog\ncat, kitten\ndining table, table\n"
CAPTIONS = ["a man with two dogs at a table", "people eat hot dogs on a table top", "the sky"]
REFERENCES = [["a woman and her puppy"], ["a hot dog"], ["a cat"]]


@pytest.fixture(autouse=True)
def jar(tmp_path, monkeypatch):
    path = tmp_path / "meteor-1.5.jar"
    with zipfile.ZipFile(path, "w") as archive:
        words = ("dog", "man", "table", "hot_dog", "table_top")
        archive.writestr("synonym/english.synsets", "".join(f"{word}\n{place}\n" for place, word in enumerate(words)))
        archive.writestr("synonym/english.exceptions", "man\nmen\n")
    monkeypatch.setattr("hfcap.metrics.chair.find_jar", lambda *_: path)
    return path


@pytest.fixture
def synonyms(tmp_path):
    (tmp_path / "synonyms.txt").write_text(SYNONYMS)
    return str(tmp_path / "synonyms.txt")


def test_objects_of_captions(synonyms, jar):
    found = [find_objects(caption, read_synonyms(synonyms), WordNet(jar)) for caption in CAPTIONS]
    # Plurals are found, a hot dog is no dog, and the compound "table top" no table.
    assert found == [["person", "dog", "dining table"], ["person", "hot dog"], []]


def test_shares_of_captions_and_of_mentions(synonyms):
    result = compute_metrics(CAPTIONS, REFERENCES, ("chair",), chair_synonyms=synonyms)
    assert result["chair_s"] == pytest.approx(2 / 3) and result["chair_i"] == pytest.approx(2 / 5)
    assert result["chair_i_per_image"] == pytest.approx([1 / 3, 1 / 2, 0])
    # Annotated instances are there as well, under any of their names.
    objects = [["table"], ["person"], []]
    assert compute_metrics(CAPTIONS, REFERENCES, ("chair",), chair_synonyms=synonyms, objects=objects)["chair_s"] == 0
    better = compare_systems(CAPTIONS, ["a puppy", "hot dog", "cat"], REFERENCES, ("chair",), chair_synonyms=synonyms)
    assert better["chair_s"]["difference"] == pytest.approx(-2 / 3)


def test_instances_of_a_file(tmp_path, synonyms):
    rows = zip(CAPTIONS, REFERENCES, strict=True)
    lines = [{"image_id": str(n), "caption": caption, "captions": texts} for n, (caption, texts) in enumerate(rows)]
    captions = tmp_path / "captions.jsonl"
    captions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    instances = {
        "images": [{"id": number} for number in range(3)],
        "categories": [{"id": 7, "name": "dining table"}],
        "annotations": [{"image_id": 0, "category_id": 7}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    command = ["score", str(captions), "--references", str(captions), "--metrics", "chair"]
    command += ["--chair_synonyms", synonyms]
    with_instances = [*command, "--instances", str(tmp_path / "instances.json"), "--output", str(tmp_path / "m.json")]
    run_command(*with_instances)
    record = json.loads((tmp_path / "m.json").read_text())
    assert record["metrics"]["chair_s"]["value"] == pytest.approx(1 / 3)
    assert record["chair_against"] == "references and instances" and len(record["chair_synonyms_hash"]) == 64
    (tmp_path / "instances.json").write_text(json.dumps(instances | {"images": [{"id": 0}]}))
    with refused(option="--instances", says="it lacks 2 of 3 images (first: 1)"):
        run_command(*with_instances)
    with refused(option="--instances", fix="add chair to the metrics, or remove it"):
        run_command(*command[:4], "--instances", str(tmp_path / "instances.json"))


@pytest.mark.parametrize("image_id", ["000000397133", "397133", "COCO_val2014_000000397133", "kitchen.jpg", "kitchen"])
def test_images_of_instances_match_as_those_of_references(tmp_path, image_id):
    instances = {
        "images": [{"id": 1}, {"id": 397133, "file_name": "val/kitchen.jpg"}],
        "categories": [{"id": 7, "name": "dining table"}],
        "annotations": [{"image_id": 397133, "category_id": 7}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    found = read_instances(tmp_path / "instances.json", ["1", image_id])
    assert found == [frozenset(), frozenset({"dining table"})]


def test_what_chair_lacks_is_named(tmp_path, synonyms):
    with refused(option="chair_synonyms", says="which words name which object"):
        compute_metrics(["a"], [["a"]], ("chair",))
    (tmp_path / "twice.txt").write_text("dog, pet\ncat, pet\n")
    with refused(option="chair_synonyms", says="'pet' stands for 'dog' and for 'cat'", fix="keep one of them"):
        read_synonyms(tmp_path / "twice.txt")
    with refused(option=str(tmp_path / "none.txt"), says="No such file"):
        read_synonyms(tmp_path / "none.txt")


def test_a_lower_value_selects_the_best_checkpoint(tmp_path, synonyms):
    settings = {"output_dir": str(tmp_path), "metrics": "cider,chair", "chair_synonyms": synonyms}
    assert lower_is_better("chair_i") and not lower_is_better("cider") and not lower_is_better("loss")
    assert CaptionTrainingArguments(**settings, metric_for_best_model="chair_i").greater_is_better is False
    assert CaptionTrainingArguments(**settings, metric_for_best_model="eval_chair_s").greater_is_better is False
    assert CaptionTrainingArguments(**settings).greater_is_better is True
    explicit = CaptionTrainingArguments(**settings, metric_for_best_model="chair_i", greater_is_better=True)
    assert explicit.greater_is_better is True


def test_a_byte_order_mark_and_other_line_ends_are_no_part_of_a_name(tmp_path):
    path = tmp_path / "synonyms.txt"
    path.write_bytes(b"\xef\xbb\xbfdog, puppy\r\ncat, kitten\r\n")
    assert read_synonyms(path) == {"dog": "dog", "puppy": "dog", "cat": "cat", "kitten": "cat"}


def test_a_file_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "synonyms.txt"
    path.write_text("dog\ncat\n", encoding="utf-16")
    with refused(option="chair_synonyms", got=str(path), fix="save it as UTF-8"):
        read_synonyms(path)


def test_synonyms_are_split_into_words_as_captions_are(tmp_path, jar):
    path = tmp_path / "synonyms.txt"
    path.write_text("toy, child's toy, Remote Control (RC) toy car\nt.v.\n")
    options = {"chair_synonyms": path}
    captions = ["a child's toy", "a T.V. set", "one remote control (RC) toy car"]
    found = compute_metrics(captions, [["a room"]] * 3, ("chair",), **options)
    assert found["chair_s_per_image"] == [1, 1, 1]
    assert found["chair_i"] == 1.0


def test_annotated_objects_are_compared_without_case_and_must_be_known(synonyms):
    options = {"chair_synonyms": synonyms}
    found = compute_metrics(CAPTIONS, REFERENCES, ("chair",), **options, objects=[["Dining  Table"], ["Person"], []])
    assert found["chair_i_per_image"] == [0, pytest.approx(0), 0]
    with refused(option="chair_synonyms", says="no annotated object is among its words (the first: 'hund')"):
        compute_metrics(CAPTIONS, REFERENCES, ("chair",), **options, objects=[["Hund"], ["Katze"], []])
    with pytest.raises(ValueError, match="got objects of 0 images, wanted those of 3"):
        compute_metrics(CAPTIONS, REFERENCES, ("chair",), **options, objects=[])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"categories": [{"id": 1, "name": 5}], "images": [{"id": 1}], "annotations": []}, "a category's name is 5"),
        ({"categories": [], "images": [{"id": 1}], "annotations": [{"image_id": 9, "category_id": 1}]}, "KeyError"),
        ({"categories": 5, "images": {"a": 1}, "annotations": [1]}, "TypeError"),
        ([], "TypeError"),
    ],
)
def test_instances_of_another_form_are_one_line(tmp_path, content, says):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    with refused(option="--instances", got=str(path), says=("no COCO instances", says)):
        read_instances(path, ["1"])
