"""`parse_arguments`: where the configuration may stand, and what its values may be."""

import pytest

from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.data_arguments import DataArguments
from hfcap.training.parsing import parse_arguments
from refusals import refused


def test_the_configuration_may_follow_an_equals_sign_and_is_named_once(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    for path in (first, second):
        path.write_text("scenes_image_size: 40\n")
    (data,) = parse_arguments(DataArguments, argv=["--prompt", "see", f"--config={first}"])
    assert (data.scenes_image_size, data.prompt) == (40, "see")
    with refused(option="--config", got=[str(first), str(second)], wanted="one file"):
        parse_arguments(DataArguments, argv=["--config", str(first), f"--config={second}"])
    with refused(option="--config", wanted="a YAML file"):
        parse_arguments(DataArguments, argv=["--config"])


def test_a_value_of_the_file_may_begin_with_dashes(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("prompt: '--what?'\ncrop: 0.5\n")
    (data,) = parse_arguments(DataArguments, argv=["--config", str(path)])
    assert data.prompt == "--what?"


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (
            "metrics: [bleu, cider]\n",
            {"option": "metrics", "got": ["bleu", "cider"], "fix": "write metrics: bleu,cider"},
        ),
        ("output_dir: [a, b]\n", {"option": "output_dir", "got": ["a", "b"], "wanted": "one value"}),
    ],
)
def test_a_list_for_one_value_names_its_key(tmp_path, text, fields):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with refused(**fields):
        parse_arguments(CaptionTrainingArguments, argv=["--config", str(path)])


def test_a_list_where_one_is_taken_is_read(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("report_to: [none]\nuse_cpu: true\n")
    (args,) = parse_arguments(CaptionTrainingArguments, argv=["--config", str(path)])
    assert args.report_to == []
