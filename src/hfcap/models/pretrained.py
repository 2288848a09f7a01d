"""Configurations of pretrained parts, and errors of loading them as one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten

from huggingface_hub.errors import GatedRepoError, StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from hfcap.errors import ConfigError


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
        except (OSError, ValueError) as error:
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
    except (OSError, ValueError, RecursionError, StrictDataclassError) as error:
        said = shorten(str(error), 300, placeholder=" …")
        reason = said if reason is None else f"{reason}: {said}"
        raise ConfigError(reason, option=option, got=got, fix=fix) from error
