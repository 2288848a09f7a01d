"""Configurations of pretrained parts, and errors of loading them as one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten

from huggingface_hub.errors import GatedRepoError, StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig

from hfcap.errors import ConfigError

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
