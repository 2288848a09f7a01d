"""Two processes train and judge like one on a stream and on pairs, too, and look for a batch size that fits together.

Data sets that are read whole: `test_backends.py`.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


def launch(processes, script, *arguments):
    # The module behind `torchrun`; `accelerate launch --cpu --num_processes 2` would start one process only.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command += [str(Path(__file__).with_name(script)), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def result_of(process):
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(next(line for line in process.stdout.splitlines() if line.startswith('{"')))


@pytest.mark.slow
def test_two_processes_equal_one_on_a_stream(tmp_path):
    one, two = (
        result_of(launch(processes, "tiny_run.py", "llava-stream", tmp_path / str(processes))) for processes in (1, 2)
    )
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["wrapped"] == "DistributedDataParallel"
    assert list(two["losses"].values()) == pytest.approx(list(one["losses"].values()), rel=1e-5)
    assert list(two["grad_norms"].values()) == pytest.approx(list(one["grad_norms"].values()), rel=1e-4)
    assert two["eval"]["eval_loss"] == pytest.approx(one["eval"]["eval_loss"], rel=1e-5)
    assert two["captions"] == one["captions"]
    assert two["eval"]["eval_cider"] == one["eval"]["eval_cider"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llava", "llava-lora", "encoder_decoder"])
def test_two_processes_learn_pairs_like_one(tmp_path, family):
    one, two = (result_of(launch(n, "dpo_run.py", family, tmp_path / str(n))) for n in (1, 2))
    assert (one.pop("processes"), two.pop("processes")) == (1, 2)
    assert len(one["loss"]) == 4 and one["rewards/margins"][-1] > 0.01
    for name, values in one.items():
        assert two[name] == pytest.approx(values, rel=1e-4, abs=1e-5), name


@pytest.mark.slow
def test_a_batch_size_is_found_by_all_processes_together(tmp_path):
    plain = result_of(launch(2, "memory_run.py", tmp_path / "plain"))
    found = result_of(launch(2, "memory_run.py", tmp_path / "found", 0, 1))
    assert (plain["sizes"], found["sizes"]) == ([4, 1], [2, 2])
    assert found["losses"] == pytest.approx(plain["losses"], rel=1e-5)


@pytest.mark.slow
def test_a_process_that_runs_out_of_memory_alone_ends_the_run(tmp_path):
    """Stock training would wait for it until the collective of the others times out, half an hour by default."""
    process = launch(2, "memory_run.py", tmp_path, 1)
    assert process.returncode == 1
    assert (
        "--per_device_train_batch_size 2 --gradient_accumulation_steps 2 (the same optimizer steps)" in process.stderr
    )
    assert "process 1 did without the others" in process.stderr


@pytest.mark.slow
def test_pictures_are_checked_by_one_process_for_all(tmp_path):
    for number, split in enumerate(["train"] * 3 + ["validation"] * 2):
        path = tmp_path / "photos" / split / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 6), (40 * number, 0, 0)).save(path)
        path.with_suffix(".txt").write_text(f"thing {number}")
    process = launch(2, "reads_run.py", tmp_path / "photos", tmp_path / "run", tmp_path / "cache")
    assert process.returncode == 0, process.stderr[-2000:]
    assert sorted(re.findall("rank.*decoded", process.stdout)) == [
        "rank 0: 3 rows, 5 decoded",
        "rank 1: 3 rows, 0 decoded",
    ]
    (tmp_path / "photos" / "train" / "0.png").write_bytes(b"no picture")
    process = launch(2, "reads_run.py", tmp_path / "photos", tmp_path / "other", tmp_path / "cache")
    assert process.returncode == 1 and process.stderr.count("ConfigError: data: 1 of 3 images cannot be read") == 2
