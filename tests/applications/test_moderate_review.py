"""The review queue and its log: order, undo, appeals, and a log that survives a process killed at any byte."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from hfcap import cli
from hfcap.applications.decisions import read_decisions
from hfcap.applications.review_queue import BLURRED_PIXELS, ReviewQueue, appeal, blurred_jpeg
from hfcap.applications.tag_review import review_tags
from hfcap.applications.tag_rows import read_tags
from hfcap.applications.threshold_file import Thresholds, tags_without_threshold
from hfcap.content_hashes import file_sha256
from moderation_rows import row, write_policy, write_rows
from refusals import refused

SCORES = {"a": 0.9, "b": 0.4, "c": 0.7, "d": 0.2}


@pytest.fixture
def policy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_policy(tmp_path)


@pytest.fixture
def tags(policy):
    rows = [row(policy, name, {"smoking": score, "weapon": 0.05}) for name, score in SCORES.items()]
    return read_tags(write_rows(policy_folder(policy) / "tags.jsonl", rows))


def policy_folder(policy):
    return Path(policy.path).parent


def log_of(tags):
    log = read_decisions("decisions.jsonl", tags.policy["sha256"])
    log.repair()
    return log


def queue_of(tags, **options):
    return ReviewQueue(tags, log_of(tags), ("smoking",), Thresholds("t", {"smoking": 0.3}), **options)


def lines():
    with open("decisions.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def answer(tags, policy, *answers, viewer=None):
    waiting, said = list(answers), []

    def ask(prompt):
        said.append(prompt)
        if not waiting:
            raise EOFError
        return waiting.pop(0)

    review_tags(queue_of(tags), policy, viewer, ask, said.append)
    return "\n".join(said)


def test_the_queue_goes_by_score_down_to_the_threshold(tags):
    queue, seen = queue_of(tags), []
    while (item := queue.next_item()) is not None:
        seen.append((item.row["image_id"], item.position, item.length, item.threshold))
        queue.decide(item, "agree")
    assert seen == [("a", 1, 3, 0.3), ("c", 2, 3, 0.3), ("b", 3, 3, 0.3)]
    assert queue_of(tags).next_item() is None


def test_without_thresholds_the_rows_say_what_goes_to_a_person(policy):
    decisions = {"a": "none", "b": "unsure", "c": "review"}
    rows = [
        row(policy, name, {"smoking": SCORES[name], "weapon": 0}, decision={"smoking": decision})
        for name, decision in decisions.items()
    ]
    tags = read_tags(write_rows(policy_folder(policy) / "tags.jsonl", rows))
    assert ReviewQueue(tags, log_of(tags), ("smoking",)).waiting() == [("c", "smoking"), ("b", "smoking")]


def test_tags_that_have_no_threshold_are_named():
    thresholds = Thresholds("t.json", {"smoking": 0.3})
    assert tags_without_threshold(thresholds, ("smoking",)) is tags_without_threshold(None, ("weapon",)) is None
    assert "no threshold for weapon" in tags_without_threshold(thresholds, ("smoking", "weapon"))
    with refused(option="t.json", says="no threshold for weapon"):
        tags_without_threshold(thresholds, ("weapon",))


def test_a_decision_says_what_it_was_about(tags, policy):
    queue = queue_of(tags)
    queue.decide(queue.next_item(), "disagree", " a  pencil ")
    (line,) = lines()
    assert line.pop("by") and line.pop("at").endswith("+00:00")
    assert line == {
        "kind": "decision",
        "image_id": "a",
        "tag": "smoking",
        "answer": "disagree",
        "reason": "a pencil",
        "score": 0.9,
        "threshold": 0.3,
        "image_sha256": tags.rows["a"]["image_sha256"],
        "weights_sha256": "ab" * 32,
        "policy_sha256": policy.sha256,
    }
    for text, reason, says in (("disagree", " ", "reason"), ("cannot_tell", "", "reason"), ("safe", "x", "'safe'")):
        with pytest.raises(ValueError, match=says):
            queue.decide(queue.next_item(), text, reason)
    assert len(lines()) == 1


def test_undo_adds_a_line_and_reopens(tags):
    queue = queue_of(tags)
    assert queue.undo() is None
    queue.decide(queue.next_item(), "agree")
    queue.decide(queue.next_item(), "agree")
    assert queue.undo() == ("c", "smoking") and queue.next_item().row["image_id"] == "c"
    assert queue.undo() == ("a", "smoking") and queue.next_item().row["image_id"] == "a"
    assert [line["kind"] for line in lines()] == ["decision", "decision", "undo", "undo"]
    assert queue_of(tags).next_item().row["image_id"] == "a"


def test_the_last_decision_can_be_undone_too(tags, policy):
    said = answer(tags, policy, "a", "a", "a", "u", "d no", "")
    assert said.count("that was the last one; u undoes it") == 2 and "3 decided now, 0 left" in said
    assert [line["kind"] for line in lines()] == ["decision"] * 3 + ["undo", "decision"]
    assert lines()[-1]["answer"] == "disagree"


def test_an_appeal_reopens_comes_first_and_can_be_undone_back_to(tags):
    queue = queue_of(tags)
    queue.skip(queue.next_item())  # a, whose score is higher, still waits
    queue.decide(queue.next_item(), "agree")
    appeal(tags, log_of(tags), "c", "smoking", "it is steam")
    queue = queue_of(tags)
    item = queue.next_item()
    assert (item.row["image_id"], item.appeal) == ("c", "it is steam")
    queue.decide(item, "disagree", "steam")
    assert queue.next_item().row["image_id"] == "a"
    queue.undo()
    assert queue.next_item().appeal == "it is steam"
    with refused(option="--appeal", got="b", says="no decision"):
        appeal(tags, log_of(tags), "b", "smoking", "why")
    with refused(option="--appeal", got="c", says="no decision"):  # it waits already
        appeal(tags, log_of(tags), "c", "smoking", "why")
    with refused(option="--appeal", got="x"):
        appeal(tags, log_of(tags), "x", "smoking", "why")
    with refused(option="--reason"):
        appeal(tags, log_of(tags), "a", "smoking", " ")


def test_an_appealed_picture_below_the_threshold_is_asked_about(tags):
    queue = ReviewQueue(tags, log_of(tags), ("smoking",), Thresholds("t", {"smoking": 0.1}))
    for _ in range(4):
        queue.decide(queue.next_item(), "agree")
    appeal(tags, log_of(tags), "d", "smoking", "look again")
    assert queue_of(tags).waiting() == [("d", "smoking")]


def full_log(tags):
    queue = queue_of(tags)
    queue.decide(queue.next_item(), "agree", "so it is — ünïcode")
    queue.decide(queue.next_item(), "disagree", "a pencil")
    queue.undo()
    queue.decide(queue.next_item(), "cannot_tell", "dark")
    appeal(tags, log_of(tags), "a", "smoking", "steam")
    with open("decisions.jsonl", "rb") as file:
        return file.read()


def test_a_log_cut_off_at_any_byte_loses_the_last_line_at_most(tags, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _file: None)  # some thousands of waits for the disk
    data = full_log(tags)
    for length in range(len(data) + 1):
        with open("decisions.jsonl", "wb") as file:
            file.write(data[:length])
        whole = data[:length].count(b"\n") + (length < len(data) and data[length : length + 1] == b"\n")
        log = log_of(tags)  # repairs
        with open("decisions.jsonl", "rb") as file:
            assert file.read() == b"".join(data.splitlines(keepends=True)[:whole]), length
        before = sum(len(state.decisions) for state in log.states.values())
        queue = queue_of(tags)
        if (item := queue.next_item()) is not None and length % 50 == 0:
            queue.decide(item, "agree")
            after = read_decisions("decisions.jsonl", tags.policy["sha256"]).states
            assert sum(len(state.decisions) for state in after.values()) == before + 1
            assert len(lines()) == whole + 1


def test_reading_alone_changes_nothing(tags):
    data = full_log(tags)[:-20]
    with open("decisions.jsonl", "wb") as file:
        file.write(data)
    assert read_decisions("decisions.jsonl", tags.policy["sha256"]).num_torn > 0
    with open("decisions.jsonl", "rb") as file:
        assert file.read() == data


@pytest.mark.parametrize(
    ("number", "change", "says"),
    [
        (2, lambda line: line[:-9], "not a line of JSON"),
        (2, lambda line: b"", "not a line of JSON"),
        (2, lambda line: line.replace(b'"disagree"', b'"maybe"'), "no decision"),
        (3, lambda line: line.replace(b'"undo"', b'"delete"'), "no decision"),
        (5, lambda line: line.replace(b'"tag"', b'"Tag"'), "no decision"),
        (1, lambda line: line.replace(b'"policy_sha256": "', b'"policy_sha256": "0'), "another policy"),
        (2, lambda line: line.replace(b'"c"', b'"a"'), "a second decision"),
        (3, lambda line: line.replace(b'"c"', b'"b"'), "no decision to undo"),
    ],
)
def test_a_log_that_was_changed_is_refused(tags, number, change, says):
    parts = full_log(tags).split(b"\n")
    parts[number - 1] = change(parts[number - 1])
    with open("decisions.jsonl", "wb") as file:
        file.write(b"\n".join(parts))
    with refused(says=(f"decisions.jsonl, line {number}", says)):
        log_of(tags)


def test_decisions_about_another_picture_of_that_name_are_refused(tags, policy):
    full_log(tags)
    changed = [dict(one, image_sha256="0" * 64) for one in tags.rows.values()]
    other = read_tags(write_rows(policy_folder(policy) / "other.jsonl", changed))
    with refused(says=("'a'", "another picture")):
        queue_of(other)


def test_a_disk_that_is_full_decides_nothing(tags, monkeypatch):
    queue = queue_of(tags)

    def fail(path, text):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("hfcap.applications.decisions.append_line", fail)
    with pytest.raises(OSError, match="No space"):
        queue.decide(queue.next_item(), "agree")
    assert queue.next_item().row["image_id"] == "a" and queue.counts()["decided"] == 0
    monkeypatch.undo()


def test_the_terminal_shows_caption_and_evidence_and_no_picture(tags, policy):
    said = answer(tags, policy, "A", "d a pencil", "u", "c", "dark", "x", "s")
    assert "3 to decide" in said
    assert "1/3 a\n  may show: smoking (score 0.900, threshold 0.300)\n  that means: somebody smokes" in said
    assert "caption, by a program, may be wrong: A man smokes.\n  words for it: smokes" in said
    assert "undone: c, smoking" in said and "'x' is none of: a agree" in said
    assert "2 decided now, 1 left" in said
    assert ".png" not in said and "safe" not in said
    assert [line.get("answer") for line in lines()] == ["agree", "disagree", None, "cannot_tell"]


def test_a_picture_is_shown_blurred_and_the_original_only_on_o(tags, policy, tmp_path):
    picture = tmp_path / "photos" / "a.png"
    picture.parent.mkdir()
    Image.effect_noise((900, 600), 80).convert("RGB").save(picture)
    rows = [dict(one, image_sha256=file_sha256(picture)) for one in tags.rows.values()]
    tags = read_tags(write_rows(tmp_path / "tags.jsonl", rows))
    viewer = f"{sys.executable} -c \"import shutil,sys; shutil.copy(sys.argv[1], 'seen' + sys.argv[1][-4:])\""
    said = answer(tags, policy, "b", viewer=viewer)
    assert "a.png" not in said and not (tmp_path / "seen.png").exists()
    with Image.open("seen.jpg") as seen, Image.open(picture) as original:
        assert max(seen.size) == BLURRED_PIXELS
        darkest, lightest = zip(*(image.convert("L").getextrema() for image in (seen, original)), strict=True)
    assert lightest[0] - darkest[0] < (lightest[1] - darkest[1]) / 4
    assert blurred_jpeg(picture) == blurred_jpeg(picture)
    answer(tags, policy, "o", viewer=viewer)
    assert file_sha256("seen.png") == file_sha256(picture)
    picture.write_bytes(b"other")
    assert "is not the picture that was tagged" in answer(tags, policy, "o")
    picture.unlink()
    assert "no picture at photos/a.png" in answer(tags, policy, "b")
    tags.rows["a"]["path"] = ""  # of a source without files
    assert "part of a parquet file or tar shard" in answer(tags, policy, "b")
    (tmp_path / "photos" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot be read"):
        blurred_jpeg(picture)


def test_ids_and_captions_cannot_write_into_the_terminal(policy, tmp_path):
    rows = [row(policy, "a\x1b[2J", {"smoking": 0.9, "weapon": 0}, caption="A\x1b]0;x\x07 man\nsmokes")]
    said = answer(read_tags(write_rows(tmp_path / "tags.jsonl", rows)), policy, "a")
    assert "\x1b" not in said and "\x07" not in said and "\\x1b" in said


def run(capsys, *words):
    code = 0
    try:
        cli.main(["moderate", "review", *words])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_repairs_appeals_and_refuses(tags, policy, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("q\n"))
    data = full_log(tags)
    with open("decisions.jsonl", "wb") as file:
        file.write(data[:-5])
    code, said, error = run(capsys, "tags.jsonl", "--tag", "smoking")
    assert code == 0 and "the last line was cut off" in error and "2 to decide" in said
    code, said, _ = run(capsys, "tags.jsonl", "--tag", "smoking", "--appeal", "a", "--reason", "steam")
    assert code == 0 and "open again" in said and lines()[-1]["reason"] == "steam"
    code, _, error = run(capsys, "tags.jsonl", "--appeal", "a", "--reason", "steam")
    assert code == 2 and "--tag" in error
    path = policy_folder(policy) / "policy.yaml"
    path.write_text(path.read_text().replace("somebody smokes", "a fire"))
    assert run(capsys, "tags.jsonl")[0] == 2


KILLED = """
import sys
from hfcap.applications.decisions import read_decisions
from hfcap.applications.review_queue import ReviewQueue
from hfcap.applications.tag_rows import read_tags
tags = read_tags("tags.jsonl")
log = read_decisions("decisions.jsonl", tags.policy["sha256"])
log.repair()
queue = ReviewQueue(tags, log, ("smoking",))
while (item := queue.next_item()) is not None:
    queue.decide(item, "agree", "x" * 3000)
    print(item.row["image_id"], flush=True)
"""


def test_a_process_killed_while_it_writes_has_kept_what_it_confirmed(policy, tmp_path):
    rows = [row(policy, f"{number:04d}", {"smoking": 0.5, "weapon": 0}) for number in range(3000)]
    tags = read_tags(write_rows(tmp_path / "tags.jsonl", rows))
    confirmed = []
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
        first = process.stdout.readline()
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        rest, _ = process.communicate()
        confirmed += [line.strip() for line in [first, *rest.splitlines()] if line.strip()]
        states = log_of(tags).states
        assert all(states[image_id, "smoking"].is_decided for image_id in confirmed)
        assert len(confirmed) <= len(states) <= len(confirmed) + 2
    assert len(confirmed) == len(set(confirmed)) >= 2
