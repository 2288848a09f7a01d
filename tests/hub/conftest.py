"""Tiny captioners of each family and form."""

import pytest
import torch
import transformers
from huggingface_hub import constants

from hfcap import provenance, runs
from hfcap.atomic_files import write_json
from hfcap.data.scenes import load_scenes
from hfcap.generation.loading import load_captioner
from hfcap.hub import verify
from hfcap.training.strategies import apply_strategy
from tiny.captioners import build_joined, captions_of
from tiny.exports import LIVELY_DECODERS, LIVELY_VIT, see


@pytest.fixture(autouse=True)
def quiet():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """This process asks no Hub: the tests name some that are none of theirs."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def pictures():
    """Eight drawings of 32 pixels."""
    return [row["image"].convert("RGB") for row in load_scenes("validation", 8, "caption", image_size=32)]


@pytest.fixture(scope="session")
def build(scene_rows):
    """Build a captioner that says different things of different pictures; with a ViT stock classes can express it."""

    def build(family, encoder=LIVELY_VIT, **bridge):
        torch.manual_seed(0)
        parts = {"encoder_config": encoder, "decoder_config": LIVELY_DECODERS[family], "bridge_config": bridge}
        model, processor = build_joined(family, captions_of(scene_rows), **parts)
        for name, parameter in model.named_parameters():
            if "multi_modal_projector" in name or "cross" in name:
                parameter.data.mul_(10)
        if family == "llava":
            processor.caption_prompt = "describe it"
        return model.eval(), processor

    return build


@pytest.fixture
def make_run(build, tmp_path):
    """Write a run folder with a captioner in its `model/`, as `recipes/train.py` leaves one."""

    def make(family="llava", name="run", **options):
        model, processor = build(family, **options)
        write_records(tmp_path / name)
        for part in (model, processor):
            part.save_pretrained(tmp_path / name / runs.MODEL)
        return tmp_path / name

    return make


@pytest.fixture
def make_lora_run(make_run):
    """Write a base run, and a run with an adapter for it whose matrices and projector are trained (at random)."""

    def make(**options):
        base = make_run(name="base", **options)
        run = base.parent / "lora"
        write_records(run, strategy="lora")
        model, processor = load_captioner(str(base / runs.MODEL))
        model = apply_strategy(model, "lora", lora_r=4, lora_alpha=8)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
        for part in (model, processor):
            part.save_pretrained(run / runs.ADAPTER)
        return run

    return make


def write_records(run, **settings):
    data = {"data": "scenes", "eval_split": "validation", "scenes_style": "caption", "scenes_image_size": 32}
    write_json(run / runs.RUN_JSON, provenance.run_record(data | settings, seeds={}, data={}))


@pytest.fixture
def in_process(monkeypatch):
    """Reload exports in this process: the tests that need a clean one are few, since each takes seconds."""
    monkeypatch.setattr(verify, "reload_in_clean_process", see)
