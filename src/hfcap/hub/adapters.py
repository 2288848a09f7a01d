"""Export of an adapter alone, with a base that others can load."""

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.file_download import repo_folder_name

from hfcap.atomic_files import write_json
from hfcap.errors import ConfigError
from hfcap.origins import ADAPTER_CONFIG, adapter_base
from hfcap.training.merge import ADAPTER_WEIGHTS

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Base:
    """The base of an adapter: a local folder, or a Hub id with its revision."""

    name: str
    revision: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is a folder here."""
        return Path(self.name).is_dir()

    @classmethod
    def parse(cls, text: str) -> "Base":
        """Read `FOLDER` or `OWNER/NAME[@REVISION]`.

        Raises:
            ConfigError: neither.
        """
        if Path(text).is_dir():
            return cls(text)
        name, _, revision = text.partition("@")
        if not _HUB_ID.fullmatch(name):
            raise ConfigError(option="--base_model", got=text, wanted="an existing folder, or OWNER/NAME[@REVISION]")
        return cls(name, revision or None)


def recorded_base(adapter: str | Path) -> Base:
    """The base that an adapter was trained on; see `hfcap.origins.adapter_base`."""
    name, revision = adapter_base(adapter)
    return Base(str(name), revision)


def shipped_base(recorded: Base, given: Base | None) -> Base:
    """The base that a shipped adapter names: on the Hub, at one revision.

    Args:
        recorded: what the adapter was trained on.
        given: what `--base_model` says.

    Raises:
        ConfigError: a base that only this machine has, or one whose revision is unknown.
    """
    base = given or recorded
    # A relative path such as outputs/base/model that is not here any more is no Hub id either.
    if base.is_local or not _HUB_ID.fullmatch(base.name):
        raise ConfigError(
            "only this machine has this path",
            option="base of the adapter",
            got=base.name,
            fix="push the base and pass --base_model OWNER/NAME[@REVISION], or ship base and adapter as one model "
            "with --merge",
        )
    # Without a revision of its own the training took the newest, and the cache knows which that was.
    newest = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=base.name, repo_type="model"), "refs", "main")
    revision = base.revision or (newest.read_text().strip() if newest.is_file() else None)
    if revision is None:
        raise ConfigError(
            "the revision that the adapter was trained on is not recorded",
            option="base of the adapter",
            got=base.name,
            fix=f"pass --base_model {base.name}@REVISION",
        )
    return Base(base.name, revision)


def weight_hashes(folder: str | Path) -> dict[str, str]:
    """SHA-256 of each safetensors file at the top of a folder, by its name."""
    hashes = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with path.open("rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def hub_weight_hashes(base: Base) -> dict[str, str]:
    """The same of a repository, as the Hub keeps them: nothing is downloaded.

    Raises:
        HTTPError, OSError: the Hub does not say.
    """
    info = HfApi().model_info(base.name, revision=base.revision, files_metadata=True, timeout=10)
    return {
        sibling.rfilename: sibling.lfs.sha256
        for sibling in info.siblings or []
        if sibling.lfs and "/" not in sibling.rfilename and sibling.rfilename.endswith(".safetensors")
    }


def save_adapter(adapter: Path, base: Base, folder: Path) -> None:
    """Copy an adapter's weights and settings, and nothing else of its folder, with the base that it is shipped for."""
    shutil.copyfile(adapter / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
    settings = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    write_json(folder / ADAPTER_CONFIG, settings | {"base_model_name_or_path": base.name, "revision": base.revision})
