"""`hfcap moderate report`: the figures against counts by hand, the text, and the page."""

import json
import re

import pytest

from hfcap import cli
from hfcap.applications.decisions import read_decisions
from hfcap.applications.moderation_page import report_lines, write_moderation_page
from hfcap.applications.moderation_report import moderation_record
from hfcap.applications.moderation_texts import NO_SLICE
from hfcap.applications.review_queue import ReviewQueue, appeal
from hfcap.applications.tag_labels import Label, Labels, read_labels
from hfcap.applications.tag_rows import read_tags
from hfcap.applications.threshold_file import Thresholds
from hfcap.content_hashes import file_sha256
from hfcap.metrics.binomial import lower_bound, upper_bound, wilson_interval
from moderation_rows import labels_text, made_up, row, write_policy, write_rows

# image id: (score, truth, caption)
PICTURES = {
    "a": (0.9, True, "A man smokes."),
    "b": (0.8, False, "A child with a pencil."),
    "c": (0.7, True, "Kids."),
    "d": (0.6, False, "A child."),
    "e": (0.4, True, "A man."),
    "f": (0.3, False, "A child."),
    "g": (0.2, False, "A dog."),
    "h": (0.1, False, None),
}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Rows, policy and labels of `PICTURES`."""
    monkeypatch.chdir(tmp_path)
    policy = write_policy(tmp_path)
    rows = [
        row(policy, name, {"smoking": score, "weapon": 0.5}) | {"caption": caption}
        for name, (score, _, caption) in PICTURES.items()
    ]
    tags = read_tags(write_rows(tmp_path / "tags.jsonl", rows))
    text = labels_text({name: truth for name, (_, truth, _) in PICTURES.items()}, PICTURES)
    (tmp_path / "labels.csv").write_text(text.replace("g,smoking,no", "g,smoking,cannot tell"))
    return tags, policy, read_labels("labels.csv", tags)


def decided(tags, thresholds):
    log = read_decisions("decisions.jsonl", tags.policy["sha256"])
    queue = ReviewQueue(tags, log, ("smoking",), thresholds)
    for answer in ("agree", "disagree", "agree", "disagree"):
        queue.decide(queue.next_item(), answer, "because")
    appeal(tags, log, "d", "smoking", "it is")
    appeal(tags, log, "c", "smoking", "it is not")
    queue = ReviewQueue(tags, log, ("smoking",), thresholds)
    assert queue.next_item().row["image_id"] == "c"
    queue.decide(queue.next_item(), "disagree", "right")
    return log


def test_no_yes_among_few_labels_is_not_none_at_all_and_without_captions_no_slice_is_told(made):
    tags, policy, _ = made
    for entry in tags.rows.values():
        entry["caption"] = None
    labels = Labels("l.csv", tuple(Label(image_id, "smoking", False, 0.5) for image_id in list(tags.rows)[:4]))
    record = moderation_record(tags, policy, labels)
    low, high = record["tags"]["smoking"]["positives"]["ci95"]
    assert (low, high) == (0, pytest.approx(len(tags.rows) * upper_bound(0, 4, 0.975)))
    lines = report_lines(record)
    assert f"  {NO_SLICE}" in lines and not any("slice child" in line for line in lines)


def test_figures_are_those_counted_by_hand(made):
    tags, policy, labels = made
    thresholds = Thresholds("t.json", {"smoking": 0.5})
    record = moderation_record(tags, policy, labels, decided(tags, thresholds), thresholds)
    own = record["tags"]["smoking"]
    assert own["queue"] == {"length": 4, "share": 0.5}
    assert own["labels"] == {"yes": 3, "no": 4, "cannot_tell": 1}
    assert own["precision"] == {"value": 0.5, "lower_95": lower_bound(2, 4), "num_labels": 4}
    assert own["recall"] == {"value": pytest.approx(2 / 3), "lower_95": lower_bound(2, 3), "num_labels": 3}
    assert own["positives"]["value"] == pytest.approx(3 * 8 / 7)
    # c was agreed with and, on appeal, no longer; the appeal about d waits, so that no decision is in force.
    decisions = own["decisions"]
    assert (decisions["agree"], decisions["disagree"], decisions["cannot_tell"]) == (1, 2, 0)
    assert decisions["overruled"] == {"value": pytest.approx(2 / 3), "ci95": list(wilson_interval(2, 3)), "of": 3}
    assert decisions["appeals"] == {"waiting": 1, "decided": 1, "changed": 1}
    child = own["slices"]["child"]
    assert (child["num_pictures"], child["in_queue"]) == (4, 3)
    assert child["shown_for_nothing"] == {"value": pytest.approx(2 / 3), "ci95": list(wilson_interval(2, 3)), "of": 3}
    assert child["overruled"]["of"] == 2 and child["overruled"]["value"] == 1
    weapon = record["tags"]["weapon"]
    assert weapon["threshold"] is None and weapon["queue"]["length"] == 0 and "precision" not in weapon


def test_without_thresholds_the_queue_is_that_of_the_review(made):
    tags, policy, labels = made
    said = dict(zip(tags.rows, ["review", "unsure", "none", "none", "unsure", *["none"] * 3], strict=True))
    for image_id, entry in tags.rows.items():
        entry["decision"] = {"smoking": said[image_id]}  # and nothing about weapons, so that all are asked about
    record = moderation_record(tags, policy, labels)
    own = record["tags"]["smoking"]
    queue = ReviewQueue(tags, read_decisions("none.jsonl", policy.sha256), tags.names)
    assert (own["queue"]["length"], record["tags"]["weapon"]["queue"]["length"]) == (3, 8)
    assert len(queue.waiting()) == 3 + 8
    assert own["precision"] == {"value": pytest.approx(2 / 3), "lower_95": lower_bound(2, 3), "num_labels": 3}
    assert own["recall"] == {"value": pytest.approx(2 / 3), "lower_95": lower_bound(2, 3), "num_labels": 3}
    assert own["slices"]["child"]["in_queue"] == 1 and own["slices"]["child"]["shown_for_nothing"]["of"] == 3
    assert "  3 pictures (37.5 %) in the queue: what the rows call review or unsure" in report_lines(record)


def test_the_curve_counts_what_a_queue_of_each_length_finds(made):
    tags, policy, labels = made
    curve = moderation_record(tags, policy, labels)["tags"]["smoking"]["curve"]
    lengths = {point["length"]: point["recall"]["value"] for point in curve}
    assert lengths == {1: pytest.approx(1 / 3), 2: pytest.approx(1 / 3), 4: pytest.approx(2 / 3), 8: 1.0}
    assert curve[-1]["queue"] == 1.0 and curve[-1]["recall"]["lower_95"] == 1.0


def test_labels_that_chose_the_threshold_do_not_judge_it(tmp_path):
    policy = write_policy(tmp_path)
    rows, truth = made_up(policy, 200)
    tags = read_tags(write_rows(tmp_path / "tags.jsonl", rows))
    path = tmp_path / "labels.csv"
    path.write_text(labels_text(truth, truth))
    labels = read_labels(path, tags)
    numbers = []
    for chosen, sha256 in ((("smoking",), file_sha256(path)), ((), file_sha256(path)), (("smoking",), "0")):
        thresholds = Thresholds("t.json", {"smoking": 0.5}, frozenset(chosen), sha256)
        own = moderation_record(tags, policy, labels, thresholds=thresholds)["tags"]["smoking"]
        numbers.append(own["recall"]["num_labels"])
    assert numbers[1] == numbers[2] == sum(truth.values()) > numbers[0] > 0


def test_text_and_page_say_may_show_and_call_nothing_safe(made, tmp_path):
    tags, policy, labels = made
    thresholds = Thresholds("t.json", {"smoking": 0.5})
    record = moderation_record(tags, policy, labels, decided(tags, thresholds), thresholds)
    text = "\n".join(report_lines(record))
    assert "may show: smoking (somebody smokes)" in text
    assert "4 pictures (50.0 %) in the queue: score 0.5 or more" in text
    assert "0 pictures (0.0 %) in the queue: no threshold in t.json" in text
    assert "overruled (people disagreed): 66.7 % (20.8 % to 93.9 %; of 3)" in text
    assert "slice child: 3 of 4 in the queue; in it though labelled no: 66.7 %" in text
    page = write_moderation_page(tmp_path / "r.html", record).read_text()
    assert page == write_moderation_page(tmp_path / "r.html", record).read_text()
    assert "May show: smoking" in page and "no tag was found" in page
    assert not re.search(r"\bsafe\b", text + page, re.IGNORECASE)
    assert not re.search("<img|<script|src=|url\\(|https?:", page)  # no picture, nothing fetched


def test_text_of_the_policy_is_escaped_in_the_page(made, tmp_path):
    tags, policy, labels = made
    record = moderation_record(tags, policy, labels)
    record["tags"]["smoking"]["means"] = "<script>alert(1)</script>"
    assert "<script>" not in write_moderation_page(tmp_path / "r.html", record).read_text()


def run(capsys, *words):
    code = 0
    try:
        cli.main(["moderate", "report", *map(str, words)])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_writes_text_json_and_page(made, capsys):
    tags, _, _ = made
    decided(tags, Thresholds("t.json", {"smoking": 0.5}))
    with open("decisions.jsonl", "ab") as file:
        file.write(b'{"kind": "dec')
    words = ["tags.jsonl", "--labels", "labels.csv", "--decisions", "decisions.jsonl"]
    code, said, error = run(capsys, *words, "--html", "r.html", "--json", "r.json")
    assert code == 0 and "8 pictures (100.0 %) in the queue" in said and "no tag was found" in said
    assert error == "decisions.jsonl: the last line was cut off and does not count\n"
    with open("r.json") as file:
        assert json.load(file)["tags"]["smoking"]["decisions"]["agree"] == 1
    with open("r.html") as file:
        assert "Moderation report" in file.read()
    code, said, error = run(capsys, "tags.jsonl")  # neither labels nor decisions
    assert code == 0 and error == "" and "precision" not in said and "decisions" not in said
    code, _, error = run(capsys, "tags.jsonl", "--decisions", "none.jsonl")
    assert code == 2 and error.count("\n") == 1 and "none.jsonl" in error
