"""Checks of argument values: minima, optional packages, the metric of the best checkpoint, whole batches."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from transformers import SchedulerType, Trainer, get_scheduler
from transformers.integrations import get_available_reporting_integrations, get_reporting_integration_callbacks
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.utils import is_liger_kernel_available

from hfcap.counts import counted
from hfcap.errors import ConfigError
from hfcap.training.engine import current_backend

# Minimum values of fields that `TrainingArguments` defines; those of hfcap have theirs in their metadata.
INHERITED_MINIMA = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0,
    "label_smoothing_factor": 0,
    "num_train_epochs": 0,
    "seed": 0,
    "data_seed": 0,
    "dataloader_num_workers": 0,
}

# What the evaluations of an encoder compute.
TAGGING_FIGURES = ("loss", "precision", "recall", "f1")


# Settings of `TrainingArguments` that a recipe does not follow, each with its default and what there is instead.
NOT_FOLLOWED = {
    "resume_from_checkpoint": (None, "the same command resumes from the last complete checkpoint"),
    "save_only_model": (False, "a run resumes only from a checkpoint with optimizer, scheduler and random states"),
    "train_sampling_strategy": ("random", "the order is drawn by (seed, epoch), and max_row_tokens evens out lengths"),
    "optim_target_modules": (None, "the parts of a captioner have learning rates of their own"),
    "bf16_full_eval": (False, "a model is judged in the precision it is saved in"),
    "fp16_full_eval": (False, "a model is judged in the precision it is saved in"),
    "average_tokens_across_devices": (True, "a loss is over the targets of all processes"),
    "prediction_loss_only": (False, "evaluations caption eval_caption_images images"),
    "deepspeed": (
        None,
        "use accelerate launch --config_file configs/accelerate/deepspeed_zero3.yaml, or another there",
    ),
    "fsdp": (None, "use accelerate launch --config_file configs/accelerate/fsdp2.yaml"),
}


def check_followed(args) -> None:
    """Refuse settings of `TrainingArguments` that no recipe follows. Raises ConfigError."""
    for name, (default, instead) in NOT_FOLLOWED.items():
        if getattr(args, name, default) != default:
            raise ConfigError(f"not supported ({instead})", option=name, got=getattr(args, name), fix="remove it")


def refuse_settings(refused: Mapping[str, tuple[Any, str]]) -> None:
    """Refuse settings that a recipe cannot follow.

    Args:
        refused: the value of each setting, which is None, False or 0 where it is not used, and the reason.

    Raises:
        ConfigError: one is used.
    """
    for name, (value, reason) in refused.items():
        if value not in (None, False):
            raise ConfigError(reason, option=name, got=value, fix="remove it")


def check_minima(arguments) -> None:
    """Check the numbers of a dataclass of arguments against the `min` of their fields; None is not compared.

    Raises:
        ConfigError: one is too small, or not a number.
    """
    for field in fields(arguments):
        smallest = field.metadata.get("min", INHERITED_MINIMA.get(field.name))
        value = getattr(arguments, field.name, None)
        if smallest is not None and value is not None and not value >= smallest:
            raise ConfigError(option=field.name, got=value, wanted=f"{smallest} or more")


def check_average(args) -> None:
    """Check that the checkpoints that `average_checkpoints` asks for are kept, and that a run can end with their mean.

    Raises:
        ConfigError: they are not, it ends with the best one, or the weights lie in shards of an engine.
    """
    asked = args.average_checkpoints
    if asked is None:
        return
    if args.load_best_model_at_end:
        reason, fix = (
            "load_best_model_at_end is set: a run ends with one checkpoint",
            "set load_best_model_at_end: false",
        )
    elif args.save_strategy not in ("steps", "epoch"):
        reason, fix = f"save_strategy is {args.save_strategy.value!r}", "set save_strategy: steps or epoch"
    elif args.save_total_limit is not None and args.save_total_limit < asked:
        reason, fix = f"only {args.save_total_limit} checkpoints are kept", f"set save_total_limit: {asked}"
    elif current_backend() not in ("single", "ddp"):
        reason, fix = f"not supported on {current_backend()}, which keeps shards of weights", "use DDP"
    else:
        return
    raise ConfigError(reason, option="average_checkpoints", got=asked, fix=f"{fix}, or remove it")


def check_schedule(args) -> None:
    """Check that the learning-rate schedule can be made of `lr_scheduler_type` and `lr_scheduler_kwargs`.

    Raises:
        ConfigError: it lacks a setting, or has one that it does not know.
    """
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    kwargs = args.lr_scheduler_kwargs or {}
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 10, scheduler_specific_kwargs=dict(kwargs))
    except (TypeError, ValueError) as error:
        name = SchedulerType(args.lr_scheduler_type).value
        reason = f"lr_scheduler_type is {name!r}: {error}"
        raise ConfigError(reason, option="lr_scheduler_kwargs", got=kwargs) from error


def check_report_to(args) -> None:
    """Check that every tracker of `report_to` exists here.

    Raises:
        ConfigError: transformers does not know it, or it is not installed.
    """
    try:
        trackers = get_reporting_integration_callbacks(args.report_to)
    except ValueError as error:
        raise ConfigError(str(error), option="report_to", got=args.report_to) from error
    installed = get_available_reporting_integrations()
    missing = [name for name in args.report_to if name not in installed]
    if trackers and missing:
        raise ConfigError(
            f"{', '.join(missing)} is not installed",
            option="report_to",
            got=args.report_to,
            fix="install it, or remove it",
        )


def check_accelerator_config(config) -> None:
    """Check the keys of an `accelerator_config` that is a mapping, or JSON of one; the path of a file is not read.

    Raises:
        ConfigError: accelerate does not know one.
    """
    if isinstance(config, str) and config.startswith("{"):
        config = json.loads(config)
    known = sorted(field.name for field in fields(AcceleratorConfig))
    for name in config if isinstance(config, dict) else ():
        if name not in known:
            wanted = f"one of {', '.join(known)}"
            raise ConfigError("unknown key", option=f"accelerator_config.{name}", wanted=wanted, fix="remove it")


def check_packages(args) -> None:
    """Check that what `use_liger_kernel`, `torch_compile` and `optim` need is installed, by making a small optimizer.

    Raises:
        ConfigError: it is not, or `optim_args` are not those of the optimizer.
    """
    if args.use_liger_kernel and not is_liger_kernel_available():
        raise ConfigError(
            "liger-kernel is not installed",
            option="use_liger_kernel",
            got=True,
            fix="pip install liger-kernel, or remove it",
        )
    if args.torch_compile:
        _check_compiler(args.torch_compile_backend)
    layer = torch.nn.Linear(1, 1)
    try:
        optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(args, layer)
        optimizer_class([{"params": list(layer.parameters())}], **settings)
    except (ImportError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        if args.optim_args:
            reason += f" (optim_args is {args.optim_args!r}; wanted NAME=VALUE,NAME=VALUE)"
        fix = "install what it needs, or choose another, such as adamw_torch"
        raise ConfigError(reason, option="optim", got=args.optim.value, fix=fix) from error


def _check_compiler(backend: str) -> None:
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise ConfigError(option="torch_compile_backend", got=backend, wanted=f"one of {', '.join(known)}")
    compilers = [os.environ.get("CXX", "g++"), "clang++"]  # triton, on a GPU, compiles its launchers with one as well
    if backend == "inductor" and not any(map(shutil.which, compilers)):
        raise ConfigError(
            f"it compiles C++, and there is no {' or '.join(compilers)}",
            option="torch_compile",
            got=True,
            fix="install a C++ compiler, or remove it",
        )


def check_whole_batch(num_rows: int, args) -> None:
    """Check that an epoch of `num_rows` rows has a whole batch, where incomplete ones are dropped.

    Raises:
        ConfigError: it has none, so that nothing would be trained.
    """
    rows = args.per_device_train_batch_size * args.world_size
    if args.dataloader_drop_last and num_rows < rows:
        raise ConfigError(
            f"every batch would be dropped, as the training data has {counted(num_rows, 'row')} and a batch "
            f"of all processes {rows} (per_device_train_batch_size {args.per_device_train_batch_size} x "
            f"{args.world_size})",
            option="dataloader_drop_last",
            got=True,
            fix="remove it, or lower per_device_train_batch_size",
        )


def check_best_metric(name: str | None, figures: Sequence[str]) -> None:
    """Check that evaluations compute `metric_for_best_model`.

    Raises:
        ConfigError: they do not.
    """
    if name is not None and name.removeprefix("eval_") not in figures:
        raise ConfigError(
            "evaluations compute only these",
            option="metric_for_best_model",
            got=name,
            wanted=f"one of {', '.join(figures)}",
        )
