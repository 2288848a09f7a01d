"""CLIPScore and RefCLIPScore as metrics; `clip_score.py`, which brings torch, is loaded when one is computed."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hfcap.errors import ConfigError

from .metric import Inputs, Metric, Options

if TYPE_CHECKING:
    from .clip_score import ClipScorer


@lru_cache(maxsize=1)
def load_scorer(clip_model: str) -> "ClipScorer":
    """Load the CLIP model once per process; it remembers the pictures it has seen.

    Raises:
        ConfigError: it cannot be loaded.
    """
    from .clip_score import ClipScorer

    try:
        return ClipScorer.from_pretrained(clip_model)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise _not_loaded(clip_model, error) from error


def _not_loaded(clip_model: str, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())[:300]
    return ConfigError(reason, option="clip_model", got=clip_model, fix="pass the folder or Hub id of a CLIP model")


def _require(options: Options) -> None:
    """Check what is known before anything loads: no sharded training, and a folder that holds a CLIP model."""
    from transformers import CLIPConfig, PretrainedConfig
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
    from transformers.integrations.fsdp import is_fsdp_enabled

    if is_deepspeed_zero3_enabled() or is_fsdp_enabled():
        raise ConfigError(
            "clip_score and ref_clip_score are not computed under ZeRO-3 and FSDP, which would split the CLIP model",
            option="metrics",
            fix="remove them, and evaluate the finished run with hfcap evaluate",
        )
    try:
        model_type = PretrainedConfig.get_config_dict(options.clip_model)[0].get("model_type")
    except OSError as error:
        raise _not_loaded(options.clip_model, error) from error
    if model_type != CLIPConfig.model_type:
        raise ConfigError(
            f"its type is {model_type}, whose score is not CLIPScore (in Python, hfcap.metrics.clip_score.ClipScorer "
            "computes the score of SigLIP)",
            option="clip_model",
            got=options.clip_model,
            wanted="a CLIP model",
        )


def _record(options: Options) -> dict[str, Any]:
    """Name of the model (of a local folder its own name only) and the SHA-256 of its weights."""
    name, is_folder = options.clip_model, Path(options.clip_model).is_dir()
    weights = load_scorer(options.clip_model).weights_hash
    return {"clip_model": Path(name).resolve().name if is_folder else name, "clip_model_hash": weights}


def _clip_score(inputs: Inputs) -> np.ndarray:
    result = load_scorer(inputs.options.clip_model).score(inputs.images, inputs.predictions)
    return np.array(result["clip_score_per_image"])[:, None]


def _ref_clip_score(inputs: Inputs) -> np.ndarray:
    scorer = load_scorer(inputs.options.clip_model)
    result = scorer.score(inputs.images, inputs.predictions, inputs.references)
    return np.array(result["ref_clip_score_per_image"])[:, None]


CLIP_SCORE = Metric(
    key="clip_score",
    names={"clip_score": "CLIPScore"},
    statistics=_clip_score,
    needs=("images",),
    maximum=2.5,
    require=_require,
    record=_record,
)
REF_CLIP_SCORE = Metric(
    key="ref_clip_score",
    names={"ref_clip_score": "RefCLIPScore"},
    statistics=_ref_clip_score,
    needs=("images", "references"),
    maximum=10 / 7,  # harmonic mean of 2.5 and 1
    require=_require,
    record=_record,
)
