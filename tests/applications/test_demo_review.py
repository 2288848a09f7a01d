"""The tab Review of `hfcap demo`: what is written, what two windows do to each other, and what they show."""

import os

import pytest
from PIL import Image

from hfcap.applications import demo_review
from hfcap.applications.demo_review import ReviewFile, counts_text, picture_of
from hfcap.applications.review import decided
from hfcap.applications.rows import empty_row, read_rows, write_rows
from hfcap.atomic_files import only_writer
from hfcap.content_hashes import file_sha256
from hfcap.errors import ConfigError


def row(number, suggestion="A dog runs.", role="informative", **more):
    place = {"id": f"a.md:{number}:1", "file": "a.md", "line": number, "column": 1, "kind": "markdown", "src": "a.png"}
    return empty_row() | place | {"role": role, "suggestion": suggestion} | more


@pytest.fixture
def review(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(
        "alts.jsonl",
        [row(1), row(2, None, "link"), row(3, None, "maybe_decorative"), row(4, "done", status="skipped"), row(5)],
    )
    return ReviewFile("alts.jsonl")


def decisions():
    return [(row["status"], row["alt"]) for row in read_rows("alts.jsonl")]


def test_each_decision_is_in_the_file_at_once_and_the_next_row_is_shown(review):
    window = review.open()
    assert window.row["id"] == "a.md:1:1"
    for decision, text, expected, said in (
        ("accept", "A dog runs. ", ("accepted", "A dog runs."), "Accepted: “A dog runs.”."),
        ("accept", "To the\n map", ("edited", "To the map"), "Edited: “To the map”."),
        ("accept", "", ("decorative", None), "Decorative: a.md:3:1."),
        ("skip", "x", ("skipped", None), "Skipped: a.md:5:1."),
    ):
        place = window.place
        window, message = review.decide(window, decision, text)
        assert (decisions()[place], message) == (expected, said)
    assert window.row is None and len(window.done) == 4
    assert counts_text(window.statuses) == "1 accepted, 1 edited, 1 decorative, 2 skipped"
    assert review.decide(window, "accept", "x") == (window, "There is nothing left to decide.")
    by = read_rows("alts.jsonl")[0]["by"]
    assert by == decided(row(1), "accepted")["by"]  # as `hfcap alt review` writes it


def test_undo_goes_back_row_by_row_to_the_file_as_it_was(review, tmp_path):
    before = (tmp_path / "alts.jsonl").read_bytes()
    window = review.open()
    for decision in ("accept", "decorative", "skip", "decorative"):
        window, _ = review.decide(window, decision, "A dog.")
    for expected in ("a.md:5:1", "a.md:3:1", "a.md:2:1", "a.md:1:1"):
        window, message = review.undo(window)
        assert window.row["id"] == expected and message.startswith(f"Undone: {expected}")
    assert (tmp_path / "alts.jsonl").read_bytes() == before
    assert review.undo(window) == (window, "There is nothing to undo.")


@pytest.mark.parametrize("text", ["", "  ", "a\x00b", "a\ud800"])
def test_a_text_that_is_no_alt_is_refused_and_the_file_stays_readable(review, tmp_path, text):
    before = (tmp_path / "alts.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"no text to accept|no document can store"):
        review.decide(review.open(), "accept", text)
    assert (tmp_path / "alts.jsonl").read_bytes() == before


def test_what_a_rule_says_about_an_alt_is_said(review):
    _, message = review.decide(review.open(), "accept", "Photo of a dog")
    assert message.startswith("Edited: “Photo of a dog”. But: begins with 'Photo of'")
    assert decisions()[0] == ("edited", "Photo of a dog")


def test_of_two_windows_the_first_decision_stays(review):
    first, second = review.open(), review.open()
    first, _ = review.decide(first, "accept", "A cat.")
    second, message = review.decide(second, "accept", "A cow.")
    assert decisions()[0] == ("edited", "A cat.")
    assert "decided elsewhere meanwhile: edited as “A cat.”" in message and "not saved: “A cow.”" in message
    assert second.row["id"] == "a.md:2:1" and not second.done
    second, _ = review.decide(second, "decorative")
    assert decisions()[:2] == [("edited", "A cat."), ("decorative", None)]
    first, _ = review.undo(first)  # its own decision, not the last one of the file
    assert decisions()[:2] == [("pending", None), ("decorative", None)]


def test_undo_leaves_what_somebody_else_has_changed_since(review):
    window, _ = review.decide(review.open(), "accept", "A cat.")
    rows = read_rows("alts.jsonl")
    write_rows("alts.jsonl", [decided(rows[0], "decorative"), *rows[1:]])
    window, message = review.undo(window)
    assert message.startswith("a.md:1:1 has changed since you decided on it")
    assert decisions()[0] == ("decorative", None) and not window.done


def test_a_file_that_was_written_meanwhile_keeps_what_was_written(review):
    window = review.open()
    rows = read_rows("alts.jsonl")
    write_rows("alts.jsonl", [row(0), rows[0] | {"suggestion": "A wolf."}, *rows[2:]])  # a new row, one gone
    window, message = review.decide(window, "accept", "A dog runs.")
    assert message == "a.md:1:1 has changed meanwhile. Nothing was written; look at it again."
    assert window.row["suggestion"] == "A wolf." and window.place == 1
    gone, _ = review.decide(window, "accept", "A wolf.")
    assert decisions()[:2] == [("pending", None), ("accepted", "A wolf.")]
    write_rows("alts.jsonl", read_rows("alts.jsonl")[:2])
    after, message = review.decide(gone, "accept", "x")
    assert message == "a.md:3:1 is no longer in the file. Nothing was written." and after.row["id"] == "a.md:0:1"


def test_a_file_that_another_command_holds_or_broke_is_an_error_and_stays(review, tmp_path):
    window = review.open()
    with only_writer("alts.jsonl"), pytest.raises(ConfigError, match="another command is working on this file"):
        review.decide(window, "accept", "x")
    (tmp_path / "alts.jsonl").write_text("{")
    with pytest.raises(ConfigError, match=r"alts\.jsonl, line 1"):
        review.decide(window, "accept", "x")
    assert (tmp_path / "alts.jsonl").read_text() == "{"
    os.remove("alts.jsonl")
    with pytest.raises(OSError):
        review.decide(window, "accept", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == []


def test_a_write_that_fails_changes_neither_file_nor_window(review, tmp_path, monkeypatch):
    before = (tmp_path / "alts.jsonl").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device", "alts.jsonl")

    monkeypatch.setattr(demo_review, "write_rows", full)
    pytest.importorskip("gradio", reason='needs pip install "hfcap[demo]"')
    from hfcap.applications.demo_review_tab import answered

    window = review.open()
    shown = answered(lambda window, text: review.decide(window, "accept", text), window, "A cat.")
    assert shown[0] is window and shown[1] == "<p>Not saved: alts.jsonl: No space left on device</p>"
    assert (tmp_path / "alts.jsonl").read_bytes() == before


def test_pictures_are_shown_or_it_is_said_why_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_review, "PREVIEW", 50)
    Image.new("RGB", (200, 100)).save("a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    picture, note = picture_of(row(1, image="a.png", image_sha256=file_sha256("a.png")))
    assert picture.size == (50, 25) and note == ""
    assert picture_of(row(1, image="a.png", image_sha256="0" * 64))[1].startswith("This picture has changed since")
    assert picture_of(row(1)) == (None, "This row has no picture file; decide by its document.")
    for name, why in (
        ("b.png", "no picture, or a format that cannot be read"),
        ("none.png", "No such file or directory"),
    ):
        picture, note = picture_of(row(1, image=name))
        assert picture is None and note.startswith(f"The picture cannot be shown: {name}: {why}")


def test_what_the_tab_shows_is_escaped_and_the_proposal_is_a_heading(review):
    pytest.importorskip("gradio", reason='needs pip install "hfcap[demo]"')
    from hfcap.applications.demo_review_tab import answered, proposal_html, row_html

    rows = [
        row(1, "<b>", context={"before": "<script>", "link": ""}, notes=["n\x1b"]),
        row(2, None, "maybe_decorative"),
    ]
    write_rows("alts.jsonl", rows)
    window = review.open()
    assert row_html(window, "") == (
        "<h2>Review: a.md:1:1</h2><dl><dt>Role</dt><dd>informative</dd><dt>Text before</dt><dd>&lt;script&gt;</dd>"
        "<dt>Note</dt><dd>n\\x1b</dd></dl>"
    )
    assert proposal_html(window.row) == ('<p>Proposal, by a program, may be wrong:</p><h3 dir="auto">&lt;b&gt;</h3>')
    assert proposal_html(rows[1]) == "<p>Proposal: decorative.</p>"
    assert proposal_html(row(1, None, "link")) == "<p>No proposal; write a text.</p>"
    shown = answered(lambda *_: review.decide(window, "accept", ""), window, "")
    assert shown[:2] == [
        window,
        "<p>Not saved: there is no text to accept; write one, or mark the picture as decorative</p>",
    ]
    _, status, about, *_ = answered(lambda *_: review.decide(window, "skip"), window, "typed")
    assert status == "<p>Skipped: a.md:1:1. Row 2 of 2; 1 pending.</p>" and "a.md:2:1" in about
    assert decisions() == [("skipped", None), ("pending", None)]
