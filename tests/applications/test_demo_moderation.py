"""The tab Moderation of `hfcap demo`: the queue of `hfcap moderate review`, blurred until asked for."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
from PIL import Image

from hfcap import cli
from hfcap.applications.decisions import read_decisions
from hfcap.atomic_files import only_writer
from hfcap.content_hashes import file_sha256
from hfcap.errors import ConfigError
from moderation_rows import row, write_policy, write_rows

pytest.importorskip("gradio", reason='needs pip install "hfcap[demo]"')
from hfcap.applications import demo_moderation_tab as tab
from hfcap.applications.demo import moderation_queue

SCORES = {"smoking": 0.9, "weapon": 0.1}


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Queue and policy of two pictures; `b` is no picture any more."""
    monkeypatch.chdir(tmp_path)
    policy, rows = write_policy(tmp_path), []
    for name, smoking in (("a", 0.9), ("b", 0.8)):
        Image.new("RGB", (200, 100), "red").save(f"{name}.png")
        decision = {"smoking": "review", "weapon": "none"}
        rows.append(
            row(policy, f"<{name}>", SCORES | {"smoking": smoking}, path=f"{name}.png", decision=decision)
            | {"image_sha256": file_sha256(f"{name}.png")}
        )
    write_rows(tmp_path / "tags.jsonl", rows)
    Path("b.png").write_bytes(b"no picture")
    args = Namespace(tags="tags.jsonl", policy=None, thresholds=None, decisions=None)
    with moderation_queue(args) as found:
        yield found


def kinds():
    return [json.loads(line)["kind"] for line in Path("decisions.jsonl").read_text().splitlines()]


def test_an_item_is_shown_blurred_with_its_evidence_first(opened):
    queue, policy = opened
    item, status, about, picture, reason, *buttons = tab.answered(queue, policy, lambda *_: "", None, "")
    assert status == "<p>0 decided now, 2 waiting.</p>" and reason == ""
    assert about.startswith("<h2>Moderation: &lt;a&gt;, may show: smoking</h2><p>Score 0.900; item 1 of 2.</p>")
    assert "words for it: smokes" in about and "safe" not in about
    assert picture.alt_text == "The picture to decide on, blurred: <a>" and all(b.interactive for b in buttons)
    blurred, _ = tab.picture_of(queue, item, blurred=True)
    assert max(blurred.size) <= 160
    shown, said = tab.original_shown(queue, item)
    assert shown.alt_text == "The picture to decide on, as it is: <a>" and "as it is" in said


def test_decisions_reach_the_log_and_a_reason_that_is_missing_is_said(opened):
    queue, policy = opened
    item = queue.next_item()
    same, status, *_ = tab.answered(
        queue, policy, lambda item, text: tab.decided(queue, item, "disagree", text), item, " "
    )
    assert same is item and "Not saved: give a reason" in status and not Path("decisions.jsonl").exists()
    item, status, about, *_ = tab.answered(
        queue, policy, lambda item, text: tab.decided(queue, item, "disagree", text), item, "a toy"
    )
    assert status == "<p>Disagree: &lt;a&gt;, smoking. 1 decided now, 1 waiting.</p>" and "&lt;b&gt;" in about
    assert "The picture cannot be shown: b.png is not the picture that was tagged" in about
    assert tab.original_shown(queue, item)[1].startswith("<p>The picture cannot be shown")
    again = queue.next_item()
    assert tab.answered(queue, policy, lambda *_: tab.undone(queue), again, "")[1].startswith("<p>Undone: &lt;a&gt;")
    assert kinds()[-2:] == ["decision", "undo"]


def test_a_decision_of_another_window_stays(opened):
    queue, policy = opened
    shown_in_both = queue.next_item()
    queue.decide(shown_in_both, "agree")
    item, status, *_ = tab.answered(
        queue, policy, lambda item, text: tab.decided(queue, item, "disagree", text), shown_in_both, "a pencil"
    )
    assert "decided elsewhere meanwhile" in status and item.row["image_id"] == "<b>" and kinds() == ["decision"]


def test_the_end_says_what_no_tag_means(opened):
    queue, policy = opened
    for _ in range(2):
        shown = tab.answered(queue, policy, lambda item, _text: tab.skipped(queue, item), queue.next_item(), "")
    assert shown[0] is None and "nothing left to decide" in shown[2] and "may still show one" in shown[2]
    assert not any(button.interactive for button in shown[5:])


def test_one_command_at_a_time_writes_the_decisions(opened):
    with pytest.raises(ConfigError, match="another command is working on this file"), only_writer("decisions.jsonl"):
        pass
    queue, policy = opened
    queue.decide(queue.next_item(), "agree")
    assert len(read_decisions("decisions.jsonl", policy.sha256).states) == 1


def test_files_of_the_queue_need_the_tags(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["demo", "--model", "m", "--decisions", "d.jsonl"])
    assert exit_.value.code == 2
    assert "--decisions: read only with --tags" in capsys.readouterr().err
