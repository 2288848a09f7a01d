"""Pretrained models and configurations, and errors of loading them as one line."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from textwrap import shorten

import torch
from huggingface_hub.errors import GatedRepoError, StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from hfcap.errors import ConfigError
from hfcap.log_messages import without_messages
from hfcap.models.image_features import get_vision_config

logger = logging.getLogger(__name__)

# No captioner reads the pooler of its encoder, and checkpoints (of TrOCR, of ViT classifiers) lack it. BEiT
# classifiers and two-tower models of ViT and BERT read theirs.
POOLER = r"(^|\.)pooler\."
# What libraries raise for files that are not as they must be: of the last three, a value of another type.
WRONG_FILES = (OSError, ValueError, RecursionError, StrictDataclassError, SafetensorError)
WRONG_FILES += (TypeError, AttributeError, KeyError)


def pretrained_config(option: str, source: str, revision: str | None = None) -> PreTrainedConfig:
    """Configuration of a pretrained part, on the Hub at a revision.

    Raises:
        ConfigError: there is none.
    """
    with loading(option, source):
        return AutoConfig.from_pretrained(source, revision=revision or "main", trust_remote_code=False)


def load_whole(
    auto_class: type,
    option: str,
    source: str,
    may_lack: str | None = None,
    dtype: torch.dtype | str = torch.float32,
    **options,
) -> PreTrainedModel:
    """Load a model from safetensors, all of whose weights are in its files.

    transformers leaves those that are in no file random, with a table in the log.

    Args:
        auto_class: whose `from_pretrained` loads it.
        option: that names the model, for errors.
        source: folder or Hub id.
        may_lack: expression for names of weights that the checkpoint may lack, since they are new or never read.
        dtype: of the model; "auto" for that of the files.
        options: further arguments of `from_pretrained`.

    Raises:
        ConfigError: it cannot be loaded, or weights are missing or of another shape; the first is named.
    """
    chance = _fixed_chance() if may_lack == POOLER else nullcontext()
    # Its table of missing and unused weights: what matters of it is said below.
    with loading(option, source), without_messages("transformers.modeling_utils", "LOAD REPORT"), chance:
        model, info = auto_class.from_pretrained(
            source,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # they are named below
            output_loading_info=True,
            **options,
        )
    missing = [str(name) for name in info["missing_keys"]]
    wrong = {name: "is in no file" for name in missing if may_lack is None or not re.search(may_lack, name)}
    for name, own, wanted in info["mismatched_keys"]:
        wrong[str(name)] = f"is {list(own)} in its files and {list(wanted)} by its config.json"
    if wrong:
        name = min(wrong)
        raise ConfigError(
            f"weights that do not fit its config.json: {len(wrong)}, first {name}, which {wrong[name]}",
            option=option,
            got=source,
            fix="download config.json and weights again, of one revision",
        )
    if unused := sorted(map(str, info["unexpected_keys"])):
        logger.info("%s %s: weights that are not used: %d, first %s", option, source, len(unused), unused[0])
    return model


@contextmanager
def _fixed_chance() -> Iterator[None]:
    """Let weights that nobody reads be the same each time: the feature cache and exports go by hashes of them all."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(0)
        yield


def load_vision_encoder(name_or_path: str, **kwargs) -> PreTrainedModel:
    """Load a pretrained vision encoder in float32; of a two-tower checkpoint (CLIP, SigLIP) the vision tower alone.

    `kwargs` go to `AutoModel.from_pretrained` (`attn_implementation`, ...).

    Raises:
        ConfigError: see `load_whole`.
    """
    config = get_vision_config(pretrained_config("encoder", name_or_path))
    return load_whole(AutoModel, "encoder", name_or_path, may_lack=POOLER, config=config, **kwargs)


@contextmanager
def loading(option: str, source: str) -> Iterator[None]:
    """Let what cannot be loaded be one line that names the option, and the way out of what is usual on the Hub."""
    with one_line(option, source, "cannot be loaded", fix="pass a folder or a Hub id (owner/name)"):
        try:
            yield
        except WRONG_FILES as error:
            reason, fix = _usual_reason(error)
            if reason is None:
                raise
            raise ConfigError(reason, option=option, got=source, fix=fix) from error


def _usual_reason(error: Exception) -> tuple[str | None, str | None]:
    """Say why repositories of the Hub often cannot be loaded, and what to do; (None, None) for other reasons."""
    if isinstance(error.__cause__, GatedRepoError):
        return "its owner decides who may download it", "ask for access on its page, and log in (hf auth login)"
    if "trust_remote_code=True" in str(error):
        fix = "pass a repository whose model_type is in docs/models.md (many have a second one, NAME-hf)"
        return "it runs Python code of its own, which is not run here", fix
    if isinstance(error, SafetensorError):
        return f"a file of its weights is cut off, or no safetensors ({error})", "download it again"
    if "tiktoken" in str(error):
        return (
            "its tokenizer has no tokenizer.json, and is converted with libraries that are not installed",
            "pip install sentencepiece tiktoken protobuf",
        )
    return None, None


@contextmanager
def one_line(option: str, got: str | None = None, reason: str | None = None, fix: str | None = None) -> Iterator[None]:
    """Raise what transformers says of wrong files and settings as a `ConfigError` with these fields."""
    try:
        yield
    except ConfigError:
        raise
    except WRONG_FILES as error:
        said = str(error) if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}"
        said = shorten(said, 300, placeholder=" …")
        reason = said if reason is None else f"{reason}: {said}"
        raise ConfigError(reason, option=option, got=got, fix=fix) from error
