"""The engine that trains (one process, DDP, ZeRO, FSDP), read from the environment of the launcher."""

import os
from collections.abc import Mapping

from hfcap.errors import ConfigError
from hfcap.json_files import read_object
from hfcap.training.support import Backend


def current_backend(environment: Mapping[str, str] = os.environ) -> Backend:
    """Read from the environment of `accelerate launch` which engine will train, before any engine starts."""
    if environment.get("ACCELERATE_USE_DEEPSPEED") == "true":
        config_file = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
        stage = environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
        if config_file:
            try:
                stage = read_object(config_file)["zero_optimization"]["stage"]
            except (KeyError, TypeError, ValueError) as error:
                raise ConfigError(
                    f"not found in {config_file} ({error})", option="zero_optimization.stage", fix="add it"
                ) from None
        return f"zero{stage}"
    if environment.get("ACCELERATE_USE_FSDP") == "true":
        return f"fsdp{environment.get('FSDP_VERSION', '1')}"
    return "ddp" if int(environment.get("WORLD_SIZE", "1")) > 1 else "single"


def checkpoint_engine(backend: Backend, num_processes: int) -> str:
    """Who writes the optimizer's state in a checkpoint; another cannot read it.

    `Trainer` would begin with an empty optimizer, silently, where the engine changes; DeepSpeed refuses another number
    of processes.
    """
    if backend in ("single", "ddp"):
        return "trainer"
    return f"{backend} on {num_processes} processes" if backend.startswith("zero") else backend
