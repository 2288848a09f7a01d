import pytest
import torch

from hfcap.errors import ConfigError
from hfcap.metrics import DEFAULT_METRICS, value_keys
from hfcap.models.precision import fast_bfloat16
from hfcap.training.arguments import CaptionTrainingArguments, EncoderTrainingArguments, ModelArguments
from hfcap.training.collators import CaptionCollator
from hfcap.training.data_arguments import DataArguments
from hfcap.training.parsing import parse_arguments
from hfcap.training.scst import ScstArguments
from refusals import refused
from tiny.training import make_trainer

CLASSES = (DataArguments, ModelArguments, CaptionTrainingArguments)


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return str(path)


def test_yaml_sets_defaults_and_the_command_line_overrides(tmp_path):
    config = write(tmp_path, "data: photos\nlearning_rate: 1e-3\nmirror: true\ndecoder_config: {n_embd: 32}\n")
    data, model, args = parse_arguments(*CLASSES, argv=["--config", config, "--learning_rate", "5e-4"])
    assert (data.data, data.mirror) == ("photos", True)
    assert model.decoder_config == {"n_embd": 32}
    assert args.learning_rate == 5e-4


@pytest.mark.parametrize(
    ("text", "argv", "option", "fields"),
    [
        ("learning_rat: 1", [], "learning_rat", {"fix": "did you mean 'learning_rate'?", "says": "run.yaml"}),
        ("learning_rate: fast", [], "learning_rate", {"says": "invalid float value: 'fast'"}),
        ("strategy: magic", [], "strategy", {"says": ("invalid choice: 'magic'", "frozen_encoder")}),
        ("decoder_config: gpt2", [], "decoder_config", {"got": "gpt2", "wanted": "a mapping"}),
        ("- a\n- b", [], "--config", {"wanted": "`key: value` lines", "says": ("run.yaml", "list")}),
        ("a: [", [], "--config", {"wanted": "YAML in UTF-8", "says": ("run.yaml", "line 1")}),
        ("", ["--learning-rat", "1"], "--learning-rat", {"fix": "did you mean 'learning_rate'?"}),
        ("mirror: perhaps", [], "mirror", {"says": "perhaps"}),
        ("", ["--resume_from_checkpoint", "run"], "resume_from_checkpoint", {"got": "run", "fix": "remove it"}),
        ("train_sampling_strategy: group_by_length", [], "train_sampling_strategy", {"got": "group_by_length"}),
        ("deepspeed: zero3.json", [], "deepspeed", {"got": "zero3.json", "says": "configs/accelerate/deepspeed"}),
        ("fsdp: full_shard", [], "fsdp", {"says": "--config_file configs/accelerate/fsdp2.yaml"}),
        ("save_only_model: true", [], "save_only_model", {"got": True, "fix": "remove it"}),
        ("seed: 1\nmirror: true\nseed: 2\n", [], "--config", {"says": ("'seed' occurs twice", "line 3")}),
        ("decoder_config: {n_embd: 8, n_layer: 1, n_embd: 16}", [], "--config", {"says": "'n_embd' occurs twice"}),
        ("references: -1", [], "references", {"got": -1, "wanted": "1 or more"}),
        ("", ["--references", "0"], "references", {"got": 0, "wanted": "1 or more"}),
        ("max_caption_tokens: 0", [], "max_caption_tokens", {"got": 0, "wanted": "2 or more"}),
        ("vocab_size: 100", [], "vocab_size", {"got": 100, "wanted": "259 or more"}),
        ("num_beams: 0", [], "num_beams", {"got": 0, "wanted": "1 or more"}),
        ("max_new_tokens: 0", [], "max_new_tokens", {"got": 0, "wanted": "1 or more"}),
        ("per_device_eval_batch_size: 0", [], "per_device_eval_batch_size", {"got": 0, "wanted": "1 or more"}),
        ("learning_rate: .nan", [], "learning_rate", {"wanted": "0 or more", "says": "learning_rate is nan"}),
        ("eval_caption_images: 0", [], "eval_caption_images", {"got": 0, "wanted": "1 or more"}),
        ("eval_caption_images: 1", [], "eval_caption_images", {"got": 1, "wanted": "2 or more", "says": "cider"}),
        (
            "metric_for_best_model: bleu4",
            [],
            "metric_for_best_model",
            {"got": "bleu4", "says": "loss, bleu_1, bleu_2"},
        ),
        (
            "{early_stopping_patience: 2, eval_strategy: 'no', load_best_model_at_end: false}",
            [],
            "early_stopping_patience",
            {"got": 2, "says": ("eval_strategy", "metric_for_best_model")},
        ),
        ("learning_rate: null", [], "learning_rate", {"wanted": "a value", "says": "null in"}),
        ("mirror:", [], "mirror", {"wanted": "a value", "says": "run.yaml"}),
    ],
)
def test_a_wrong_setting_is_one_clear_error(tmp_path, text, argv, option, fields):
    config = ["--config", write(tmp_path, text)] if text else []
    with refused(option=option, **fields):
        parse_arguments(*CLASSES, argv=config + argv)


def test_the_line_of_a_wrong_setting_has_its_value_what_is_wanted_the_reason_and_the_fix():
    with pytest.raises(ConfigError) as error:
        DataArguments(crop=0.2)
    assert str(error.value) == "crop is 0.2; wanted 0.5 to 1 (no crop): a smaller part may lack what captions name"
    with pytest.raises(ConfigError) as error:
        EncoderTrainingArguments(label_smoothing_factor=0.1)
    reason = "the multi-label loss of an encoder has no label smoothing"
    assert str(error.value) == f"label_smoothing_factor is 0.1: {reason}; remove it"


@pytest.mark.parametrize("argv", [["--bf16", "true"], ["--precision", "bfloat16"]])
def test_bfloat16_has_the_name_of_the_trainer_too(argv):
    _, _, args = parse_arguments(*CLASSES, argv=["--data", "photos", *argv])
    assert (args.bf16, args.precision) == (True, "bfloat16")


@pytest.mark.parametrize("setting", ["bf16", "fp16"])
def test_a_precision_that_accelerate_would_overrule_is_refused(monkeypatch, setting):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", setting)
    with refused(option="precision", got="float32", says=f"mixed_precision '{setting}'"):
        CaptionTrainingArguments(use_cpu=True)


def test_a_gpu_that_emulates_bfloat16_is_not_fast_at_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not fast_bfloat16(on_cpu=False)


@pytest.mark.parametrize("setting", [{"num_samples": 1}, {"sampling_temperature": 0.0}])
def test_samples_are_compared_with_each_other(setting):
    ((name, value),) = setting.items()
    with refused(option=name, got=value, says="or more"):
        ScstArguments(**setting)


def test_an_encoder_alone_has_figures_of_its_own_and_no_label_smoothing():
    assert EncoderTrainingArguments(metric_for_best_model="eval_recall").metric_for_best_model == "eval_recall"
    with refused(option="metric_for_best_model", got="cider", wanted="one of loss, precision, recall, f1"):
        EncoderTrainingArguments(metric_for_best_model="cider")
    with refused(option="label_smoothing_factor", got=0.1, fix="remove it"):
        EncoderTrainingArguments(label_smoothing_factor=0.1)


def test_evaluations_compute_what_a_checkpoint_can_be_best_by(build_tiny, scene_rows, tmp_path):
    model, processor = build_tiny("llava")
    figures = make_trainer(model, CaptionCollator(processor, model.config), scene_rows, tmp_path).evaluate()
    times = {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_model_preparation_time"}
    assert set(figures) - times - {"epoch"} == {f"eval_{name}" for name in ("loss", *value_keys(DEFAULT_METRICS))}


def test_metrics_of_images_wait_for_the_end_of_a_run(build_tiny, scene_rows, tmp_path):
    model, processor = build_tiny("llava")
    trainer = make_trainer(model, CaptionCollator(processor, model.config), scene_rows, tmp_path)
    trainer.args.metrics = "rouge_l,clip_score"
    assert set(trainer.caption_metrics(trainer.eval_dataset)) == {"rouge_l"}
    trainer.args.metrics = "clip_score"
    assert trainer.caption_metrics(trainer.eval_dataset) == {}


def test_null_means_none_where_a_setting_can_be_none(tmp_path):
    text = "save_total_limit: null\nmetric_for_best_model: null\nload_best_model_at_end: false\nprompt:\n"
    data, _, args = parse_arguments(*CLASSES, argv=["--config", write(tmp_path, text)])
    assert (args.save_total_limit, args.metric_for_best_model, data.prompt) == (None, None, None)
    _, _, args = parse_arguments(*CLASSES, argv=["--config", write(tmp_path, text), "--save_total_limit", "3"])
    assert args.save_total_limit == 3


def test_a_missing_file_is_named(tmp_path):
    path = str(tmp_path / "nowhere.yaml")
    with refused(option="--config", got=path, says="No such file"):
        parse_arguments(*CLASSES, argv=["--config", path])


@pytest.mark.parametrize("content", [b"num_beams: [" + b"[" * 9999, b"data: caf\xe9\n", "data: x".encode("utf-16")])
def test_a_configuration_that_cannot_be_read_is_one_line(tmp_path, content):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with refused(option="--config", got=str(path), wanted="YAML in UTF-8"):
        parse_arguments(ModelArguments, argv=["--config", str(path)])


def test_a_mapping_nested_too_deeply_is_one_short_line():
    with refused(option="encoder_config", wanted="a mapping", says="99,999 characters"):
        ModelArguments(encoder_config="[" * 99_999)
