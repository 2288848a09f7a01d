"""What only a GPU shows: FlexAttention's kernels, compiled layers, bfloat16, 4 bits by bitsandbytes, cached features.

Skipped without one. Whoever changes kernels, precision or devices runs it by hand:

    pytest -n 0 -m "slow or not slow" tests/training/test_on_gpu.py
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from hfcap import runs
from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.features import cache_features
from hfcap.generation.caption import caption_rows
from hfcap.generation.loading import load_captioner
from hfcap.models.model_utils import compile_layers, is_compiled
from hfcap.training.arguments import ModelArguments
from hfcap.training.build import choose_kernels
from hfcap.training.collators import CaptionCollator
from hfcap.training.strategies import apply_strategy, four_bit_parts
from tiny.captioners import TINY_ENCODER, TINY_LLAMA
from tiny.training import KeepGradients, make_trainer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
ROOT = Path(__file__).parents[2]
NUM_ROWS = 12
FLEX = {"attn_implementation": "flex_attention"}


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch):
    """Float32 convolutions in float32: by default cuDNN rounds their operands to TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def gradients(tmp_path, build_tiny, scene_rows):
    """Train one step on the GPU with kernels of one's choice: loss and gradients, on the CPU."""

    def train_one_step(kernels=None, packing=True, pad_to_multiple_of=1, **settings):
        model, processor = build_tiny("llava")
        choose_kernels(model, ModelArguments(**(kernels or {})))
        collator = CaptionCollator(processor, model.config, "Describe.", packing, 64, pad_to_multiple_of)
        rows = scene_rows.select(range(NUM_ROWS))
        options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3} | settings
        trainer = make_trainer(
            model,
            collator,
            rows,
            tmp_path,
            use_cpu=False,
            max_steps=1,
            max_grad_norm=1e9,
            logging_steps=1,
            **options,
        )
        keeper = KeepGradients()
        trainer.add_callback(keeper)
        trainer.train()
        assert next(iter(keeper.gradients.values())).device.type == "cuda"
        found = {name: gradient.cpu() for name, gradient in keeper.gradients.items()}
        return trainer.state.log_history[0]["loss"], found

    return train_one_step


def assert_same_gradients(expected, found, tolerance):
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        difference = (found[1][name] - gradient).norm() / gradient.norm()
        assert difference < tolerance, f"{name}: {difference:.1e}"


@pytest.mark.parametrize("kernels", [FLEX, {"compile_layers": True}, FLEX | {"compile_layers": True}])
def test_kernels_do_not_change_the_gradient(gradients, kernels):
    torch._dynamo.reset()
    assert_same_gradients(gradients(packing=False), gradients(kernels, pad_to_multiple_of=128), 1e-4)


def test_several_images_a_row_do_not_change_the_gradient(gradients):
    torch._dynamo.reset()
    whole = {"per_device_train_batch_size": NUM_ROWS, "gradient_accumulation_steps": 1}
    several = gradients(FLEX, pad_to_multiple_of=128, max_row_tokens=400, **whole)
    assert_same_gradients(gradients(**whole), several, 1e-4)


def test_a_step_in_bfloat16_is_near_that_in_float32(gradients):
    full, half = gradients(), gradients(precision="bfloat16")
    assert half[0] == pytest.approx(full[0], rel=1e-2)
    assert half[0] != full[0]
    for name, gradient in full[1].items():
        assert half[1][name].dtype == torch.float32
        assert (half[1][name] - gradient).norm() < 0.1 * gradient.norm(), name


def test_captions_do_not_depend_on_device_or_kernels(build_tiny, scene_rows):
    model, processor = build_tiny("llava")
    # The logits of an untrained captioner are nearly equal, and rounding would decide: spread them.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 4 if parameter.ndim > 1 else 1
    data = CaptionDataset(scene_rows)
    options = {"batch_size": 5, "num_beams": 3}
    on_cpu = caption_rows(model, processor, data, "Describe.", **options)
    assert len(set(on_cpu)) > 1
    model.to("cuda")
    assert caption_rows(model, processor, data, "Describe.", **options) == on_cpu
    choose_kernels(model, ModelArguments(**FLEX, compile_layers=True))
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert caption_rows(model, processor, data, "Describe.", **options) == on_cpu
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled
    assert is_compiled(model)


def test_features_of_the_gpu_are_those_of_the_cpu(build_tiny, scene_rows, tmp_path):
    model, processor = build_tiny("llava")
    caches = []
    for device in ("cpu", "cuda"):
        model.to(device)
        folder = tmp_path / device
        caches.append(cache_features(model, processor.image_processor, scene_rows, str(folder), dtype="float32"))
    for index in range(len(scene_rows)):
        torch.testing.assert_close(caches[1].read(index), caches[0].read(index), rtol=1e-4, atol=1e-4)


def test_qlora_trains_what_it_should_and_keeps_the_rest_in_4_bits(build_tiny, scene_rows, tmp_path):
    model, processor = build_tiny("llava")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "base")
    model, processor = load_captioner(str(tmp_path / "base"), load_in_4bit=True)
    assert model.device.type == "cuda"
    parts = four_bit_parts(model)
    model = apply_strategy(model, "qlora", lora_r=4)
    compile_layers(model)
    collator = CaptionCollator(processor, model.config, "Describe.")
    trainer = make_trainer(
        model,
        collator,
        scene_rows,
        tmp_path / "run",
        use_cpu=False,
        max_steps=6,
        learning_rate=1e-2,
        logging_steps=1,
        precision="auto",
    )
    assert trainer.args.bf16
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[-1] < losses[0]
    assert four_bit_parts(model) == parts
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert trainer.evaluation_loss(CaptionDataset(scene_rows)) < losses[0]


def test_the_recipes_train_with_fast_kernels(tmp_path):
    """A base, then QLoRA on it, each to its figures and captions."""
    parts = {"image_size": 32, "vocab_size": 350, "encoder_config": TINY_ENCODER, "decoder_config": TINY_LLAMA}
    run_recipe("train.py", tmp_path, "base", **parts)
    run_recipe("train_qlora.py", tmp_path, "qlora", model=str(tmp_path / "base"), scenes_style="alt_text")


def run_recipe(recipe, folder, name, **settings):
    settings |= {"scenes_image_size": 32, "max_train_images": 40, "max_eval_images": 6, "num_train_epochs": 2}
    settings |= {"per_device_train_batch_size": 8, "prompt": "Describe.", "precision": "auto", "disable_tqdm": True}
    settings |= FLEX | {"compile_layers": True, "pad_to_multiple_of": 128, "output_dir": str(folder / name)}
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(settings))
    command = [sys.executable, str(ROOT / "recipes" / recipe), "--config", str(config)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr[-3000:]
    record = runs.read_run(folder / name / runs.RUN_JSON)
    assert torch.cuda.get_device_name() in json.dumps(record)
    assert runs.read_metrics(folder / name / runs.METRICS_JSON)["metrics"]["cider"]["value"] >= 0
