import pytest
import torch

from hfcap.errors import ConfigError
from hfcap.metrics import DEFAULT_METRICS, value_keys
from hfcap.models.precision import fast_bfloat16
from hfcap.training.arguments import CaptionTrainingArguments, DataArguments, EncoderTrainingArguments, ModelArguments
from hfcap.training.collators import CaptionCollator
from hfcap.training.parsing import parse_arguments
from hfcap.training.scst import ScstArguments
from tiny_training import make_trainer

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
    ("text", "argv", "message"),
    [
        ("learning_rat: 1", [], "unknown key 'learning_rat'; did you mean 'learning_rate'"),
        ("learning_rate: fast", [], "--learning-rate: invalid float value: 'fast'"),
        ("strategy: magic", [], "invalid choice: 'magic'"),
        ("decoder_config: gpt2", [], "decoder_config: expected a mapping, got 'gpt2'"),
        ("- a\n- b", [], "expected `key: value` lines, got list"),
        ("a: [", [], "not YAML"),
        ("", ["--learning-rat", "1"], "did you mean 'learning_rate'"),
        ("mirror: perhaps", [], "mirror"),
        ("", ["--resume_from_checkpoint", "run"], "not followed: the same command again goes on"),
        (
            "train_sampling_strategy: group_by_length",
            [],
            "train_sampling_strategy is not followed: the order is drawn",
        ),
        (
            "deepspeed: zero3.json",
            [],
            "deepspeed is not followed: accelerate launch --config_file configs/accelerate/",
        ),
        (
            "fsdp: full_shard",
            [],
            "fsdp is not followed: accelerate launch --config_file configs/accelerate/fsdp2.yaml",
        ),
        (
            "save_only_model: true",
            [],
            "save_only_model is not followed: a run goes on",
        ),
        ("seed: 1\nmirror: true\nseed: 2\n", [], "key 'seed' twice; remove one"),
        ("decoder_config: {n_embd: 8, n_layer: 1, n_embd: 16}", [], "key 'n_embd' twice"),
        ("references: -1", [], "references is -1; wanted 1 or more"),
        ("", ["--references", "0"], "references is 0; wanted 1 or more"),
        ("max_caption_tokens: 0", [], "max_caption_tokens is 0; wanted 2 or more"),
        ("vocab_size: 100", [], "vocab_size is 100; wanted 259 or more"),
        ("num_beams: 0", [], "num_beams is 0; wanted 1 or more"),
        ("max_new_tokens: 0", [], "max_new_tokens is 0; wanted 1 or more"),
        ("per_device_eval_batch_size: 0", [], "per_device_eval_batch_size is 0; wanted 1 or more"),
        ("learning_rate: .nan", [], "learning_rate is nan; wanted 0 or more"),
        ("eval_caption_images: 0", [], "eval_caption_images is 0; wanted 1 or more"),
        ("eval_caption_images: 1", [], "eval_caption_images is 1; wanted 2 or more for metric_for_best_model: cider"),
        ("metric_for_best_model: bleu4", [], "'bleu4'; evaluations compute loss, bleu_1, bleu_2, bleu_3, bleu_4, "),
        (
            "{early_stopping_patience: 2, eval_strategy: 'no', load_best_model_at_end: false}",
            [],
            "early_stopping_patience is 2, but without eval_strategy",
        ),
        ("learning_rate: null", [], "run.yaml: learning_rate is null; give a value"),
        ("mirror:", [], "run.yaml: mirror is null; give a value"),
    ],
)
def test_a_wrong_setting_is_one_clear_error(tmp_path, text, argv, message):
    config = ["--config", write(tmp_path, text)] if text else []
    with pytest.raises(ConfigError) as error:
        parse_arguments(*CLASSES, argv=config + argv)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("argv", [["--bf16", "true"], ["--precision", "bfloat16"]])
def test_bfloat16_has_the_name_of_the_trainer_too(argv):
    _, _, args = parse_arguments(*CLASSES, argv=["--data", "photos", *argv])
    assert (args.bf16, args.precision) == (True, "bfloat16")


@pytest.mark.parametrize("setting", ["bf16", "fp16"])
def test_a_precision_that_accelerate_would_overrule_is_refused(monkeypatch, setting):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", setting)
    with pytest.raises(ConfigError, match=f"mixed_precision '{setting}'.* precision is 'float32'"):
        CaptionTrainingArguments(use_cpu=True)


def test_a_gpu_that_emulates_bfloat16_is_not_fast_at_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not fast_bfloat16(on_cpu=False)


@pytest.mark.parametrize("setting", [{"num_samples": 1}, {"sampling_temperature": 0.0}])
def test_samples_are_compared_with_each_other(setting):
    (name,) = setting
    with pytest.raises(ConfigError, match=f"{name} is .*; wanted .* or more"):
        ScstArguments(**setting)


def test_an_encoder_alone_has_figures_of_its_own_and_no_label_smoothing():
    assert EncoderTrainingArguments(metric_for_best_model="eval_recall").metric_for_best_model == "eval_recall"
    with pytest.raises(ConfigError, match="'cider'; evaluations compute loss, precision, recall, f1"):
        EncoderTrainingArguments(metric_for_best_model="cider")
    with pytest.raises(ConfigError, match=r"label_smoothing_factor is 0\.1: .* leave it out"):
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
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file"):
        parse_arguments(*CLASSES, argv=["--config", str(tmp_path / "nowhere.yaml")])


@pytest.mark.parametrize("content", [b"num_beams: [" + b"[" * 9999, b"data: caf\xe9\n", "data: x".encode("utf-16")])
def test_a_configuration_that_cannot_be_read_is_one_line(tmp_path, content):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"--config .*a.yaml: not YAML in UTF-8"):
        parse_arguments(ModelArguments, argv=["--config", str(tmp_path / "a.yaml")])


def test_a_mapping_nested_too_deeply_is_one_short_line():
    with pytest.raises(ConfigError, match="encoder_config: expected a mapping") as raised:
        ModelArguments(encoder_config="[" * 99_999)
    assert len(str(raised.value)) < 300
