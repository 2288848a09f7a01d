"""Zip archives (DOCX, PPTX, EPUB) with some members edited and every other byte copied.

`zipfile` compresses all members again when it writes; here the local header, the data and the central directory entry
of each member that stays are copied as they are. Source: PKWARE's APPNOTE, sections 4.3.7 (local header), 4.3.12
(central directory) and 4.3.16 (its end).
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from hfcap.applications.texts import DocumentError

MAX_MEMBER = 64 << 20  # bytes of a text, unpacked
MAX_TOTAL = 1 << 30  # bytes of all members together, unpacked
MAX_MEMBERS = 20_000
MAX_RATIO = 200  # of a member's unpacked to its packed size, above a megabyte
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_HAS_DESCRIPTOR, _ENCRYPTED = 8, 1
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def open_archive(data: bytes | Path) -> zipfile.ZipFile:
    """Open an archive, or the file of one, checked for sizes that a document does not have.

    Raises:
        DocumentError: no archive, a broken one, one name twice, or too large unpacked.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data) if isinstance(data, bytes) else data)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DocumentError(f"a broken archive ({error}); it may be encrypted, or no such document") from None
    members = archive.infolist()
    if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_TOTAL:
        raise DocumentError(f"{len(members):,} members, or more than {MAX_TOTAL:,} bytes unpacked; not read")
    for member in members:
        if member.file_size > 1 << 20 and member.file_size > MAX_RATIO * max(member.compress_size, 1):
            raise DocumentError(f"{member.filename} has {member.file_size:,} bytes unpacked, a zip bomb; not read")
    if len({member.filename for member in members}) < len(members):
        raise DocumentError("two members of one name; which one counts depends on the reader")
    return archive


def check_unsigned(data: bytes) -> None:
    """Raise DocumentError if a document is signed: any change would break the signature."""
    names = open_archive(data).namelist()
    signed = next(
        (name for name in names if name.startswith("_xmlsignatures/") or name == "META-INF/signatures.xml"), ""
    )
    if signed:
        raise DocumentError(f"the document is signed ({signed}), and a change would break the signature")


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a member's content.

    Raises:
        DocumentError: there is none, it is too large, encrypted or broken.
    """
    try:
        if archive.getinfo(name).file_size > MAX_MEMBER:
            raise DocumentError(f"{name}: more than {MAX_MEMBER:,} bytes; not read")
        return archive.read(name)
    except KeyError:
        raise DocumentError(f"no {name} in the archive") from None
    # A place or size that is wrong is a ValueError or OverflowError.
    except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, OverflowError, EOFError) as error:
        raise DocumentError(f"{name}: cannot be unpacked ({error})") from None


def with_members(data: bytes, edited: Mapping[str, bytes]) -> bytes:
    """Return the archive with the content of some members replaced, in the same order, with the same dates.

    Raises:
        DocumentError: a form of archive that is not written (ZIP64, a member that is encrypted or compressed in
            another way than deflate, members that overlap).
    """
    archive = open_archive(data)
    start, end = _directory(data)
    members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    behind = [*(member.header_offset for member in members[1:]), start]
    pieces, offsets, records = [data[: members[0].header_offset]], {}, {}
    length = len(pieces[0])
    for member, stop in zip(members, behind, strict=True):
        span = data[member.header_offset : stop]
        if len(span) < _LOCAL.size + member.compress_size or span[:4] != b"PK\3\4":
            raise DocumentError(f"{member.filename}: the members of the archive overlap; not written")
        offsets[member.filename] = length
        if member.filename in edited:
            span, records[member.filename] = _member(span, member, edited[member.filename])
        pieces.append(span)
        length += len(span)
    directory = _with_offsets(data[start:end], archive, offsets, records)
    trailer = bytearray(data[end:])
    struct.pack_into("<2L", trailer, 12, len(directory), length)
    return b"".join([*pieces, directory, bytes(trailer)])


def _directory(data: bytes) -> tuple[int, int]:
    """Return where the central directory begins and ends."""
    at = data.rfind(b"PK\5\6")
    *_, size, start, _ = _END.unpack_from(data, at)
    if 0xFFFFFFFF in (size, start) or start + size != at:
        raise DocumentError("a ZIP64 archive, or one with something in front of it; not written")
    return start, at


def _member(span: bytes, member: zipfile.ZipInfo, content: bytes) -> tuple[bytes, tuple[int, int, int, int]]:
    """Return a member with another content, and its flags, CRC and sizes for the directory."""
    if member.compress_type not in (STORED, DEFLATED) or member.flag_bits & _ENCRYPTED:
        raise DocumentError(f"{member.filename}: encrypted, or not compressed by deflate; not written")
    packed = content
    if member.compress_type == DEFLATED:
        squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        packed = squeeze.compress(content) + squeeze.flush()
    signature, version, flags, method, time, date, *_, name, extra = _LOCAL.unpack_from(span)
    record = (flags & ~_HAS_DESCRIPTOR, zlib.crc32(content), len(packed), len(content))
    header = _LOCAL.pack(signature, version, record[0], method, time, date, *record[1:], name, extra)
    return header + span[_LOCAL.size : _LOCAL.size + name + extra] + packed, record


def _with_offsets(
    directory: bytes, archive: zipfile.ZipFile, offsets: Mapping[str, int], records: Mapping[str, tuple]
) -> bytes:
    changed, at = bytearray(directory), 0
    for member in archive.infolist():  # in the order of the directory
        fields = _CENTRAL.unpack_from(changed, at)
        if member.filename in records:
            flags, crc, packed, size = records[member.filename]
            struct.pack_into("<H", changed, at + 8, flags)
            struct.pack_into("<3L", changed, at + 16, crc, packed, size)
        struct.pack_into("<L", changed, at + 42, offsets[member.filename])
        at += _CENTRAL.size + sum(fields[10:13])  # name, extra field, comment
    return bytes(changed)
