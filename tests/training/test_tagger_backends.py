"""The tagger's recipe on two processes, by every engine it allows: the weights, losses and figures of one process."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tiny.taggers import POLICY

ROOT = Path(__file__).parents[2]
RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}
SETTINGS = {
    "scenes_image_size": 32,
    "image_size": 32,
    "encoder_config": RESNET,
    "strategy": "full",
    "max_train_images": 36,
    "max_eval_images": 31,  # odd: two processes cannot have equal shares
    "max_steps": 3,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "save_strategy": "steps",
    "save_steps": 3,
    "disable_tqdm": True,
    "use_cpu": True,
}
DEEPSPEED = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason='needs DeepSpeed: pip install -e ".[deepspeed]"'
)


def run(folder, config, batch, extensions):
    folder.mkdir()
    (folder / "policy.yaml").write_text(POLICY)
    settings = SETTINGS | {"policy": str(folder / "policy.yaml"), "output_dir": str(folder / "run")}
    (folder / "run.yaml").write_text(yaml.safe_dump(settings | {"per_device_train_batch_size": batch}))
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"TORCH_EXTENSIONS_DIR": str(extensions)}
    launcher = []
    if config is not None:
        launcher = ["accelerate.commands.launch", "--main_process_port", "0", "--config_file"]
        launcher += [str(ROOT / "configs" / "accelerate" / config), "-m"]
    recipe = ["hfcap.recipes.train_tagger", "--config", str(folder / "run.yaml")]
    command = [sys.executable, "-m", *launcher, *recipe]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (checkpoint,) = (folder / "run" / "checkpoints").glob("checkpoint-*")
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    return {
        "losses": [row["loss"] for row in state["log_history"] if "loss" in row],
        "log_loss": [row["eval_log_loss"] for row in state["log_history"] if "eval_log_loss" in row],
        "weights": load_file(folder / "run" / "model" / "model.safetensors"),
        "metrics": json.loads((folder / "run" / "metrics.json").read_text())["metrics"],
        "engine": json.loads((folder / "run" / "run.json").read_text())["arguments"]["engine"],
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "engine"),
    [
        ("ddp.yaml", "trainer"),
        pytest.param("deepspeed_zero1.yaml", "zero1 on 2 processes", marks=DEEPSPEED),
        pytest.param("deepspeed_zero2.yaml", "zero2 on 2 processes", marks=DEEPSPEED),
    ],
)
def test_two_processes_train_the_tagger_of_one(config, engine, tmp_path):
    one = run(tmp_path / "one", None, 8, tmp_path)
    two = run(tmp_path / "two", config, 4, tmp_path)
    assert two["engine"] == engine
    assert two["losses"] == pytest.approx(one["losses"], rel=2e-4)
    assert two["log_loss"] == pytest.approx(one["log_loss"], rel=1e-4)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, rtol=1e-3, atol=1e-4, msg=name)
    for key, figure in one["metrics"].items():
        assert two["metrics"][key]["value"] == pytest.approx(figure["value"], abs=1e-3), key
