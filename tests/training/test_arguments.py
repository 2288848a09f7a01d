import pytest

from hfcap.errors import ConfigError
from hfcap.training.arguments import CaptionTrainingArguments, DataArguments, ModelArguments, parse_arguments

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
    ],
)
def test_a_wrong_setting_is_one_clear_error(tmp_path, text, argv, message):
    config = ["--config", write(tmp_path, text)] if text else []
    with pytest.raises(ConfigError) as error:
        parse_arguments(*CLASSES, argv=config + argv)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file"):
        parse_arguments(*CLASSES, argv=["--config", str(tmp_path / "nowhere.yaml")])
