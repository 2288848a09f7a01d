"""What is counted while training, and what happens when memory runs out."""

from functools import partialmethod, wraps

import pytest
import torch
from torch import nn

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.errors import WorkError
from hfcap.models.model_utils import compile_layers, is_compiled
from hfcap.training.arguments import ModelArguments
from hfcap.training.build import choose_kernels
from hfcap.training.collators import CaptionCollator
from hfcap.training.plan import RowSampler, image_lengths
from hfcap.training.results import evaluate_trained
from hfcap.training.throughput import Throughput, Work, count_batch
from refusals import refused
from tiny.training import make_trainer

RATES = {"captions_per_second", "images_per_second", "tokens_per_second", "padding_share", "data_wait_share", "mfu"}


def build_trainer(tmp_path, model, processor, rows, **settings):
    collator = CaptionCollator(processor, model.config, "caption")
    return make_trainer(model, collator, rows, tmp_path, logging_steps=1, **settings)


@pytest.mark.parametrize("packing", ["one image per row", "several", "none"])
def test_a_batch_is_counted(build_tiny, scene_rows, packing):
    model, processor = build_tiny("llava")
    data = CaptionDataset(scene_rows)
    collator = CaptionCollator(processor, model.config, "caption", packing=packing != "none")
    keys = range(6)
    if packing == "several":
        keys = list(RowSampler(image_lengths(data, collator), 400, seed=0))
    batch = collator([data[key] for key in keys])
    captions, images, tokens, positions = count_batch(batch).tolist()
    pairs = 5 * (24 if packing == "several" else 6)
    assert captions == pairs
    assert images == len(batch["pixel_values"]) == (pairs if packing == "none" else pairs / 5)
    assert tokens == (batch["segment_ids"] != -1).sum()
    assert positions == batch["input_ids"].numel()


def test_rates_of_known_work():
    throughput = Throughput(matmul_flops=1e9, flops_a_token=1e6)
    # Two processes that worked for 4 seconds each.
    rates = throughput.rates(Work(8, 2, 40, 8, 2000, 2500), num_processes=2)
    assert rates["captions_per_second"] == 10
    assert rates["images_per_second"] == 2
    assert rates["tokens_per_second"] == 500
    assert rates["padding_share"] == 0.2
    assert rates["data_wait_share"] == 0.25
    assert rates["mfu"] == 0.25  # 500 tokens x 1e6 a second, 1e9 a second and process possible


def test_a_run_logs_its_throughput(tmp_path, build_tiny, scene_rows):
    trainer = build_trainer(tmp_path, *build_tiny("llava"), scene_rows, per_device_train_batch_size=6, max_steps=3)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 3
    assert all(set(log) >= RATES | {"peak_memory_gib"} for log in logs)
    assert trainer.throughput.total.images == 18
    assert trainer.throughput.total.captions == 90
    summary = trainer.throughput_summary
    assert summary["images_per_second"] == pytest.approx(18 / trainer.throughput.total.seconds, rel=1e-3)
    assert summary["mfu"] > 0
    assert 0 < summary["data_wait_share"] < 1


def test_a_compiled_model_is_compiled_and_counted(tmp_path, build_tiny, scene_rows):
    """A function that first runs under the counter would never be compiled."""
    losses = []
    for compiled in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model, processor = build_tiny("llava")
        trainer = build_trainer(tmp_path, model, processor, scene_rows, max_steps=2, **compiled)
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
        assert trainer.throughput_summary["mfu"] > 0
        assert (torch._dynamo.utils.counters["frames"]["ok"] > 0) == bool(compiled)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_compiled_layers_train_and_caption_as_others_do(tmp_path, build_tiny, scene_rows, monkeypatch):
    """Layers are compiled once a stack, and not again for the shapes of an evaluation."""
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))
    losses, captions = [], []
    for compiled in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model, processor = build_tiny("llava")
        choose_kernels(model, ModelArguments(compile_layers=compiled))
        assert is_compiled(model) == compiled
        trainer = build_trainer(tmp_path, model, processor, scene_rows, max_steps=2, eval_caption_images=5)
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
        stats = torch._dynamo.utils.counters["stats"]
        graphs = stats["unique_graphs"]
        assert (graphs > 0) == compiled
        losses[-1].append(trainer.evaluate()["eval_loss"])
        captions.append(trainer.sample_captions)
        assert stats["unique_graphs"] == graphs
        assert trainer.throughput_summary["mfu"] > 0
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert captions[1] == captions[0]


def test_equal_layers_are_compiled_and_no_others():
    """Blocks of one class and different shapes would be compiled one by one."""
    stack = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))
    blocks = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 5)])
    model = nn.ModuleDict({"stack": stack, "blocks": blocks, "single": nn.ModuleList([nn.Linear(3, 3)])})
    compile_layers(model)
    compiled = {name for name, module in model.named_modules() if module._compiled_call_impl is not None}
    assert compiled == {"stack.0", "stack.1", "stack.2"}
    assert is_compiled(model)
    assert not is_compiled(blocks)


def limit_memory(model, rows):
    """Let the model run out of memory with more than so many rows, as a GPU does."""
    forward = model.forward

    def limited(*args, **kwargs):
        if len(kwargs["input_ids"]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(*args, **kwargs)

    model.forward = limited


def train_once(tmp_path, build_tiny, rows, limit, **settings):
    model, processor = build_tiny("llava")
    limit_memory(model, limit)
    trainer = build_trainer(tmp_path, model, processor, rows, num_train_epochs=1, **settings)
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    return losses, trainer


def test_the_batch_size_that_is_found_keeps_the_optimizer_steps(tmp_path, build_tiny, scene_rows):
    settings = {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2}
    plain, _ = train_once(tmp_path, build_tiny, scene_rows, 6, **settings)
    found, trainer = train_once(tmp_path, build_tiny, scene_rows, 3, auto_find_batch_size=True, **settings)
    assert (trainer._train_batch_size, trainer.args.gradient_accumulation_steps) == (3, 4)
    assert len(plain) == 2
    assert found == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "limit", "says"),
    [
        (
            {"per_device_train_batch_size": 6},
            4,
            "--per_device_train_batch_size 3 --gradient_accumulation_steps 2",
        ),
        # Half of 5 is not a whole number: 10 rows per step are 5 x 2 as well as 2 x 5.
        (
            {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 2},
            4,
            "--per_device_train_batch_size 2 --gradient_accumulation_steps 5 (the same optimizer steps)",
        ),
        ({"per_device_train_batch_size": 2, "auto_find_batch_size": True}, 0, ("a lower max_row_tokens", "one row")),
    ],
)
def test_out_of_memory_says_which_setting_to_lower(tmp_path, build_tiny, scene_rows, settings, limit, says):
    got = 1 if limit == 0 else settings["per_device_train_batch_size"]
    with refused(WorkError, option="per_device_train_batch_size", got=got, says=says):
        train_once(tmp_path, build_tiny, scene_rows, limit, **settings)


@pytest.mark.parametrize("find", [False, True])
def test_out_of_memory_in_an_evaluation_is_not_taken_for_one_of_training(tmp_path, build_tiny, scene_rows, find):
    """With `auto_find_batch_size`, training would begin anew with smaller batches until none is left."""
    model, processor = build_tiny("llava")
    forward, sizes = model.forward, []

    @wraps(forward)  # `generate` looks at its signature
    def limited(*args, **kwargs):
        if not model.training and sizes:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        sizes.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    model.forward = limited
    settings = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 2, "auto_find_batch_size": find}
    trainer = build_trainer(tmp_path, model, processor, scene_rows, per_device_train_batch_size=4, **settings)
    with refused(WorkError, option="per_device_eval_batch_size", got=8):
        trainer.train()
    assert sizes == [4, 4]  # the operations of the first batch are counted, and it trains
    with refused(WorkError, option="per_device_eval_batch_size", got=8):
        evaluate_trained(trainer)


def test_memory_of_the_cpu_runs_out_as_well(tmp_path, build_tiny, scene_rows):
    model, processor = build_tiny("llava")
    model.forward = lambda **_: torch.empty(2**60)  # PyTorch itself refuses
    with refused(WorkError, option="per_device_train_batch_size", got=8, says="--per_device_train_batch_size 4"):
        build_trainer(tmp_path, model, processor, scene_rows, per_device_train_batch_size=8).train()
