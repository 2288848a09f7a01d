"""Configurations of pretrained parts, and errors of loading them as one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from hfcap.errors import ConfigError


def pretrained_config(option: str, source: str, revision: str | None = None) -> PreTrainedConfig:
    """Configuration of a pretrained part, on the Hub at a revision.

    Raises:
        ConfigError: there is none.
    """
    with loading(option, source):
        return AutoConfig.from_pretrained(source, revision=revision or "main")


@contextmanager
def loading(option: str, source: str) -> Iterator[None]:
    """Let what cannot be loaded be one line that names the option."""
    with one_line(option, source, "cannot be loaded", fix="pass a folder or a Hub id (owner/name)"):
        yield


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
