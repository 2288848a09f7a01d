"""Train, judge and save tiny captioners on the engine that the launcher chose: many cells in one launched group.

    accelerate launch --config_file configs/accelerate/ddp.yaml tests/training/backend_run.py FOLDER STEPS CELL ...

A cell is FAMILY/STRATEGY, or FAMILY/STRATEGY/EXTRA, a key of `EXTRAS`; the family "native_TYPE" is a captioner of
transformers (tests/tiny/native.py), and "cnn_FAMILY" has an encoder with BatchNorm. Each leaves
`FOLDER/FAMILY-STRATEGY/` with its checkpoints, and `result.json` with its losses, captions and the engine that really
ran.
"""

import faulthandler
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import datasets
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, gather_object
from torch.distributed.tensor import DTensor
from torch.utils.data import Subset
from transformers import set_seed

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.scenes import load_scenes
from hfcap.distributed import whole_weights
from hfcap.errors import WorkError
from hfcap.generation.loading import load_captioner
from hfcap.generation.sharded import caption_sharded
from hfcap.models.model_types import spec_of
from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.checkpoints import last_complete_checkpoint
from hfcap.training.collators import CaptionCollator
from hfcap.training.strategies import apply_strategy
from hfcap.training.trainer import CaptionTrainer
from tiny.captioners import TINY_ENCODER, TINY_GPT2, TINY_LLAMA, build_joined, captions_of
from tiny.native import build_native
from tiny.training import CHECKPOINTING

# Wide enough for ZeRO-3 to partition some weights: configs/deepspeed/zero3.json keeps those below 10,000 whole.
LLAMA = TINY_LLAMA | {"intermediate_size": 256}
GPT2 = TINY_GPT2 | {"n_embd": 64}
BRIDGE = {"image_position_embeddings": True, "num_bridge_layers": 1, "bridge_dropout": 0.0}
IMAGES_A_STEP = 4
LONGEST = 600  # seconds until a process that hangs prints where, and ends
DECODING = {"num_beams": 2, "max_new_tokens": 8}
NATIVE, CNN = "native_", "cnn_"
RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}
EXTRAS = {
    "checkpointing": {CHECKPOINTING: True},
    "bfloat16": {"precision": "bfloat16"},
    # The first step is bad, the others are worse: the best checkpoint is not the last.
    "best": {
        "learning_rate": 1.0,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
    },
}
# The loss of the last process alone is NaN in the second step.
EXTRAS["diverges"] = {"save_steps": 1}
NUM_EVAL_IMAGES = 7  # odd: two processes cannot have equal shares


def build_tiny(folder: Path, family: str, captions: list[str]):
    """Build a captioner of a family."""
    if family.startswith(NATIVE):
        model, processor = build_native(family.removeprefix(NATIVE), captions)
        model.generation_config.update(**DECODING)
        return model, processor
    has_cnn, family = family.startswith(CNN), family.removeprefix(CNN)
    model, processor = build_joined(
        family,
        captions,
        CaptionTrainingArguments(output_dir=str(folder), **DECODING, use_cpu=True),
        encoder_config=RESNET if has_cnn else TINY_ENCODER,
        decoder_config=LLAMA if family == "llava" else GPT2,
        bridge_config=BRIDGE if family == "encoder_decoder" else None,
    )
    # An untrained captioner says the same of every picture, and captions in a wrong order would pass: spread them.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(("model.vision_tower.", "encoder.")) and parameter.ndim > 1:
                parameter *= 8
    return model, processor


def save_base(folder: Path, family: str) -> None:
    """Build the captioner that all strategies of a family start from."""
    set_seed(0)
    rows = load_scenes("train", 24, "caption", image_size=32)
    model, processor = build_tiny(folder, family, captions_of(rows))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def prompt_of(config) -> str | None:
    """Instruction of a captioner that is trained with one here."""
    return None if spec_of(config).layout == "encoder_decoder" else "caption"


def rows_to_judge(config) -> datasets.Dataset:
    """Rows of the evaluation, with prompts of one length for the one of two processes and of many for the other."""
    rows = load_scenes("train", NUM_EVAL_IMAGES, "caption", image_size=32)
    if prompt_of(config) is None:
        return rows
    return rows.add_column("prompt", ["caption" * (i % 2 * i) for i in range(NUM_EVAL_IMAGES)])


def let_fsdp_shard_on_cpus() -> None:
    """Let accelerate take its FSDP2 path on CPU processes, where it would fall back to DDP without a word.

    It asks this one attribute whether there are GPUs (`AcceleratorState.__init__`); the rest of that path, from
    `fully_shard` to checkpoints, runs on any device. With GPUs the attribute has this value too.
    """
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and not torch.cuda.is_available():
        PartialState().distributed_type = DistributedType.MULTI_GPU


def is_sharded(parameter: torch.nn.Parameter) -> bool:
    """Whether FSDP2 has divided a parameter among all processes."""
    if not isinstance(parameter, DTensor):
        return False
    (placement,) = parameter.placements
    return placement.is_shard() and parameter.device_mesh.size() == torch.distributed.get_world_size()


def engine(trainer: CaptionTrainer) -> dict:
    """Say what really ran: accelerate falls back silently where it lacks something."""
    plugin = trainer.accelerator.state.deepspeed_plugin
    wrapped = trainer.model_wrapped
    return {
        "distributed_type": trainer.accelerator.distributed_type.value,
        "wrapped": type(wrapped).__name__,
        "processes": trainer.args.world_size,
        "processes_a_node": int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        "stage": None if plugin is None else wrapped.zero_optimization_stage(),
        "sharded": all(is_sharded(p) for p in trainer.model.parameters()),
        "partitioned": sum(getattr(p, "ds_numel", p.numel()) > p.numel() for p in trainer.model.parameters()),
    }


def stop_of(trainer: CaptionTrainer, folder: Path) -> dict:
    """Let the last process compute NaN in step 2; return how the processes stopped, and what they saved."""
    computed = trainer.compute_loss_func

    def compute_loss(*args, **kwargs):
        broken = trainer.state.global_step == 1 and trainer.args.process_index == trainer.args.world_size - 1
        return computed(*args, **kwargs) * (float("nan") if broken else 1.0)

    trainer.compute_loss_func = compute_loss
    try:
        trainer.train()
        reason = "it went on"
    except WorkError as error:
        reason = str(error)
    saved = sorted(path.name for path in folder.glob("checkpoint-*"))
    result = {"engine": engine(trainer), "reasons": gather_object([reason]), "saved": saved}
    if trainer.is_world_process_zero():
        (folder / "result.json").write_text(json.dumps(result))
    trainer.accelerator.free_memory()
    return result


def run_cell(root: Path, folder: Path, cell: str, max_steps: int) -> dict:
    """Train a cell to `max_steps`, from its last checkpoint where it has one; return what came out."""
    family, strategy, *extras = cell.split("/")
    base = root / family
    set_seed(0)
    rows = load_scenes("train", 24, "caption", image_size=32)
    settings = {
        "learning_rate": 1e-3,
        "eval_strategy": "no",
        "save_steps": 2,
        "load_best_model_at_end": False,
        **(EXTRAS[extras[0]] if extras else {}),
    }
    args = CaptionTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=IMAGES_A_STEP // 2 // int(os.environ.get("WORLD_SIZE", "1")),
        gradient_accumulation_steps=2,
        per_device_eval_batch_size=2,
        max_steps=max_steps,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="steps",
        disable_tqdm=True,
        use_cpu=True,
        **settings,
    )
    let_fsdp_shard_on_cpus()
    with whole_weights(args):
        model, processor = load_captioner(str(base), load_in_4bit=strategy == "qlora")
    set_seed(0)  # LoRA's matrices
    model = apply_strategy(model, strategy, lora_r=4)
    data, judged = CaptionDataset(rows, references=2, mirror=True), CaptionDataset(rows_to_judge(model.config))
    trainer = CaptionTrainer(
        model=model,
        args=args,
        train_dataset=data,
        eval_dataset=judged,
        data_collator=CaptionCollator(processor, model.config, prompt_of(model.config)),
        processing_class=processor,
    )
    if "diverges" in extras:
        return stop_of(trainer, folder)
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(folder))
    result = {
        "engine": engine(trainer),
        "losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
        "grad_norms": [log["grad_norm"] for log in trainer.state.log_history if "loss" in log],
        "eval_losses": [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log],
        "eval": trainer.evaluate(),
        "captions": trainer.sample_captions,
        # Fewer pictures than processes.
        "first": caption_sharded(trainer.model, processor, Subset(judged, range(1)), prompt_of(model.config)),
    }
    trainer.save_model(str(folder / "model"))
    if trainer.is_world_process_zero():
        (folder / "result.json").write_text(json.dumps(result))
    trainer.accelerator.free_memory()
    return read_result(folder)


def read_result(folder: Path) -> dict:
    """What `run_cell` left in a folder."""
    return json.loads((folder / "result.json").read_text())


if __name__ == "__main__":
    faulthandler.dump_traceback_later(LONGEST, exit=True)
    root, steps, *cells = sys.argv[1:]
    for cell in cells:
        run_cell(Path(root), Path(root) / cell.replace("/", "-"), cell, int(steps))
