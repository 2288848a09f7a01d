"""Pickles and files outside the folder are refused before anything is loaded."""

import ast
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import hfcap
from hfcap.checkpoint_files import check_checkpoint
from hfcap.generation.loading import load_captioner
from refusals import refused

PACKAGE = Path(hfcap.__file__).parent


def test_pickled_weights_alone_are_refused_with_the_fix(tmp_path):
    torch.save({}, tmp_path / "pytorch_model.bin")
    with refused(option="model", got=str(tmp_path), says=("pytorch_model.bin", "save_pretrained")):
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
    with refused(option=str(index), says=repr(file)):
        check_checkpoint(tmp_path)


def test_a_captioner_of_pickles_is_refused_before_it_is_read(build_tiny, tmp_path):
    build_tiny("llava")[0].save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with refused(option="model", got=str(tmp_path), says="pytorch_model.bin"):
        load_captioner(str(tmp_path))


def calls_of_from_pretrained():
    """Each call of an Auto class's or PEFT's `from_pretrained` in hfcap: file, class, keyword arguments."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "from_pretrained":
                yield path.name, getattr(node.func.value, "id", ""), {k.arg: k.value for k in node.keywords}


def test_weights_load_from_safetensors_only():
    models = [call for call in calls_of_from_pretrained() if call[1].startswith(("AutoModel", "auto_class"))]
    assert {"pretrained.py", "snapshot.py", "tagger_snapshot.py"} == {call[0] for call in models}
    assert [call for call in models if getattr(call[2].get("use_safetensors"), "value", None) is not True] == []


def turned_off(node):
    """Whether a keyword argument says False itself; without it transformers asks on the terminal."""
    return isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant) and node.value.value is False


def test_remote_code_is_trusted_nowhere_by_default():
    places = []
    for path in (*PACKAGE.rglob("*.py"), *(PACKAGE.parents[1] / "recipes").glob("*.py")):
        nodes = ast.walk(ast.parse(path.read_text()))
        # As a keyword argument, unless it is turned off, or as the key of a dictionary of them.
        places += [path.name for node in nodes if "trust_remote_code" in vars(node).values() and not turned_off(node)]
    # The one place is the verification of an export with code that this process has copied there itself.
    assert places == ["snapshot.py"]
