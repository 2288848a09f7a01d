import pytest
import torch

from hfcap.errors import ConfigError
from hfcap.training.arguments import (
    CaptionTrainingArguments,
    DataArguments,
    ModelArguments,
    fast_bfloat16,
    parse_arguments,
)

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


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file"):
        parse_arguments(*CLASSES, argv=["--config", str(tmp_path / "nowhere.yaml")])
