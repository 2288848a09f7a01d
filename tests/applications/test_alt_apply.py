"""`hfcap alt apply`: what is written, what is refused, and that nothing outside the alt changes."""

import hashlib
import json

import pytest

from hfcap import cli
from refusals import refused, run_command

PAGE = (
    b'<p>A day out.</p>\r\n<img src="dog.jpg">\r\n'
    b'<img src="old.jpg" alt="Old words.">\r\n<img src="line.png" alt="">\r\n'
)


def row(column=1, line=2, alt="A brown dog runs.", **more):
    return {"id": f"{line}:{column}", "file": "page.html", "line": line, "column": column, "status": "edited"} | (
        {"alt": alt} | more
    )


@pytest.fixture
def apply(tmp_path, monkeypatch, capsys):
    """Apply rows to a page, and return its bytes, the output and the exit code."""
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.html"
    page.write_bytes(PAGE)

    def run(*rows, options=()):
        (tmp_path / "alts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        try:
            cli.main(["alt", "apply", "alts.jsonl", *options])
            code = 0
        except SystemExit as exit_:
            code = exit_.code
        return page.read_bytes(), capsys.readouterr(), code

    return run


def test_only_the_alt_is_added_and_the_diff_is_printed(apply):
    data, shown, code = apply(row())
    assert data == PAGE.replace(b'"dog.jpg"', b'"dog.jpg" alt="A brown dog runs."')
    assert code == 0
    assert '-<img src="dog.jpg">\n+<img src="dog.jpg" alt="A brown dog runs.">\n' in shown.out
    assert "1 alt written into 1 file" in shown.err
    assert apply(row())[0] == data  # again: it is there


def test_a_dry_run_prints_the_same_diff_and_writes_nothing(apply):
    data, shown, _ = apply(row(), options=["--dry_run"])
    assert data == PAGE
    assert '+<img src="dog.jpg" alt="A brown dog runs.">\n' in shown.out


def test_rows_that_nobody_decided_on_are_not_written(apply):
    data, shown, _ = apply(row(status="pending"), row(line=3, status="skipped"))
    assert data == PAGE
    assert "2 of 2 rows not decided" in shown.err


def test_decorative_is_an_empty_alt(apply):
    assert apply(row(status="decorative", alt=None))[0] == PAGE.replace(b'"dog.jpg"', b'"dog.jpg" alt=""')


@pytest.mark.parametrize("line", [3, 4])
def test_an_alt_that_is_there_stays_even_an_empty_one_and_so_does_the_rest_of_the_file(apply, line):
    data, shown, code = apply(row(), row(line=line, alt="New words."))
    assert (data, code) == (PAGE, 1)
    assert f"page.html:{line}:1 has an alt already" in shown.err


def test_replace_needs_what_the_file_holds(apply):
    wrong = row(line=3, alt="New words.", before="Other words.")
    assert apply(wrong, options=["--replace"])[0] == PAGE
    right = row(line=3, alt="New words.", before="Old words.")
    assert apply(right, options=["--replace"])[0] == PAGE.replace(b"Old words", b"New words")


def test_a_changed_file_is_written_where_one_place_fits_and_refused_where_two_do(apply, tmp_path):
    proposal = row(src="dog.jpg", kind="img", file_sha256=hashlib.sha256(PAGE).hexdigest())
    changed = b"<h1>New</h1>\n" + PAGE
    (tmp_path / "page.html").write_bytes(changed)
    assert apply(proposal)[0] == changed.replace(b'"dog.jpg"', b'"dog.jpg" alt="A brown dog runs."')
    (tmp_path / "page.html").write_bytes(changed + b'<img src="dog.jpg">')
    data, shown, code = apply(proposal)
    assert (data, code) == (changed + b'<img src="dog.jpg">', 1)
    assert "changed since the proposal" in shown.err


def test_what_is_left_of_two_uses_of_a_picture_may_be_the_one_that_nobody_decided_on(apply, tmp_path):
    page = b'<p>Then.</p><img src="a"><p>Now.</p><img src="a">'
    places = [{"line": 1, "column": column, "src": "a", "kind": "img"} for column in (13, 37)]
    context = {"before": "Then. Now.", "after": ""}
    rows = [
        row(**places[0], status="pending", alt=None, file_sha256=hashlib.sha256(page).hexdigest()),
        row(**places[1], file_sha256=hashlib.sha256(page).hexdigest(), context=context),
    ]
    (tmp_path / "page.html").write_bytes(page[:25])
    data, shown, code = apply(*rows)
    assert (data, code) == (page[:25], 1) and "fits 0 places" in shown.err


def test_a_document_that_its_author_goes_on_with_takes_new_decisions(apply, tmp_path):
    """Decisions of before are done, or about what is gone; they refused the whole file for good."""
    page = tmp_path / "page.html"
    page.write_bytes(b'<p>Then.</p>\n<img src="a">\n<p>Now.</p>\n<img src="a">\n<img src="b">\n<img src="c">\n')
    old = {"kind": "img", "file_sha256": hashlib.sha256(page.read_bytes()).hexdigest()}
    context = [{"before": before, "after": after} for before, after in (("Then.", "Now."), ("Then. Now.", ""))]
    places = zip((2, 4, 5, 6), "aabc", [*context, {}, {}], strict=True)
    rows = [row(line=line, src=src, context=around, **old) for line, src, around in places]
    apply(*rows)
    rows = [json.loads(line) for line in (tmp_path / "alts.jsonl").read_text().splitlines()]
    text = page.read_text().replace("Now.", "Now and then.").replace('<img src="b" alt="A brown dog runs.">\n', "")
    page.write_text(text.replace('src="c" alt="A brown dog runs."', 'src="c" alt="The author\'s."') + '<img src="d">')
    new = {"kind": "img", "src": "d", "file_sha256": hashlib.sha256(page.read_bytes()).hexdigest()}
    before = page.read_bytes()
    data, shown, code = apply(*rows, row(line=6, alt="New.", id="new", **new))
    assert (data, code) == (before.replace(b'src="d"', b'src="d" alt="New."'), 0)
    assert "1 alt written into 1 file" in shown.err
    assert "2 decisions about pictures that are gone or have another alt now" in shown.err


def test_a_decorative_picture_of_markdown_is_done_in_a_text_that_goes_on(apply, tmp_path):
    (tmp_path / "a.md").write_text("![](a.png)\n\n![](a.png)\n\n![](b.png)\n")
    fields = {"file": "a.md", "kind": "markdown", "file_sha256": "of an earlier text"}
    rows = [row(line=line, src="a.png", status="decorative", alt=None, **fields) for line in (1, 3)]
    _, shown, code = apply(*rows, row(line=5, src="b.png", **fields))
    assert code == 0 and "1 alt written into 1 file" in shown.err and "decision" not in shown.err
    assert (tmp_path / "a.md").read_text().endswith("![A brown dog runs.](b.png)\n")


def test_rows_that_are_decided_on_later_follow_the_document(apply, tmp_path):
    page = b'<img src="a"><img src="a"><img src="a">'
    (tmp_path / "page.html").write_bytes(page)
    sha256 = hashlib.sha256(page).hexdigest()
    first = row(line=1, column=1, alt="One.", src="a", file_sha256=sha256)
    others = [row(line=1, column=n, alt=None, status="pending", src="a", file_sha256=sha256) for n in (14, 27)]
    apply(first, *others)
    rows = [json.loads(line) for line in (tmp_path / "alts.jsonl").read_text().splitlines()]
    rows[2] |= {"status": "edited", "alt": "Three."}
    assert apply(*rows)[0] == b'<img src="a" alt="One."><img src="a"><img src="a" alt="Three.">'


def test_permissions_stay_and_a_read_only_file_is_refused(apply, tmp_path):
    page = tmp_path / "page.html"
    page.chmod(0o640)
    apply(row())
    assert page.stat().st_mode & 0o777 == 0o640
    page.write_bytes(PAGE)
    page.chmod(0o444)
    data, shown, code = apply(row())
    assert (data, code) == (PAGE, 1)
    assert "refused page.html: the file is read-only; change its permissions\n" in shown.err


def test_a_link_out_of_the_folder_is_refused_and_one_inside_stays_a_link(apply, tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "out.html").symlink_to(tmp_path / "page.html")
    (tmp_path / "in.html").symlink_to(tmp_path / "page.html")
    data, shown, code = apply(row(file="site/out.html"))
    assert (data, code) == (PAGE, 1)
    assert "site/out.html is a link out of its folder" in shown.err
    assert apply(row(file="in.html"))[0] != PAGE
    assert (tmp_path / "in.html").is_symlink()


@pytest.mark.parametrize(
    ("broken", "says", "wanted"),
    [
        ({"status": "done"}, "'done'", "one of pending, accepted, edited, decorative, skipped"),
        ({"line": "2"}, ("'2'", "a JSON string"), "a whole number"),
        ({"line": True}, ("True", "a JSON boolean"), "a whole number"),
        ({"context": "text"}, ("'text'", "a JSON string"), "an object"),
        ({"notes": None}, "a JSON null", "a list"),
        ({"suggestion": 1}, ("1", "a JSON number"), "a string or null"),
        ({"alt": " "}, ("empty", "status is edited"), None),
        ({"alt": "\ud800"}, "'\\ud800'", None),
    ],
)
def test_a_row_that_is_wrong_is_one_line(apply, broken, says, wanted):
    data, shown, code = apply(row(**broken))
    assert (data, code, shown.err.count("\n")) == (PAGE, 2, 1)
    with refused(option=f"alts.jsonl, line 1: {next(iter(broken))}", wanted=wanted, says=says):
        run_command("alt", "apply", "alts.jsonl")


def test_an_edit_that_reads_back_otherwise_is_not_written(apply, monkeypatch):
    monkeypatch.setattr("hfcap.applications.pictures.escaped", lambda alt, *_: alt)
    data, shown, code = apply(row(alt='A "dog".'))
    assert (data, code) == (PAGE, 1)
    assert "the alt would not be read back as it was written" in shown.err


def test_a_file_that_changes_meanwhile_keeps_the_change(apply, monkeypatch, tmp_path):
    page = tmp_path / "page.html"
    monkeypatch.setattr("shutil.copymode", lambda *_: page.write_bytes(PAGE + b"more"))
    data, shown, code = apply(row())
    assert (data, code) == (PAGE + b"more", 1)
    assert "it has changed while hfcap was at work" in shown.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alts.jsonl", "page.html"]


def test_a_description_of_another_picture_is_refused(apply, tmp_path):
    (tmp_path / "dog.jpg").write_bytes(b"a cat")
    sha256 = hashlib.sha256(b"a dog").hexdigest()
    data, shown, code = apply(row(image="dog.jpg", image_sha256=sha256))
    assert (data, code) == (PAGE, 1)
    assert "dog.jpg is another picture now" in shown.err
    (tmp_path / "dog.jpg").write_bytes(b"a dog")
    assert apply(row(image="dog.jpg", image_sha256=sha256))[0] != PAGE


def test_two_rows_for_one_picture_are_refused(apply):
    data, shown, code = apply(row(), row(alt="Another.") | {"id": "other"})
    assert (data, code) == (PAGE, 1)
    assert "two rows are for one picture" in shown.err


def test_a_refused_file_does_not_keep_others_from_being_written(apply, tmp_path):
    (tmp_path / "b.html").write_bytes(PAGE)
    apply(row(line=3), row(file="b.html") | {"id": "b"})
    assert b"A brown dog runs." in (tmp_path / "b.html").read_bytes()
