"""Run folders: what counts as the same run, as done, and what is trained first."""

import json

from accelerate import Accelerator
from accelerate.state import AcceleratorState

from hfcap import runs
from hfcap.errors import ConfigError
from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.data_arguments import DataArguments
from hfcap.training.parsing import parse_arguments
from hfcap.training.run_folder import begin_or_resume
from hfcap.training.steps import run_prerequisite
from refusals import refused


def open_again(tmp_path, scene_rows, *argv):
    parsed = parse_arguments(DataArguments, CaptionTrainingArguments, argv=["--use_cpu", "true", *argv])
    return begin_or_resume(tmp_path, parsed, (scene_rows, scene_rows))


def test_a_setting_that_an_earlier_version_did_not_have_was_as_it_is_by_default(tmp_path, scene_rows):
    assert not open_again(tmp_path, scene_rows)
    record = json.loads((tmp_path / "run.json").read_text())
    del record["arguments"]["color_jitter"], record["arguments"]["bf16_full_eval"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert not open_again(tmp_path, scene_rows)
    with refused(option="output_dir", got=str(tmp_path), says="color_jitter was 0.0, is 0.2"):
        open_again(tmp_path, scene_rows, "--color_jitter", "0.2")


def test_a_run_with_early_stopping_that_an_earlier_version_began_goes_on(tmp_path, scene_rows):
    """It restored no state of callbacks."""
    argv = ("--early_stopping_patience", "2")
    open_again(tmp_path, scene_rows, *argv)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["arguments"]["restore_callback_states_from_checkpoint"]
    record["arguments"]["restore_callback_states_from_checkpoint"] = False
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert not open_again(tmp_path, scene_rows, *argv)


def test_a_run_is_done_when_its_last_file_is_there(tmp_path, scene_rows, capsys):
    open_again(tmp_path, scene_rows)
    figures = {key: {"value": value, "ci95": (0.0, 1.0)} for key, value in (("bleu_4", 0.25), ("cider", 0.5))}
    sources = {"num_images": 6, "tokenizer": "ptb", "idf": "references", "decoding": {}, "model_artifact": "model"}
    runs.write_metrics(tmp_path / runs.METRICS_JSON, figures, **sources)
    for name in (runs.REPORT_HTML, runs.CARD_README):
        assert not open_again(tmp_path, scene_rows), name
        (tmp_path / name).touch()
    assert open_again(tmp_path, scene_rows)
    assert "is done: BLEU-4 25.0, CIDEr 50.0" in capsys.readouterr().out


def test_a_dry_run_trains_no_part(tmp_path):
    args = CaptionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, dry_run=True)
    called = []

    def main(argv):
        called.append(argv)

    command = "accelerate launch recipes/test_preparation.py --config a.yaml"
    with refused(option="dry_run", fix=f"run {command}", says=str(tmp_path / "part")):
        run_prerequisite(main, ["--config", "a.yaml"], tmp_path / "part", args)
    (tmp_path / "part").mkdir()
    run_prerequisite(main, [], tmp_path / "part", args)
    assert not called


def test_a_part_of_other_settings_is_named_with_what_trains_it(tmp_path):
    args = CaptionTrainingArguments(output_dir=str(tmp_path / "captioner"), use_cpu=True)

    def main(argv):
        raise ConfigError("this folder holds another run", option="output_dir", got="part", fix="pass --output_dir")

    with refused(option="output_dir", got="part", says="remove the folder: a.yaml trains this part again"):
        run_prerequisite(main, ["--config", "a.yaml"], tmp_path / "part", args)


def test_a_part_is_trained_in_a_precision_of_its_own(tmp_path):
    args = CaptionTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    AcceleratorState._reset_state()
    run_prerequisite(lambda argv: Accelerator(mixed_precision="no"), [], tmp_path, args)
    assert Accelerator(mixed_precision="bf16").mixed_precision == "bf16"
    AcceleratorState._reset_state()
