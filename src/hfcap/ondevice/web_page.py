"""A web page that captions photos in the browser with an ONNX export: its files, and those of the npm packages."""

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from hfcap.cache_folder import cache_folder
from hfcap.errors import ConfigError
from hfcap.ondevice.folder import is_onnx_folder, read_onnx_folder

WEB = "web"  # folder of what index.html loads
PAGE_FILES = ("style.css", "app.js", "worker.js", "pixels.js", "resize.js")
_WASM = "dist/ort-wasm-simd-threaded"


@dataclass(frozen=True)
class NpmPackage:
    """A package of the npm registry.

    Attributes:
        name: with its scope.
        version: exact.
        sha512: of the archive, in base64, as in a package-lock.json.
        files: what the page needs of it.
    """

    name: str
    version: str
    sha512: str
    files: tuple[str, ...]

    @property
    def archive(self) -> str:
        """Name of the file that `npm pack` writes."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


# The runtime is the very version that this transformers.js was built with. Of its builds one is for WebAssembly alone
# and half as large as the one for WebGPU: the page loads one of the two.
PACKAGES = (
    NpmPackage(
        "@huggingface/transformers",
        "4.3.2",
        "V3+dqf3iWlRYJ9I9GreM3zGQd0lAXnnoPeddmkOQYWAEE4l/+Fi6p7tx/qVUJlKQgLXGim2W76rTOzz+eC0i7g==",
        ("dist/transformers.min.js", "LICENSE"),
    ),
    NpmPackage(
        "onnxruntime-web",
        "1.31.0-dev.20260914-8d85527a0",
        "Iy7rtadoBgxS/LLvDr3QW38DB1PNXRnr0GJMcL0TAt7c9qjgVQl83UlGCVyeAnK2InpmW8Uc3PL8XIuqtDeF6g==",
        (f"{_WASM}.mjs", f"{_WASM}.wasm", f"{_WASM}.asyncify.mjs", f"{_WASM}.asyncify.wasm"),
    ),
)


def write_page(folder: str | os.PathLike, packages: str | os.PathLike | None = None) -> Path:
    """Put the page into the folder of an ONNX export: any static server of the folder then serves it.

    Args:
        folder: the export.
        packages: folder with the archives of `PACKAGES`, as `npm pack` writes them; by default they are fetched by
            npm, once, into `npm_cache()`.

    Returns:
        The path of `index.html`.

    Raises:
        ConfigError: no ONNX export, no npm, or an archive that is missing or another than hfcap was tested with.
    """
    folder = Path(folder)
    if not is_onnx_folder(folder):
        raise ConfigError("no ONNX export", option="--web", got=str(folder), fix="export with --format onnx")
    read_onnx_folder(folder)
    archives = find_archives(packages)
    vendor = folder / WEB / "vendor"
    vendor.mkdir(parents=True, exist_ok=True)
    for package, archive in zip(PACKAGES, archives, strict=True):
        unpack(package, archive, vendor)
    page = files("hfcap.ondevice") / "page"
    for name in PAGE_FILES:
        (folder / WEB / name).write_bytes((page / name).read_bytes())
    index = folder / "index.html"
    index.write_bytes((page / "index.html").read_bytes())
    return index


def npm_cache() -> Path:
    """Folder of archives that npm fetched."""
    return cache_folder() / "npm"


def find_archives(packages: str | os.PathLike | None) -> list[Path]:
    """Return the archives of `PACKAGES`; see `find_archive`."""
    return [find_archive(package, packages) for package in PACKAGES]


def find_archive(package: NpmPackage, packages: str | os.PathLike | None) -> Path:
    """Return the archive of a package, fetched by npm unless `packages` is a folder that has it.

    Raises:
        ConfigError: it is missing, cannot be fetched, or has other bytes than `package.sha512` says.
    """
    path = Path(packages or npm_cache(), package.archive)
    by_hand = f"run `npm pack {package.name}@{package.version}` and pass its folder with --web_packages"
    if not path.is_file():
        if packages is not None:
            raise ConfigError(f"no {package.archive}", option="--web_packages", got=str(packages), fix=by_hand)
        _fetch(package, path.parent, by_hand)
    found = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != package.sha512:
        raise ConfigError(
            f"another {package.name} than hfcap was tested with",
            option=str(path),
            got=f"sha512-{found}",
            wanted=f"sha512-{package.sha512}",
            fix="remove the file and export again",
        )
    return path


def _fetch(package: NpmPackage, folder: Path, by_hand: str) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigError("npm is not installed", option="--web", fix=f"install npm, or {by_hand}")
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{package.name}@{package.version}"
    done = subprocess.run(
        [npm, "pack", name, "--pack-destination", str(folder)], capture_output=True, text=True, cwd=folder
    )
    if done.returncode:
        reason = (done.stderr.strip() or "it failed").splitlines()[-1]
        raise ConfigError(f"`npm pack {name}`: {reason}", option="--web", fix=f"with a network, {by_hand}")


def unpack(package: NpmPackage, archive: Path, vendor: Path) -> None:
    """Write the files of a package that the page needs, under their own names, and its licence."""
    with tarfile.open(archive) as tar:
        for name in package.files:
            member = tar.extractfile(f"package/{name}")
            assert member is not None  # the archive has the bytes that `sha512` says
            base = Path(name).name
            target = f"{package.archive.removesuffix('.tgz')}.LICENSE.txt" if base == "LICENSE" else base
            (vendor / target).write_bytes(member.read())
