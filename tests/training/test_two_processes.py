"""Two processes train and judge like one on a stream, too: same loss, gradient norm and captions.

Data sets that are read whole: `test_backends.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).with_name("tiny_run.py"))


def run(family, folder, processes):
    # The module behind `torchrun`; `accelerate launch --cpu --num_processes 2` would start one process only.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [*command, SCRIPT, family, str(folder)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(next(line for line in process.stdout.splitlines() if line.startswith('{"')))


@pytest.mark.slow
def test_two_processes_equal_one_on_a_stream(tmp_path):
    one, two = (run("llava-stream", tmp_path / str(processes), processes) for processes in (1, 2))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["wrapped"] == "DistributedDataParallel"
    assert list(two["losses"].values()) == pytest.approx(list(one["losses"].values()), rel=1e-5)
    assert list(two["grad_norms"].values()) == pytest.approx(list(one["grad_norms"].values()), rel=1e-4)
    assert two["eval"]["eval_loss"] == pytest.approx(one["eval"]["eval_loss"], rel=1e-5)
    assert two["captions"] == one["captions"]
    assert two["eval"]["eval_cider"] == one["eval"]["eval_cider"]
