"""Image files of documents: beside them, or members of the archive. Nothing is ever fetched."""

import hashlib
import posixpath
import re
from pathlib import Path
from urllib.parse import unquote

from hfcap.applications.archives import open_archive, read_member
from hfcap.applications.documents import ARCHIVES, Document
from hfcap.applications.pictures import Picture
from hfcap.applications.texts import DocumentError

PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif", ".tif", ".tiff", ".bmp", ".heic", ".heif", ".jxl")
_SCHEME = re.compile(r"(?:[a-zA-Z][a-zA-Z0-9+.-]+:|//)")


def locate(document: Document, picture: Picture, root: Path | None) -> tuple[str | None, str]:
    """Find the picture's file.

    Args:
        document: the document it is in.
        picture: with a `src` as the document has it.
        root: folder that a `src` with a slash in front starts from.

    Returns:
        Its path, or `archive!member`, and an empty text; or None and why there is none.
    """
    src = picture.src.strip()
    if not src:
        return None, "the document does not say where the picture is"
    if _SCHEME.match(src):
        return None, f"{'data:' if src[:5].lower() == 'data:' else 'remote'} picture, not read"
    plain = unquote(re.split(r"[?#]", src, maxsplit=1)[0])
    if document.path.suffix.lower() in ARCHIVES:
        return _member(document, picture, plain)
    # Browsers take backslashes for slashes.
    for name in dict.fromkeys((src, unquote(src), plain, plain.replace("\\", "/"))):
        if "\0" in name:
            continue
        start = (root or document.path.parent) if name.startswith("/") else document.path.parent
        path = start / name.lstrip("/")
        if path.is_file():
            return Path(posixpath.normpath(path.as_posix())).as_posix(), ""
    return None, f"no such file: {plain[:200]}" + ("; --root names the folder of the site" if plain[:1] == "/" else "")


def _member(document: Document, picture: Picture, src: str) -> tuple[str | None, str]:
    folder = posixpath.dirname(picture.part) if document.path.suffix.lower() == ".epub" else ""
    name = posixpath.normpath(posixpath.join(folder, src))
    with open_archive(document.data) as archive:
        there = name in archive.namelist()
    return (f"{document.path.as_posix()}!{name}", "") if there else (None, f"no {name[:200]} in the archive")


def image_bytes(image: str) -> bytes:
    """Return the content of a picture that `locate` has found.

    Raises:
        DocumentError: it cannot be unpacked.
        OSError: as the file system raises it.
    """
    found = archive_and_member(image)
    if found is None:
        return Path(image).read_bytes()
    with open_archive(Path(found[0])) as opened:  # not read as a whole: it may have a hundred pictures
        return read_member(opened, found[1])


def archive_and_member(image: str) -> tuple[str, str] | None:
    """Return the two halves of `archive!member`, either of which may have a `!` itself; None for a file."""
    if Path(image).is_file():
        return None
    halves = ((image[: found.start()], image[found.end() :]) for found in re.finditer("!", image))
    return next((half for half in halves if half[0].lower().endswith(ARCHIVES) and Path(half[0]).is_file()), None)


def image_sha256(image: str) -> str | None:
    """Return the SHA-256 (hex) of a picture; None where it cannot be read."""
    try:
        return hashlib.sha256(image_bytes(image)).hexdigest()
    except (DocumentError, OSError):
        return None
