"""`hfcap alt review`: decisions in the terminal and through a spreadsheet, and what of them reaches photos."""

import csv
import io
import json
import os
import sys
from pathlib import Path

import pytest

from hfcap import cli
from hfcap.applications.photo_metadata import sidecar_text
from hfcap.applications.review import review
from hfcap.applications.rows import read_rows
from hfcap.atomic_files import only_writer
from hfcap.content_hashes import file_sha256
from refusals import refused, run_command


def row(number, suggestion="A dog runs.", role="informative", **more):
    place = {"id": f"a.md:{number}:1", "file": "a.md", "line": number, "column": 1, "kind": "markdown", "src": "a.png"}
    context = {"before": "=cmd|' /C calc'!A0", "after": "", "caption": "", "link": "/map"}
    return (
        place
        | {"role": role, "suggestion": suggestion, "context": context, "status": "pending", "notes": ["x"]}
        | more
    )


@pytest.fixture
def alts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        row(1),
        row(2, None, "link"),
        row(3, None, "maybe_decorative"),
        row(4, "A cat."),
        row(5, "done", status="skipped"),
    ]
    (tmp_path / "alts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "alts.jsonl"


def decisions(path="alts.jsonl"):
    return [(row["status"], row["alt"]) for row in read_rows(path)]


def answer(*lines, **options):
    """Review with these answers, and return what was shown; the end of the answers is the end of the input."""
    waiting, said = list(lines), []

    def ask(_prompt):
        if not waiting:
            raise EOFError
        return waiting.pop(0)

    review("alts.jsonl", ask, said.append, **options)
    return "\n".join(said)


def test_skipped_rows_are_asked_about_again(alts, monkeypatch, capsys):
    said = answer("s", "q")
    assert "2 skipped; `hfcap alt review alts.jsonl --skipped` asks about them again" in said
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n"))
    cli.main(["alt", "review", "alts.jsonl", "--skipped"])
    assert "2 of 5 rows skipped" in capsys.readouterr().out
    assert [status for status, _ in decisions()] == ["accepted", "pending", "pending", "pending", "skipped"]
    with pytest.raises(SystemExit) as exit_:
        cli.main(["alt", "review", "alts.jsonl", "--skipped", "--csv_export", "a.csv"])
    assert exit_.value.code == 2 and "exclude each other; pass one of them" in capsys.readouterr().err


def test_each_decision_is_in_the_file_at_once(alts):
    seen = []

    def ask(prompt):
        seen.append(decisions())
        return {0: "a", 1: "e", 2: "Map of the town.", 3: "a", 4: "s", 5: ""}[len(seen) - 1]

    review(alts, ask, lambda _text: None)
    accepted, edited = ("accepted", "A dog runs."), ("edited", "Map of the town.")
    assert seen[1][0] == accepted
    assert seen[3][:2] == [accepted, edited]
    assert decisions() == [accepted, edited, ("decorative", None), ("skipped", None), ("skipped", None)]
    assert all(row["by"] and row["at"].endswith("+00:00") for row in read_rows(alts)[:4])


def test_undo_goes_back_and_quit_and_the_end_of_input_stop(alts):
    shown = answer("u", "d", "a", "x", "u", "e", "", "q")
    assert "nothing to undo" in shown
    assert "there is no text to accept" in shown
    assert "'x' is none of: a accept" in shown
    assert decisions() == [("pending", None)] * 4 + [("skipped", None)]
    assert "0 decided now, 4 pending" in shown
    assert "1 decided now, 3 pending" in answer("a")
    said = answer("s", "d", "a", "u", "a", "u", "q")  # the last one, too
    assert said.count("that was the last one; u undoes it") == 2 and "1 decided now, 1 pending" in said
    assert [status for status, _ in decisions()] == ["accepted", "skipped", "decorative", "pending", "skipped"]


def test_context_and_doubt_are_shown_and_a_bad_edit_is_named(alts):
    shown = answer("e", "a photo of a dog", "q")
    assert "1/4 a.md:1:1 (informative)" in shown
    assert "  link: /map" in shown
    assert "  proposal, by a program, may be wrong: A dog runs." in shown
    assert "  redundant: begins with 'a photo of'" in shown
    assert decisions()[0] == ("edited", "a photo of a dog")


def edit_csv(change):
    with open("alts.csv", encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    change(lines)
    with open("alts.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, lines[0], delimiter=";")
        writer.writeheader()
        writer.writerows(lines)
    run_command("alt", "review", "alts.jsonl", "--csv_import", "alts.csv")


def test_decisions_come_back_from_a_spreadsheet(alts, capsys):
    cli.main(["alt", "review", alts, "--csv_export", "alts.csv"])

    def change(lines):
        assert lines[0]["before"] == "'=cmd|' /C calc'!A0"  # no formula
        assert lines[4]["decision"] == "skip"
        lines[0]["decision"] = "accept"
        lines[1] |= {"decision": "edit", "alt": "'=1 apple."}
        lines[2]["decision"] = "Decorative "
        lines[3] |= {"decision": "accept", "alt": "A grey cat."}

    edit_csv(change)
    wanted = [("accepted", "A dog runs."), ("edited", "=1 apple."), ("decorative", None), ("edited", "A grey cat.")]
    assert decisions() == [*wanted, ("skipped", None)]
    assert capsys.readouterr().out.splitlines()[-1] == "alts.jsonl: 4 rows changed"


@pytest.mark.parametrize(
    ("cells", "fields"),
    [
        (
            {"decision": "yes"},
            {"option": ": decision", "got": "yes", "wanted": "one of accept, edit, decorative, skip, or nothing"},
        ),
        ({"decision": "skip", "id": "b"}, {"option": ": id", "got": "b"}),
        ({"decision": "edit"}, {"option": "", "says": "there is no text to accept"}),
    ],
)
def test_a_wrong_cell_changes_nothing(alts, cells, fields):
    cli.main(["alt", "review", alts, "--csv_export", "alts.csv"])
    before = decisions()
    with refused(**fields | {"option": f"alts.csv, line 2{fields['option']}"}):
        edit_csv(lambda lines: lines[0].update(cells))
    assert decisions() == before


def test_a_spreadsheet_in_another_encoding_is_refused(alts):
    with open("alts.csv", "wb") as file:
        file.write("id,decision,alt\r\na.md:1:1,edit,Café\r\n".encode("cp1252"))
    before = decisions()
    with refused(option="alts.csv", fix='save the spreadsheet as "CSV UTF-8", and import that', says="line 2"):
        run_command("alt", "review", alts, "--csv_import", "alts.csv")
    assert decisions() == before


def test_a_spreadsheet_is_not_both_written_and_read(alts):
    with refused(fix="pass one of them", says="--csv_import"):
        run_command("alt", "review", alts, "--csv_export", "a.csv", "--csv_import", "b.csv")


def test_a_spreadsheet_without_a_column_is_refused(alts):
    with open("alts.csv", "w") as file:
        file.write("id,alt\n")
    with refused(option="alts.csv", says="no column decision"):
        run_command("alt", "review", alts, "--csv_import", "alts.csv")


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """A photo with a decided row."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-a.jpg").write_bytes(b"pixels")
    fields = {"id": "-a.jpg", "file": "-a.jpg", "line": 0, "column": 0, "kind": "photo", "src": "-a.jpg"}
    fields |= {"image": "-a.jpg", "image_sha256": file_sha256("-a.jpg"), "status": "edited", "alt": "A <dog> & “cat”."}
    (tmp_path / "alts.jsonl").write_text(json.dumps(fields) + "\n")
    return tmp_path / "-a.jpg"


def apply(*options):
    try:
        cli.main(["alt", "apply", "alts.jsonl", *options])
    except SystemExit as exit_:
        return exit_.code
    return 0


def test_a_sidecar_is_written_beside_the_photo_and_never_over_another(photo, capsys):
    sidecar = photo.with_name("-a.jpg.xmp")
    assert apply() == 0
    assert "1 row about photos in no document; add --metadata sidecar" in capsys.readouterr().err
    assert apply("--metadata", "sidecar", "--dry_run") == 0
    assert not sidecar.exists()
    assert apply("--metadata", "sidecar") == 0
    assert '<rdf:li xml:lang="x-default">A &lt;dog&gt; &amp; “cat”.</rdf:li>' in sidecar.read_text("utf-8")
    assert photo.read_bytes() == b"pixels"
    assert apply("--metadata", "sidecar") == 0  # it is there
    sidecar.write_text(sidecar_text("Mine."))
    assert apply("--metadata", "sidecar") == 1
    assert "-a.jpg.xmp is there already; it is kept" in capsys.readouterr().err
    assert sidecar.read_text() == sidecar_text("Mine.")


def more_rows(photo, **changes):
    """Add a row like the one of `photo`, of another document."""
    rows = photo.with_name("alts.jsonl")
    fields = json.loads(rows.read_text().splitlines()[0])
    with open(rows, "a") as file:
        file.write(json.dumps(fields | changes) + "\n")


def test_a_photo_with_two_alts_gets_none_of_them_and_counts_once(photo, capsys):
    more_rows(photo, id="b")
    more_rows(photo, id="c", alt="A cat.")
    assert apply("--metadata", "sidecar") == 1
    shown = capsys.readouterr().err
    assert "refused -a.jpg: its metadata holds one alt, and 2 are decided: 'A <dog> & “cat”.', 'A cat.'" in shown
    assert "1 file refused" in shown and not photo.with_name("-a.jpg.xmp").exists()


def test_a_file_that_is_no_picture_gets_no_sidecar(photo, capsys):
    secret = photo.with_name("passwd")
    secret.write_text("root")
    more_rows(photo, id="b", image="passwd", image_sha256=file_sha256(secret))
    assert apply("--metadata", "sidecar") == 1
    assert "refused passwd: it is no picture that can be read" in capsys.readouterr().err
    assert not photo.with_name("passwd.xmp").exists() and photo.with_name("-a.jpg.xmp").exists()


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A page that names a photo two folders up; the row of its picture is decided, and its alt written."""
    (tmp_path / "site" / "pages").mkdir(parents=True)
    (tmp_path / "x.jpg").write_bytes(b"pixels")
    (tmp_path / "site" / "pages" / "a.md").write_text("![A dog.](../../x.jpg)\n")
    monkeypatch.chdir(tmp_path / "site")
    image = {"image": "../x.jpg", "image_sha256": file_sha256("../x.jpg"), "status": "edited", "alt": "A dog."}
    fields = {
        "id": "a",
        "file": "pages/a.md",
        "line": 1,
        "column": 1,
        "kind": "markdown",
        "src": "../../x.jpg",
        "part": "",
    }
    Path("alts.jsonl").write_text(json.dumps(fields | image) + "\n")
    return tmp_path


def test_a_photo_outside_the_folder_of_its_document_gets_no_metadata_unasked(site, capsys):
    for more in ([], ["--dry_run"]):
        assert apply("--metadata", "sidecar", *more) == 1
        said = capsys.readouterr()
        assert "refused ../x.jpg: it is outside the folder of pages/a.md" in said.err and "--root FOLDER" in said.err
        assert "x.jpg.xmp" not in said.out
    assert not (site / "x.jpg.xmp").exists()
    assert apply("--metadata", "sidecar", "--root", "..") == 0
    assert (site / "x.jpg.xmp").exists()


def test_a_link_to_a_photo_elsewhere_counts_by_its_target(site, capsys):
    (site / "site" / "pages" / "here.jpg").symlink_to(site / "x.jpg")
    rows = Path("alts.jsonl")
    rows.write_text(rows.read_text().replace('"../x.jpg"', '"pages/here.jpg"'))
    assert apply("--metadata", "sidecar") == 1
    assert "refused pages/here.jpg: it is outside the folder" in capsys.readouterr().err
    assert not list(site.rglob("*.xmp"))


def test_a_photo_that_was_named_itself_gets_its_metadata_wherever_it_is(site):
    rows = Path("alts.jsonl")
    fields = json.loads(rows.read_text())
    rows.write_text(json.dumps(fields | {"kind": "photo", "file": "../x.jpg", "src": "../x.jpg"}) + "\n")
    assert apply("--metadata", "sidecar") == 0
    assert (site / "x.jpg.xmp").exists()


def test_a_root_that_is_no_folder_is_one_line(photo):
    with refused(option="--root", got="nowhere", says="no such folder"):
        run_command("alt", "apply", "alts.jsonl", "--metadata", "sidecar", "--root", "nowhere")


def test_another_picture_under_the_name_is_refused(photo, capsys):
    photo.write_bytes(b"other pixels")
    assert apply("--metadata", "sidecar") == 1
    assert "-a.jpg is another picture now" in capsys.readouterr().err


def test_embedding_needs_exiftool_and_asks_it(photo, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with refused(option="--metadata", got="embed", says="ExifTool", fix="install it, or use sidecar"):
        run_command("alt", "apply", "alts.jsonl", "--metadata", "embed")
    with refused(option="--metadata", got="exif", wanted="sidecar or embed, or both separated by a comma"):
        run_command("alt", "apply", "alts.jsonl", "--metadata", "exif")
    tool = tmp_path / "bin" / "exiftool"
    tool.parent.mkdir()
    tool.write_text(
        f"#!{sys.executable}\nimport json, sys\nfile = open({str(tmp_path / 'log')!r}, 'a')\n"
        "file.write(json.dumps(sys.argv[1:]) + '\\n')\n"
        "if '-overwrite_original' in sys.argv: open(sys.argv[-1], 'a').write('alt')\n"
    )
    tool.chmod(0o755)
    assert apply("--metadata", "embed") == 0
    asked = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    name = os.path.abspath("-a.jpg")
    assert asked == [
        ["-charset", "utf8", "-s3", "-XMP-iptcCore:AltTextAccessibility", name],
        ["-charset", "utf8", "-overwrite_original", "-P", "-XMP-iptcCore:AltTextAccessibility=A <dog> & “cat”.", name],
    ]
    assert read_rows("alts.jsonl")[0]["image_sha256"] == file_sha256("-a.jpg")  # the picture with its alt in it
    tool.write_text("#!/bin/sh\necho Mine\n")
    assert apply("--metadata", "embed") == 1
    assert "has an alt already, 'Mine'; it is kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["review"], ["review", "--csv_import", "alts.csv"], ["apply"]], ids=["review", "import", "apply"]
)
def test_no_command_undoes_what_another_one_is_writing(alts, command, capsys):
    cli.main(["alt", "review", alts, "--csv_export", "alts.csv"])
    with only_writer(alts):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["alt", command[0], alts, *command[1:]])
        assert "alts.jsonl: another command is working on this file" in capsys.readouterr().err
        cli.main(["alt", "apply", alts, "--dry_run"])  # which writes nothing
    assert stopped.value.code == 2
