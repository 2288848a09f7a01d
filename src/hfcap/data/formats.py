"""Picture formats: the suffixes that Pillow opens here, and what would open the others."""

from contextlib import suppress

from PIL import Image

with suppress(ImportError):  # the extra `heif`
    from pillow_heif import register_heif_opener

    register_heif_opener()
with suppress(ImportError):
    import pillow_jxl  # noqa: F401  (registers itself)

# Pillow registers these and opens none without a program or handler of others; EPS would run PostScript.
_STUBS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_HEIF_SUFFIXES = (".heic", ".heics", ".heif", ".heifs", ".hif")
_HEIF_FIX = "pip install 'hfcap[heif]' (pillow-heif) reads them"
_JXL_FIX = "pip install pillow-jxl-plugin reads them"
_AVIF_FIX = "a Pillow of 11.3 or later, built with AVIF, reads them"
_CONVERT = "convert them to PNG or JPEG"
_RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2")
_OTHERS = (".svg", ".svgz", ".eps", ".emf", ".wmf", ".exr", ".hdr", ".jxr")
_FIXES = {
    **dict.fromkeys(_HEIF_SUFFIXES, _HEIF_FIX),
    ".jxl": _JXL_FIX,
    ".avif": _AVIF_FIX,
    ".avifs": _AVIF_FIX,
    **dict.fromkeys((*_RAW, *_OTHERS), _CONVERT),
}
_NAMES = {".heic": "HEIF", ".avif": "AVIF", ".jxl": "JPEG XL", ".svg": "SVG"}
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevx", b"mif1", b"msf1")


def _opened_here() -> frozenset[str]:
    kinds = Image.registered_extensions()  # imports all of Pillow's plug-ins
    return frozenset(suffix for suffix, kind in kinds.items() if kind in Image.OPEN and kind not in _STUBS)


PICTURE_SUFFIXES = _opened_here()


def unread_picture_fix(suffix: str) -> str | None:
    """Return what to do about pictures of a suffix (lower case) that Pillow does not open here; None for any other."""
    return None if suffix in PICTURE_SUFFIXES else _FIXES.get(suffix)


def unread_content_fix(data: bytes) -> str | None:
    """Return what a file is that Pillow cannot identify, and the fix, by how it begins; None if unknown.

    None too where a plug-in for the format is there: then the file itself is broken.
    """
    start = data[:1000].lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS; `git lfs pull` fetches the picture"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page, as servers send for an error; download the picture again"
    suffix = ""
    if data[4:8] == b"ftyp":
        suffix = ".heic" if data[8:12] in _HEIF_BRANDS else ".avif" if data[8:12] in (b"avif", b"avis") else ""
    elif data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        suffix = ".jxl"
    elif b"<svg" in start:
        suffix = ".svg"
    fix = unread_picture_fix(suffix)
    return f"{_NAMES[suffix]}; {fix}" if fix else None
