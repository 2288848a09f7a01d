"""Time training against the stock way, one padded row for each pair of image and caption; alternating.

    python benchmarks/train_throughput.py --image_tokens 576 --vocab_size 49152
    python benchmarks/train_throughput.py --image_tokens 576 --vocab_size 49152 --memory
    python benchmarks/train_throughput.py --family encoder_decoder --frozen_encoder
    python benchmarks/train_throughput.py --frozen_encoder --native
    python benchmarks/train_throughput.py --image_tokens 256 --native qwen3_vl
    python benchmarks/train_throughput.py --image_tokens 256 --native gemma3

Both ways start from the same weights and take the same optimizer steps over the same pictures and captions, so their
losses must agree, step by step; the benchmark stops where they do not. The models are random and, by default, small
(SigLIP-type encoder 192 x 4 layers, Llama 256 x 6; for encoder-decoders ViT 192 x 4 and GPT-2 256 x 6) and train in
float32. Seconds are medians over the optimizer steps of all rounds, the first --untimed of each round left out. The
ratio of CPU seconds, of all threads, is for machines that others use at the same time.

Where there is a GPU it is used; docs/benchmarks.md has the sizes of a SigLIP-L/16-384 with language models of 0.5 and
1.7 B. `needed_tflops` a second is what learning from the pictures takes (`training_ways.needed_flops`), `mfu` its part
of the device's measured rate of matrix products. --alone leaves the stock way out. For Qwen3-VL and Gemma 3 both ways
are counted by `hfcap.training.flops`: `flops_ratio` is how many times faster operations alone would make it.

--memory runs one step of each way in a process of its own: the peak resident size less what the built model takes.
The last line is JSON.
"""

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import psutil
import torch
from training_ways import DEVICE, WAYS, Settings, needed_flops, trainer_of
from transformers import PrinterCallback, Trainer, TrainerCallback, logging

from hfcap.distributed import use_all_cores
from hfcap.training.flops import needed_flops as counted_flops
from hfcap.training.throughput import measure_matmul, peak_memory_gib


class StepTimes(TrainerCallback):
    """Seconds of each optimizer step from the end of the one before: loading, forward, backward, update, logging."""

    def __init__(self):
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock."""
        self.last, self.last_cpu = time.perf_counter(), time.process_time()

    def on_step_end(self, args, state, control, **kwargs):
        """Read the clock."""
        now, now_cpu = time.perf_counter(), time.process_time()
        self.seconds.append(now - self.last)
        self.cpu_seconds.append(now_cpu - self.last_cpu)
        self.last, self.last_cpu = now, now_cpu


@dataclass
class Round:
    """What one training of one way gave; the last two, of a picture, are not known of every way."""

    times: StepTimes
    losses: list[float]
    peak_memory_gib: float
    needed_flops: float | None = None
    tokens: float | None = None


def train_once(way: str, settings: Settings, folder: str) -> Round:
    """Train from the first weights."""
    if DEVICE == "cuda":
        gc.collect()  # the trainer before this one
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer, times = trainer_of(way, settings, folder), StepTimes()
    trainer.add_callback(times)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    found = Round(times, losses, peak_memory_gib())
    if way == "hfcap":
        found.tokens = trainer.throughput.total.tokens / trainer.throughput.total.images
        if settings.is_other_type:
            found.needed_flops = trainer.throughput.flops_a_token * found.tokens
        elif settings.family == "llava":
            found.needed_flops = needed_flops(settings, trainer.data_collator.prefix_length(None))
    elif settings.is_other_type:
        found.needed_flops = stock_flops(trainer, settings)
    return found


def stock_flops(trainer: Trainer, settings: Settings) -> float:
    """Count what learning from the first picture takes in the stock way, a row per caption."""
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(settings.references)])
    batch = {name: value.to(trainer.model.device) for name, value in batch.items()}
    return counted_flops(trainer.model, lambda: trainer.model(**batch))


def compare_speed(settings: Settings, ways: Sequence[str]) -> dict:
    """Alternate the ways; medians over steps, ratio of captions per second."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    cpu_seconds: dict[str, list[float]] = {way: [] for way in ways}
    tolerance = 1e-3 if settings.frozen_encoder else 1e-4  # the feature cache holds float16
    if settings.precision == "bfloat16":
        tolerance = 2e-2
    rounds: dict[str, Round] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(settings.rounds):
            for way in ways:
                rounds[way] = train_once(way, settings, folder)
                own = rounds[way].times.seconds[settings.untimed :]
                seconds[way] += own
                cpu_seconds[way] += rounds[way].times.cpu_seconds[settings.untimed :]
                print(f"round {number + 1} {way}: {statistics.median(own):.3f} s a step, {rounds[way].losses}")
            losses = [rounds[way].losses for way in ways]
            if not np.allclose(losses[0], losses[-1], rtol=tolerance):
                raise SystemExit(f"the losses differ, so the two ways do not do the same: {losses}")
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    result = {
        "seconds_a_step": {way: round(value, 4) for way, value in medians.items()},
        "captions_per_second": {
            way: round(settings.images * settings.references / value, 2) for way, value in medians.items()
        },
        "tokens_per_second": round(rounds["hfcap"].tokens * settings.images / medians["hfcap"]),
    }
    if rounds["hfcap"].needed_flops is not None:
        rate = rounds["hfcap"].needed_flops * settings.images / medians["hfcap"]
        matmul = measure_matmul(torch.device(DEVICE), getattr(torch, settings.precision))
        result |= {"needed_tflops": round(rate / 1e12, 3), "matmul_tflops": round(matmul / 1e12, 3)}
        result["mfu"] = round(rate / matmul, 3)
    if DEVICE == "cuda":
        result["peak_memory_gib"] = {way: round(rounds[way].peak_memory_gib, 2) for way in ways}
    if len(ways) > 1:
        cpu = {way: statistics.median(values) for way, values in cpu_seconds.items()}
        differences = [abs(a - b) for a, b in zip(*losses, strict=True)]
        result |= {
            "speedup": round(medians["stock"] / medians["hfcap"], 2),
            "cpu_seconds_ratio": round(cpu["stock"] / cpu["hfcap"], 2),
            "largest_loss_difference": max(differences),
        }
        if settings.is_other_type:
            result["flops_ratio"] = round(rounds["stock"].needed_flops / rounds["hfcap"].needed_flops, 2)
    return result


def peak_memory(way: str, settings: Settings) -> dict:
    """Peak resident MB of a few steps over what the process takes once the model is built."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(way, settings, folder)
        base = psutil.Process().memory_info().rss
        trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"base_mb": base / 1e6, "peak_over_base_mb": (peak - base) / 1e6}


def compare_memory(settings: Settings) -> dict:
    """Run each way in a process of its own."""
    found = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--memory_of", way]
        for name, value in asdict(settings).items():
            command += ([f"--{name}"] if value else []) if isinstance(value, bool) else [f"--{name}", str(value)]
        output = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout
        found[way] = json.loads(output.splitlines()[-1])
    ratio = found["hfcap"]["peak_over_base_mb"] / found["stock"]["peak_over_base_mb"]
    return {"peak_memory": found, "memory_share": round(ratio, 3)}


def parse() -> tuple[Settings, argparse.Namespace]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for f in fields(Settings):
        kind = {"action": "store_true"} if f.type is bool else {"type": f.type, "default": f.default}
        parser.add_argument(f"--{f.name}", **kind, **f.metadata)
    parser.add_argument("--memory", action="store_true", help="compare peak memory instead of time")
    parser.add_argument("--memory_of", choices=WAYS, help="measure one way in this process")
    parser.add_argument("--alone", action="store_true", help="leave the stock way out")
    options = parser.parse_args()
    return Settings(**{f.name: getattr(options, f.name) for f in fields(Settings)}), options


def main() -> None:
    """Compare, and print one JSON line last."""
    settings, options = parse()
    logging.set_verbosity_error()
    use_all_cores()
    if options.memory_of:
        print(json.dumps(peak_memory(options.memory_of, settings)))
        return
    ways = ("hfcap",) if options.alone else WAYS
    result = compare_memory(settings) if options.memory else compare_speed(settings, ways)
    machine = {"threads": torch.get_num_threads()}
    if DEVICE == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    print(json.dumps({"benchmark": "train_throughput", **asdict(settings), **machine, **result}))


if __name__ == "__main__":
    main()
