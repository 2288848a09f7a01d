"""Pickles and files outside the folder are refused before anything is loaded."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import hfcap
from hfcap.errors import ConfigError
from hfcap.hub.checkpoint_files import check_checkpoint


def test_pickled_weights_alone_are_refused_with_the_fix(tmp_path):
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pickled weights only \(pytorch_model\.bin\).*save_pretrained"):
        check_checkpoint(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    check_checkpoint(tmp_path)


def test_what_trainer_leaves_beside_an_encoder_config_is_no_weight(tmp_path):
    torch.save({}, tmp_path / "training_args.bin")
    check_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "file", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", r"..\model.safetensors"]
)
def test_an_index_that_leaves_its_folder_is_refused(tmp_path, file):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(ConfigError, match=re.escape(repr(file))):
        check_checkpoint(tmp_path)


def test_remote_code_is_trusted_nowhere_by_default():
    package = Path(hfcap.__file__).parent
    places = [
        path.name
        for path in (*package.rglob("*.py"), *(package.parents[1] / "recipes").glob("*.py"))
        for line in path.read_text().splitlines()
        if re.search(r"trust_remote_code[\"']?\s*[=:]\s*", line) and "``" not in line and "`trust" not in line
    ]
    # The one place is the verification of an export with code that this process has copied there itself.
    assert places == ["snapshot.py"]
