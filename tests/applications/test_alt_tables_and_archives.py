"""Alts in CSV, JSONL, DOCX, PPTX and EPUB: found, written, and everything else copied as it is."""

import hashlib
import io
import json
import re
import struct
import zipfile
from pathlib import Path

import pytest
from test_alt_hostile import apply_all, rows_of

from hfcap import cli
from hfcap.applications.apply import plan_change
from hfcap.applications.check import check_documents
from hfcap.applications.documents import read_document
from hfcap.applications.proposals import rows_of_documents
from hfcap.applications.rows import write_rows
from hfcap.applications.texts import DocumentError

ALT = 'A cat, "Tom".'
WORD = (
    '<?xml version="1.0" encoding="UTF-8"?><w:document><w:p><w:r><w:t>A day out</w:t></w:r></w:p><w:p><w:r><w:drawing>'
    '<wp:inline><wp:docPr id="1" name="Picture 1"{}/><a:graphic><pic:pic><pic:cNvPr id="0" name="a"/>'
    '<a:blip r:embed="rId4"/></pic:pic></a:graphic></wp:inline></w:drawing></w:r></w:p></w:document>'
)
RELATIONS = '<Relationships><Relationship Id="rId4" Target="media/image1.png"/></Relationships>'
SLIDE = (
    '<p:sld><p:sp><a:p><a:r><a:t>Results</a:t></a:r></a:p></p:sp><p:pic><p:nvPicPr><p:cNvPr id="4" name="P"{}/>'
    '</p:nvPicPr><p:blipFill><a:blip r:embed="rId4"/></p:blipFill></p:pic></p:sld>'
)
CHAPTER = (
    '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head><body>'
    '<p>Once {{</p><img src="../images/a%20b.png"{}/></body></html>'
)


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def archive_of(members, **options):
    """Return a zip archive of `{name: content}`; the first is stored, the others are deflated, with odd dates."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (name, content) in enumerate(members.items()):
            info = zipfile.ZipInfo(name, date_time=(1999, 1 + number, 2, 3, 4, 6))
            info.compress_type = zipfile.ZIP_DEFLATED if number else zipfile.ZIP_STORED
            info.extra, info.comment, info.external_attr = b"\x99\x99\2\0hi", b"note", 0o600 << 16
            archive.writestr(info, content, **options)
        archive.comment = b"of the archive"
    return buffer.getvalue()


def documents():
    word = {
        "[Content_Types].xml": "<Types/>",
        "word/document.xml": WORD,
        "word/_rels/document.xml.rels": RELATIONS,
        "word/media/image1.png": b"\x89PNG" * 100,
    }
    slides = {
        "[Content_Types].xml": "<Types/>",
        "ppt/slides/slide1.xml": SLIDE,
        "ppt/slides/_rels/slide1.xml.rels": RELATIONS.replace("media", "../media"),
        "ppt/media/image1.png": b"\x89PNG" * 100,
    }
    book = {
        "mimetype": "application/epub+zip",
        "OEBPS/text/1.xhtml": CHAPTER,
        "OEBPS/images/a b.png": b"\x89PNG" * 100,
    }
    return {"a.docx": word, "a.pptx": slides, "a.epub": book}


def filled(members, attribute):
    return {name: text.replace("{}", attribute) if "{}" in str(text) else text for name, text in members.items()}


@pytest.mark.parametrize("name", ["a.docx", "a.pptx", "a.epub"])
def test_one_member_changes_and_the_others_keep_their_bytes_dates_and_order(tmp_path, name):
    path, members = tmp_path / name, documents()[name]
    before = archive_of(filled(members, ""))
    path.write_bytes(before)
    document = read_document(path)
    assert [p.src for p in document.pictures] == [
        {"a.docx": "word/media/image1.png", "a.pptx": "ppt/media/image1.png", "a.epub": "../images/a%20b.png"}[name]
    ]
    apply_all(path, ALT)
    attribute = "alt" if name == "a.epub" else "descr"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(io.BytesIO(before)) as old:
        assert archive.testzip() is None
        assert archive.comment == b"of the archive"
        wanted = filled(members, f' {attribute}="A cat, &quot;Tom&quot;."')
        # In front of the other attributes, where there always is a place.
        tag = {"a.docx": "<wp:docPr", "a.pptx": "<p:cNvPr"}.get(name)
        wanted = {n: moved(text, tag, f' {attribute}="A cat, &quot;Tom&quot;."') for n, text in wanted.items()}
        assert {n: archive.read(n) for n in archive.namelist()} == {
            n: text if isinstance(text, bytes) else text.encode() for n, text in wanted.items()
        }
        for new, was in zip(archive.infolist(), old.infolist(), strict=True):
            kept = ("filename", "date_time", "extra", "comment", "external_attr", "compress_type")
            assert [getattr(new, key) for key in kept] == [getattr(was, key) for key in kept]
            if new.CRC == was.CRC:
                size = 30 + len(new.filename) + len(new.extra) + new.compress_size
                new_bytes = path.read_bytes()[new.header_offset :][:size]
                assert new_bytes == before[was.header_offset :][:size]
    if name == "a.epub":  # first and stored, where readers look for it
        assert path.read_bytes()[30:38] == b"mimetype"
        assert path.read_bytes()[44:64] == b"application/epub+zip"
    assert check_documents([str(path)])[0] == []


def moved(text, tag, attribute):
    return text.replace(attribute, "").replace(tag, tag + attribute) if tag and isinstance(text, str) else text


def test_members_with_a_data_descriptor_are_copied(tmp_path):
    class Pipe(io.RawIOBase):  # cannot seek, so that sizes follow the data
        def __init__(self):
            self.data = b""

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in filled(documents()["a.docx"], "").items():
            archive.writestr(name, text)
    (tmp_path / "a.docx").write_bytes(pipe.data)
    apply_all(tmp_path / "a.docx", ALT)
    with zipfile.ZipFile(tmp_path / "a.docx") as archive:
        assert archive.testzip() is None
        assert b"A cat" in archive.read("word/document.xml")


def test_an_empty_descr_is_none_and_decorative_is_a_mark_of_its_own(tmp_path):
    path = tmp_path / "a.docx"
    path.write_bytes(archive_of(filled(documents()["a.docx"], ' descr=""')))
    assert [finding.rule for finding in check_documents([str(path)])[0]] == ["missing-alt"]
    apply_all(path, ALT)
    assert b'name="Picture 1" descr="A cat, &quot;Tom&quot;."/>' in zipfile.ZipFile(path).read("word/document.xml")
    mark = '><a:extLst><a:ext><adec:decorative val="1"/></a:ext></a:extLst></wp:docPr'
    path.write_bytes(
        archive_of(filled(documents()["a.docx"], "").copy() | {"word/document.xml": WORD.replace("{}/", mark)})
    )
    assert check_documents([str(path)])[0] == []


def test_an_archive_is_not_read_again_for_each_picture(tmp_path, monkeypatch):
    members, pictures = filled(documents()["a.docx"], ""), 20
    members["word/document.xml"] = f"<x>{INLINE.format(1, BLIP) * pictures}</x>"
    Path("a.docx").write_bytes(archive_of(members))
    reads, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path) or read_bytes(path))
    rows, *_ = rows_of_documents([Path("a.docx")], None)
    plan_change("a.docx", [row | {"status": "edited", "alt": ALT} for row in rows])
    assert len(rows) == pictures and all(row["image_sha256"] for row in rows) and len(reads) == 2


def test_the_picture_of_an_archive_is_found_whatever_its_name_and_checked(tmp_path):
    path, members = Path("wow! a.docx!b.docx"), filled(documents()["a.docx"], "")
    path.write_bytes(archive_of(members))
    (row,), *_ = rows_of_documents([path], None)
    assert row["image_sha256"] == hashlib.sha256(members["word/media/image1.png"]).hexdigest()
    decided = [row | {"status": "edited", "alt": ALT}]
    assert plan_change(str(path), decided).num_alts == 1
    path.write_bytes(archive_of(members | {"word/media/image1.png": b"another picture"}))
    with pytest.raises(DocumentError, match=r"image1\.png is another picture now"):
        plan_change(str(path), decided)


PREVIEW = '<p:pic><p:cNvPr id="0" name=""/><a:blip r:embed="rId4"/></p:pic>'
ALTERNATIVES = (
    '<mc:AlternateContent><mc:Choice Requires="x">{}</mc:Choice><mc:Fallback>{}</mc:Fallback></mc:AlternateContent>'
)
INLINE = '<wp:inline><wp:docPr id="{}" name="x"/>{}</wp:inline>'
BLIP = '<a:blip r:embed="rId4"/>'
FRAME = '<p:graphicFrame><p:cNvPr id="7" name="Object"/>{}</p:graphicFrame>'
GROUP = '<p:grpSp><p:nvGrpSpPr><p:cNvPr id="9" name="g"{}/><p:cNvGrpSpPr/></p:nvGrpSpPr><p:grpSpPr/>{}</p:grpSp>'
ONCE = {  # parts, and the ids of the elements that take the alt
    "an embedded object has that of its frame": (
        "a.pptx",
        FRAME.format(ALTERNATIVES.format("<p:oleObj/>", f"<p:oleObj>{PREVIEW}</p:oleObj>")),
        ["7"],
    ),
    "a chart of 2016, and its picture for older programs": (
        "a.docx",
        ALTERNATIVES.format(INLINE.format(1, "<cx:chart/>"), INLINE.format(2, BLIP)),
        ["1"],
    ),
    "a picture in a text box": (
        "a.docx",
        ALTERNATIVES.format(
            f'<wp:anchor><wp:docPr id="1" name="x"/><w:txbx>{INLINE.format(2, BLIP)}</w:txbx></wp:anchor>',
            f"<w:pict><w:txbx>{INLINE.format(2, BLIP)}</w:txbx></w:pict>",
        ),
        ["2"],
    ),
    "what hfcap does not know, and its picture": (
        "a.pptx",
        ALTERNATIVES.format("<p:new/>", PREVIEW.replace('"0"', '"4"')) + "<mc:AlternateContent><mc:Fallback/>",
        ["4"],
    ),
    "ink": (
        "a.pptx",
        ALTERNATIVES.format(
            '<p:contentPart r:id="rId1"><p14:nvContentPartPr><p14:cNvPr id="5" name="Ink"/></p14:nvContentPartPr>'
            "</p:contentPart>",
            PREVIEW,
        ),
        ["5"],
    ),
    "groups with an alt, one without, and a decorative one": (
        "a.pptx",
        GROUP.format(' descr="A timeline."', GROUP.format("", PREVIEW) + PREVIEW)
        + GROUP.format("", PREVIEW.replace('"0"', '"1"') + GROUP.format(' descr="A map."', PREVIEW))
        + GROUP.format("", PREVIEW).replace('name="g"/>', 'name="g"><a16:decorative val="1"/></p:cNvPr>')
        + PREVIEW.replace('"0"', '"2"'),
        ["1", "2"],
    ),
    "a hidden picture": ("a.docx", INLINE.format('1" hidden="1', BLIP), []),
}


@pytest.mark.parametrize(("name", "markup", "ids"), ONCE.values(), ids=ONCE)
def test_a_picture_of_office_counts_once_where_programs_read_its_alt(tmp_path, name, markup, ids):
    part = "word/document.xml" if name == "a.docx" else "ppt/slides/slide1.xml"
    (tmp_path / name).write_bytes(archive_of(documents()[name] | {part: f"<x>{markup}</x>"}))
    apply_all(tmp_path / name, "A boat.")
    written = zipfile.ZipFile(tmp_path / name).read(part).decode()
    assert re.findall(r'Pr descr="A boat\." id="(\d)"', written) == ids
    assert written.count("descr=") == len(ids) + markup.count("descr=")


def test_parts_of_word_may_be_numbered_and_headers_are_not_described(tmp_path):
    members = filled(documents()["a.docx"], "")
    parts = ["word/document2.xml", "word/footer1.xml", "word/header.xml"]  # the first as Word for the web names it
    del members["word/document.xml"]
    for part in parts:
        members |= {part: WORD.replace("{}", ""), f"word/_rels/{Path(part).name}.rels": RELATIONS}
    (tmp_path / "a.docx").write_bytes(archive_of(members))
    found = [(picture.part, picture.role) for picture in read_document(tmp_path / "a.docx").pictures]
    assert found == list(zip(parts, ["informative", "unknown", "unknown"], strict=True))


def test_a_decorative_picture_of_word_is_left_to_word_and_said(tmp_path, capsys):
    Path("a.docx").write_bytes(archive_of(filled(documents()["a.docx"], "")))
    before = Path("a.docx").read_bytes()
    (row,), *_ = rows_of_documents([Path("a.docx")], None)
    write_rows("alts.jsonl", [row | {"status": "decorative"}])
    cli.main(["alt", "apply", "alts.jsonl"])
    assert "1 decorative picture of Word or PowerPoint, whose mark hfcap does not write" in capsys.readouterr().err
    assert Path("a.docx").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"word/bomb.bin": b"0" * (3 << 20)}, "word/bomb.bin has 3,145,728 bytes unpacked, a zip bomb"),
        ({"word/document.xml": "<!DOCTYPE x [<!ENTITY a 'b'>]>" + WORD}, "a document type"),
    ],
)
def test_bombs_are_refused(tmp_path, change, said):
    path = tmp_path / "a.docx"
    path.write_bytes(archive_of(filled(documents()["a.docx"], "") | change))
    findings, _ = check_documents([str(path)])
    assert [finding.rule for finding in findings] == ["unreadable"]
    assert said in findings[0].message


def test_an_archive_with_a_wrong_place_is_one_finding(tmp_path):
    data = bytearray(archive_of(filled(documents()["a.docx"], "")))
    place = data.rindex(b"PK\5\6") + 16  # of the central directory
    struct.pack_into("<L", data, place, struct.unpack_from("<L", data, place)[0] + 4000)
    (tmp_path / "a.docx").write_bytes(data)
    findings, _ = check_documents(["a.docx"])
    assert [finding.rule for finding in findings] == ["unreadable"]


def test_archives_that_cannot_be_written_whole_are_refused(tmp_path):
    path = tmp_path / "a.docx"
    members = filled(documents()["a.docx"], "")
    path.write_bytes(archive_of(members | {"_xmlsignatures/sig1.xml": "<x/>"}))
    with pytest.raises(DocumentError, match="is signed"):
        apply_all(path)
    data = bytearray(archive_of(members))
    path.write_bytes(b"#!stub\n" + bytes(data))
    with pytest.raises(DocumentError, match="something in front of it"):
        apply_all(path)
    assert path.read_bytes().startswith(b"#!stub")
    broken = bytearray(data)
    start = broken.index(b"word/document.xml") + len("word/document.xml") + 6
    broken[start : start + 8] = struct.pack("<Q", 2**64 - 1)
    path.write_bytes(broken)
    assert "cannot be unpacked" in check_documents([str(path)])[0][0].message


CSV = (
    'id,Image Src,"Image Alt Text",title\r\n1,a.png,,"A, b"\r\n2,"b ""x"".png",Two boats.,\r\n'
    '3,c.png,"",x\n\n4,d.png,,"two\nlines"\n'
)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_cells_are_filled_and_nothing_else_is_quoted_anew(tmp_path, delimiter):
    path = tmp_path / "a.csv"
    text = CSV if delimiter == "," else CSV.replace(",", delimiter)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    apply_all(path, ALT)
    alt = '"A cat, ""Tom""."'
    cell, quoted = f"a.png{delimiter}", f'c.png{delimiter}""'
    wanted = text.replace(cell, cell + alt).replace(quoted, f"c.png{delimiter}{alt}")
    wanted = wanted.replace(f"d.png{delimiter}", f"d.png{delimiter}{alt}")
    assert path.read_bytes() == b"\xef\xbb\xbf" + wanted.encode()


JSONL = (
    '{"image": "a.png"«, "alt": ALT»}\n{ "alt":«ALT|null» , "image": "b.png", "n": 1.50}\n\n'
    '{"alt": "", "image": "c.png"}\n{"image":"d","x":{"alt":1}«, "alt": ALT»}'
)


def test_jsonl_values_are_spliced(tmp_path):
    """Behind « stands what is written, and behind | what it takes the place of."""
    path = tmp_path / "a.jsonl"
    path.write_text(re.sub(r"«[^|»]*\|?([^»]*)»", r"\1", JSONL))
    apply_all(path, ALT)
    wanted = re.sub(r"«([^|»]*)[^»]*»", r"\1", JSONL)
    assert path.read_text() == wanted.replace("ALT", json.dumps(ALT))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "a,b\n1,2\n", "no column for the picture in 'a,b'"),
        ("a.csv", "image,b\n1,2\n", "no column for the alt in 'image,b'"),
        ("a.csv", "image,alt\n1,2,3\n", "row 2 has 3 cells, the header 2"),
        ("a.jsonl", '{"image": "a"\n', "line 1: malformed JSON"),
        ("a.jsonl", "\n[1]\n", "line 2: no JSON object"),
        ("a.jsonl", '{"image": "a"} x\n', "line 1: more behind the object"),
        ("a.jsonl", '{"image": "a", "alt": 3}\n', "line 1: alt is 3"),
        ("a.jsonl", '{"image": "a", "image": "b"}\n', "line 1: the key 'image' twice"),
        ("a.jsonl", "[" * 100_000, "line 1: no JSON object"),
        ("a.jsonl", '{"a":' * 100_000, "line 1: malformed JSON (nested too deeply)"),
    ],
)
def test_tables_that_cannot_be_read_are_one_line(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    findings, _ = check_documents([name])
    assert [finding.rule for finding in findings] == ["unreadable"]
    assert said in findings[0].message


def test_an_empty_file_has_no_pictures(tmp_path):
    for name in ("a.csv", "a.jsonl", "a.md"):
        (tmp_path / name).write_bytes(b"")
        assert check_documents([name])[0] == []


def test_decorative_in_markdown_is_what_stands_there_already(tmp_path):
    (tmp_path / "a.md").write_text("![](a.png) ![](b.png)\n")
    rows = rows_of(read_document(Path("a.md")))
    rows[0]["status"] = "decorative"
    assert plan_change("a.md", rows[:1]) is None
    assert plan_change("a.md", rows).new.data == b'![](a.png) ![A cat &amp; a "dog" \\[1\\] &lt;x&gt;.](b.png)\n'


def test_decided_rows_are_no_findings(tmp_path, capsys):
    (tmp_path / "a.md").write_text("![](a.png) ![](b.png)\n")
    rows = rows_of(read_document(Path("a.md")))
    rows[0]["status"], rows[1]["status"] = "decorative", "pending"
    (tmp_path / "alts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit):
        cli.main(["alt", "check", "a.md", "--decided", "alts.jsonl"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["a.md:1:12"]
    (tmp_path / "a.md").write_text("# Title\n![](a.png)\n")  # changed since, and there is one place that fits
    cli.main(["alt", "check", "a.md", "--decided", "alts.jsonl"])
    assert capsys.readouterr().out == ""
