"""Alts in the metadata of photos: an XMP sidecar beside the file, or within the file by ExifTool.

The property is `Iptc4xmpCore:AltTextAccessibility` of the IPTC Photo Metadata Standard 2021.1.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from hfcap.applications.images import PHOTOS, archive_and_member
from hfcap.applications.texts import DocumentError
from hfcap.content_hashes import file_sha256
from hfcap.errors import ConfigError

WAYS = ("sidecar", "embed")
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:Iptc4xmpCore="http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/">
   <Iptc4xmpCore:AltTextAccessibility>
    <rdf:Alt>
     <rdf:li xml:lang="x-default">{alt}</rdf:li>
    </rdf:Alt>
   </Iptc4xmpCore:AltTextAccessibility>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


def ways_of(text: str) -> list[str]:
    """Read `--metadata`.

    Raises:
        ConfigError: a way that there is not, or "embed" without ExifTool.
    """
    ways = [way for way in text.split(",") if way]
    wrong = [way for way in ways if way not in WAYS]
    if wrong:
        raise ConfigError(option="--metadata", got=text, wanted=f"{' or '.join(WAYS)}, or both separated by a comma")
    if "embed" in ways and shutil.which("exiftool") is None:
        raise ConfigError(
            "ExifTool (exiftool.org) is missing", option="--metadata", got=text, fix="install it, or use sidecar"
        )
    return ways


def sidecar_of(photo: Path) -> Path:
    """Return `photo.jpg.xmp` for `photo.jpg`, so that a `photo.png` beside it has another one."""
    return photo.with_name(photo.name + ".xmp")


def sidecar_text(alt: str) -> str:
    """Return an XMP packet with an alt."""
    return _XMP.format(alt=escape(alt))


def photo_of(row: dict[str, Any]) -> Path | None:
    """Return the photo whose metadata a row is about; None for a picture in an archive, or without an alt.

    Raises:
        DocumentError: the photo is gone, another one now, or no picture at all: a document may name any file.
    """
    image = row.get("image")
    if not image or row["status"] not in ("accepted", "edited") or archive_and_member(image):
        return None
    if not Path(image).is_file():
        raise DocumentError(f"{image} is gone")
    if row.get("image_sha256") not in (None, file_sha256(image)):
        raise DocumentError(f"{image} is another picture now; run `hfcap alt suggest` again")
    if not _is_picture(Path(image)):
        raise DocumentError("it is no picture that can be read; its metadata is left alone")
    return Path(image)


def _is_picture(path: Path) -> bool:
    if path.suffix.lower() in (*PHOTOS, ".svg"):  # of some formats Pillow opens none
        return True
    from PIL import Image  # `hfcap alt check` does without

    try:
        with Image.open(path):
            return True
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def check_place(photo: Path, files: Sequence[str], root: Path | None) -> None:
    """Check that a photo is one that its documents may have metadata written for: a document may name any file.

    Args:
        photo: the photo.
        files: the documents that show it, or the photo itself where it was named.
        root: folder of the site, if the user names one.

    Raises:
        DocumentError: it is neither in the folder of one of them nor in `root`, or below. A link counts by its target.
    """
    folders = [Path(file).parent for file in files] + ([] if root is None else [root])
    if not any(photo.resolve().is_relative_to(folder.resolve()) for folder in folders):
        raise DocumentError(
            f"it is outside the folder of {files[0]}, and its metadata is left alone; --root FOLDER, a folder that it "
            "is in, allows it"
        )


def write_sidecar(photo: Path, alt: str) -> bool:
    """Write the sidecar of a photo; False where it is there with this alt.

    Raises:
        DocumentError: there is another sidecar, which may hold other people's data.
    """
    path, text = sidecar_of(photo), sidecar_text(alt)
    try:
        with open(path, "x", encoding="utf-8") as file:  # never over another one
            file.write(text)
    except FileExistsError:
        if path.read_bytes() == text.encode():
            return False
        raise DocumentError(f"{path} is there already; it is kept") from None
    return True


def embed(photo: Path, alt: str) -> bool:
    """Write an alt into a photo by ExifTool, which keeps the pixels; False where it holds this one.

    Raises:
        DocumentError: it has another alt already, is read-only, or ExifTool does not know the format.
    """
    if not os.access(photo, os.W_OK) or not photo.stat().st_mode & 0o222:
        raise DocumentError(f"{photo} is read-only; change its permissions")
    name = str(photo.absolute())  # which never looks like an option
    there = _exiftool("-s3", "-XMP-iptcCore:AltTextAccessibility", name)
    if there.strip() == alt:
        return False
    if there.strip():
        raise DocumentError(f"{photo} has an alt already, {there.strip()[:60]!r}; it is kept")
    _exiftool("-overwrite_original", "-P", f"-XMP-iptcCore:AltTextAccessibility={alt}", name)
    return True


def _exiftool(*arguments: str) -> str:
    done = subprocess.run(["exiftool", "-charset", "utf8", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DocumentError(f"exiftool: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")
    return done.stdout
