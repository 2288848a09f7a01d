"""A tagger's export: stock, equal in a clean process, and refused where it is not."""

import copy
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from hfcap import cli
from hfcap.hub import tagger_export, tagger_snapshot
from hfcap.hub.tagger_card import write_tagger_card
from hfcap.hub.tagger_export import differences, is_tagger
from hfcap.models.image_classifier import last_linear
from hub.local_hub import LocalHub
from refusals import refused, run_command
from tiny.taggers import TAGS, build_tagger, save_tagger


@pytest.fixture
def tagger(tmp_path):
    return save_tagger(tmp_path / "tagger")


def test_a_tagger_is_told_from_a_captioner(tagger, build_tiny, tmp_path):
    build_tiny("llava")[0].save_pretrained(tmp_path / "captioner")
    assert is_tagger(tagger)
    assert not is_tagger(tmp_path / "captioner")
    assert not is_tagger("owner/name")


@pytest.mark.slow
def test_an_export_is_verified_in_a_clean_process(tagger, tmp_path, capsys):
    cli.main(["export", str(tagger), "--to", str(tmp_path / "ready")])
    assert "Verified in a clean process: MobileNetV2ForImageClassification" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "ready").iterdir()}
    assert {"model.safetensors", "calibration.json", "policy.yaml", "verification.json"} <= names
    before, after = load_file(tagger / "model.safetensors"), load_file(tmp_path / "ready" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_weights_that_change_on_the_way_leave_no_folder(tagger, tmp_path, monkeypatch):
    reload = tagger_export._reload

    def reload_changed(folder, pictures):
        weights = load_file(folder / "model.safetensors")
        weights["classifier.bias"] += 0.01
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return reload(folder, pictures)

    monkeypatch.setattr(tagger_export, "_reload", reload_changed)
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", str(tagger), "--to", str(tmp_path / "ready")])
    assert ended.value.code == 1
    assert not (tmp_path / "ready").exists()


@pytest.fixture
def records(tagger, tmp_path):
    """A run that was stopped before its card was written."""
    records = tmp_path / "run"
    shutil.copytree(tagger, records / "model")
    tags = {tag: {"with": 3, "left_out": 1} for tag in TAGS}
    figures = {"map": {"value": 0.5, "ci95": [0.4, 0.6]}}
    for tag in TAGS:
        figures[f"average_precision_{tag}"] = {"value": 0.5, "ci95": [0.4, 0.6]}
        figures[f"prevalence_{tag}"] = {"value": 0.1, "ci95": [0.05, 0.2]}
    policy, data = {"path": "policy.yaml", "sha256": "0" * 64}, {"name": "scenes", "split": "validation"}
    metrics = {"metrics": figures, "tags": tags, "data": data, "num_images": 9, "policy": policy}
    metrics["calibration_error"] = {"before": 0.1, "after": 0.05}
    (records / "metrics.json").write_text(json.dumps(metrics))
    labels = {"train": {"num_images": 9, "tags": tags}}
    run = {"arguments": {"data": "scenes", "seed": 0}, "labels": labels, "policy": policy, "versions": {"hfcap": "0"}}
    (records / "run.json").write_text(json.dumps(run))
    return records


def test_given_metadata_survives_in_the_card_of_a_tagger(records):
    card = write_tagger_card(records)
    added = "license: other\nlicense_name: mine\nname: mine\nweights: 1\n"
    text = card.read_text().replace("---\n", f"---\n{added}", 1).replace("tags:\n", "tags:\n- my-tag\n", 1)
    card.write_text(text)
    data = ModelCard.load(write_tagger_card(records, records / "to", "user/tagger")).data.to_dict()
    assert (data["license"], data["license_name"], data["name"], data["weights"]) == ("other", "mine", "mine", 1)
    assert data["tags"] == ["content-moderation", "multi-label-classification", "hfcap", "my-tag"]
    data = ModelCard.load(write_tagger_card(records, records / "to", license="mit")).data.to_dict()
    assert data["license"] == "mit" and "license_name" not in data
    card.write_text(text.replace("license: other", "license: [other"))
    with pytest.raises(ValueError, match="its metadata is not YAML"):
        write_tagger_card(records)


def test_the_card_of_a_tagger_loads_it_from_its_branch(records):
    for branch, loads in (("main", 'model="user/tagger")'), ("dev", 'model="user/tagger", revision="dev")')):
        card = write_tagger_card(records, records / "to", "user/tagger", branch).read_text()
        assert f'classify = pipeline("image-classification", {loads}\n' in card


def test_the_card_of_a_captioner_is_not_written_for_a_tagger(records):
    (records / "policy.yaml").write_text("")
    for command in ("write", "check"):
        with refused(option="RUN", got=str(records), wanted="a captioner"):
            run_command("card", command, str(records))


@pytest.mark.slow
def test_a_tagger_is_pushed_with_a_card_and_tags_from_the_hub_as_here(records, scene_rows, tmp_path):
    with LocalHub() as hub:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
        environment |= {"HF_TOKEN": "hf_writer"}
        command = [
            sys.executable,
            "-m",
            "hfcap.cli",
            "push",
            str(records),
            "--repo",
            "user/tagger",
            "--license",
            "mit",
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]
        files = hub.files("models/user/tagger")
        scene_rows[0]["image"].save(tmp_path / "photo.png")
        command = [sys.executable, "-m", "hfcap.cli", "moderate", "tag", str(tmp_path / "photo.png")]
        command += ["--tagger", "user/tagger", "--output", str(tmp_path / "hub.jsonl")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]
    cli.main(["moderate", "tag", *command[5:6], "--tagger", str(records), "--output", str(tmp_path / "here.jsonl")])
    there, here = (json.loads((tmp_path / name).read_text()) for name in ("hub.jsonl", "here.jsonl"))
    assert there["policy"]["sha256"] == here["policy"]["sha256"]
    for key in ("scores", "probabilities"):  # which differ: the calibration is there, too
        assert there[key] == pytest.approx(here[key], abs=1e-5)
    assert there["scores"] != there["probabilities"]
    card = files["README.md"].decode()
    assert 'model="user/tagger"' in card
    assert "license: mit" in card
    assert {"model.safetensors", "calibration.json", "policy.yaml", "metrics.json", "run.json"} <= set(files)


def test_each_difference_is_named(scene_rows):
    from tiny.parts import build_image_processor

    model, processor = build_tagger(), build_image_processor()
    pictures = [scene_rows[0]["image"]]
    unfit = {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}
    expected = tagger_snapshot.describe(model, processor)
    expected["scores"] = tagger_snapshot.pipeline_scores(model, processor, pictures)
    found = unfit | json.loads(json.dumps(expected))
    assert differences(expected, found) == []
    changed = copy.deepcopy(found)
    changed["missing_keys"] = ["classifier.bias"]
    changed["config"]["problem_type"] = None
    changed["scores"][0]["red"] += 1e-4
    with torch.no_grad():
        last_linear(model).bias.add_(1)
    changed["weights"] = tagger_snapshot.describe(model, processor)["weights"]
    said = " ".join(differences(expected, changed))
    for part in ("1 missing keys", "config: problem_type", "weights: classifier.bias", "score of red for picture 1"):
        assert part in said


@pytest.mark.parametrize("option", [["--merge"], ["--dtype", "float16"], ["--format", "remote-code"]])
def test_options_of_captioners_are_refused(option, tagger, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", str(tagger), "--to", str(tmp_path / "ready"), *option])
    assert ended.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_weights_that_are_not_finite_are_not_exported(tagger, tmp_path):
    model = build_tagger()
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("nan")
    model.save_pretrained(tagger)
    from hfcap.errors import VerificationError

    with refused(VerificationError, says="classifier.weight"):
        tagger_export.export_tagger(tagger, tmp_path / "ready")
