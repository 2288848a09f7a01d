"""Labels, samples to label, and thresholds: what they promise, what is refused."""

import csv
import json
import math

import pytest

from hfcap import cli
from hfcap.applications.policy import Target
from hfcap.applications.tag_labels import Label, labels_csv, read_labels
from hfcap.applications.tag_rows import read_tags
from hfcap.applications.tag_sample import draw_sample, estimated_positives
from hfcap.applications.threshold_file import read_thresholds
from hfcap.applications.thresholds import choose_threshold, halves, precision_at, recall_at
from hfcap.content_hashes import file_sha256
from hfcap.errors import ConfigError
from hfcap.metrics.binomial import lower_bound
from moderation_rows import labels_text, made_up, row, write_policy, write_rows
from refusals import refused


@pytest.fixture
def policy(tmp_path):
    return write_policy(tmp_path)


def tags_of(tmp_path, rows):
    return read_tags(write_rows(tmp_path / "tags.jsonl", rows))


def labels_of(tmp_path, tags, text, name="labels.csv"):
    (tmp_path / name).write_text(text)
    return read_labels(tmp_path / name, tags)


@pytest.fixture
def two(tmp_path, policy):
    return tags_of(tmp_path, [row(policy, name, {"smoking": 0.9, "weapon": 0.1}) for name in ("a", "b")])


def test_labels_are_read_by_id_or_path_from_csv_and_jsonl(tmp_path, two):
    text = "\ufeffpath;tag;label;inclusion_probability\nphotos/a.png;smoking;Yes;0.25\nphotos/b.png;smoking;;1\n"
    labels = labels_of(tmp_path, two, text)
    assert labels.labels == (Label("a", "smoking", True, 0.9, 4.0),) and labels.num_blank == 1
    lines = [
        {"image_id": "a", "tag": "smoking", "label": "cannot_tell"},
        {"image_id": "b", "tag": "weapon", "label": "no"},
    ]
    labels = labels_of(tmp_path, two, "".join(json.dumps(line) + "\n" for line in lines), "labels.jsonl")
    assert [label.answer for label in labels.labels] == [None, False]
    assert labels.of("smoking") == [] and labels.num_cannot_tell("smoking") == 1


@pytest.mark.parametrize("name", ["photo ", "tab\t", "two\nlines", "=sum", "'quoted\"", "e\u0301"])
def test_a_sample_names_its_pictures_whatever_their_names(tmp_path, policy, name):
    tags = tags_of(tmp_path, [row(policy, name, {"smoking": 0.9, "weapon": 0.1})])
    line = {"image_id": name, "path": f"photos/{name}.png", "tag": "smoking", "label": "yes"}
    assert labels_of(tmp_path, tags, labels_csv([line])).labels[0].image_id == name
    assert labels_of(tmp_path, tags, labels_csv([line | {"image_id": ""}])).labels[0].image_id == name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image_id,tag,label\na,smokin,yes\n", ("line 2", "'smokin'", "smoking, weapon")),
        ("image_id,tag,label\nc,smoking,yes\n", ("line 2", "no picture 'c'")),
        ("image_id,tag,label\n,smoking,yes\n", ("line 2", "no image_id")),
        ("image_id,tag,label\na,smoking,maybe\n", ("line 2", "'maybe'", "cannot tell")),
        ("image_id,tag,label\na,smoking,yes\na,smoking,no\n", ("line 3", "something else in", "line 2")),
        ("image_id,tag,label\na,smoking,yes\na,smoking,cannot tell\n", ("line 3", "something else in")),
        ("image_id,tag,label\na,smoking,\n", ("no label is filled in",)),
        ("image_id,tag\na,smoking\n", ("image_id or path, tag, label",)),
        ("", ("image_id or path, tag, label",)),
        ("image_id,tag,label,inclusion_probability\na,smoking,yes,0\n", ("line 2", "above 0")),
        ("image_id,tag,label,inclusion_probability\na,smoking,yes,nan\n", ("line 2", "above 0")),
    ],
)
def test_labels_that_say_nothing_are_refused(tmp_path, two, text, says):
    with refused(says=says):
        labels_of(tmp_path, two, text)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scores": {"smoking": 1.5, "weapon": 0.1}}, "scores.smoking"),
        ({"scores": {"smoking": True, "weapon": 0.1}}, "scores.smoking"),
        ({"scores": {"smoking": 0.5}}, "other scores than the first row's"),
        ({"scores": {}}, "scores is {}"),
        ({"policy": {"path": "p", "sha256": "0"}}, "other policy"),
        ({"policy": None}, "tagged without a policy"),
        ({"tagger": {"source": "x", "weights_sha256": "0"}}, "other tagger"),
        ({"image_id": "a"}, "twice"),
        ({"decision": {"smoking": "safe"}}, "decision.smoking"),
        ({"path": 3}, "path is 3"),
    ],
)
def test_rows_of_several_taggers_or_none_are_refused(tmp_path, policy, change, says):
    rows = [row(policy, name, {"smoking": 0.9, "weapon": 0.1}) for name in ("a", "b")]
    with refused(says=("line 2", says)):
        tags_of(tmp_path, [rows[0], rows[1] | change])


def test_a_policy_that_has_changed_or_lacks_a_tag_is_refused(tmp_path, policy, two):
    assert two.read_policy().sha256 == policy.sha256
    path = tmp_path / "policy.yaml"
    path.write_text(path.read_text().replace("guns?", "gun"))
    with refused(says="--policy"):
        two.read_policy()
    write_policy(tmp_path)
    other = tags_of(tmp_path, [row(policy, "a", {"smoking": 0.9, "vehicle": 0.1})])
    with refused(says="'vehicle'"):
        other.read_policy()
    (tmp_path / "empty.jsonl").write_text("")
    with refused(says="no picture in it"):
        read_tags(tmp_path / "empty.jsonl")


def test_a_policy_is_found_from_the_folder_of_the_rows_too(tmp_path, policy):
    moved = dict(row(policy, "a", {"smoking": 0.9}), policy={"path": "policy.yaml", "sha256": policy.sha256})
    assert tags_of(tmp_path, [moved]).read_policy().sha256 == policy.sha256
    (tmp_path / "policy.yaml").unlink()
    with refused(option="policy", got="policy.yaml"):
        tags_of(tmp_path, [moved]).read_policy()


def test_a_sample_is_the_same_for_one_seed_and_any_order_of_rows(tmp_path, policy):
    rows, _ = made_up(policy, 500)
    sample = draw_sample(tags_of(tmp_path, rows), "smoking", 100)
    assert sample == draw_sample(tags_of(tmp_path, rows[::-1]), "smoking", 100)
    other = draw_sample(tags_of(tmp_path, rows), "smoking", 100, seed=1)
    assert {line["image_id"] for line in sample} != {line["image_id"] for line in other}
    assert len({line["image_id"] for line in sample}) == 100
    assert {line["stratum"] for line in sample} == set(range(1, max(line["stratum"] for line in sample) + 1))
    # What each label stands for adds up to all pictures.
    assert sum(1 / line["inclusion_probability"] for line in sample) == pytest.approx(500)
    with refused(option="--n", got=501):
        draw_sample(tags_of(tmp_path, rows), "smoking", 501)
    assert all(line["inclusion_probability"] == 1 for line in draw_sample(tags_of(tmp_path, rows), "smoking", 500))


def test_pictures_of_one_score_are_drawn_as_often_as_others_of_their_stratum(tmp_path, policy):
    scores = [0.9 - number / 1000 for number in range(30)] + [0.5] * 70  # 20 of the 70 are in the upper half
    rows = [row(policy, f"{number:03d}", {"smoking": score}) for number, score in enumerate(scores)]
    tags = tags_of(tmp_path, rows)
    drawn = [0.0] * 100
    for seed in range(300):
        for line in draw_sample(tags, "smoking", 20, seed):
            drawn[int(line["image_id"])] += 1 / line["inclusion_probability"] / 300
    assert min(drawn) > 0.5 and max(drawn) < 1.5  # 1 each, were the number of seeds infinite
    assert sum(drawn[:30]) == pytest.approx(30, rel=0.1)


def sampled(tags, truth, number, seed):
    lines = draw_sample(tags, "smoking", number, seed)
    return [
        Label(one["image_id"], "smoking", truth[one["image_id"]], one["score"], 1 / one["inclusion_probability"])
        for one in lines
    ]


def test_the_number_of_positives_is_estimated_without_bias(tmp_path, policy):
    rows, truth = made_up(policy, 600)
    tags, wanted = tags_of(tmp_path, rows), sum(truth.values())
    estimates = [estimated_positives(sampled(tags, truth, 120, seed), 600) for seed in range(60)]
    mean = sum(value for value, _, _ in estimates) / 60
    spread = math.sqrt(sum((value - mean) ** 2 for value, _, _ in estimates) / 59)
    assert abs(mean - wanted) < 3 * spread / math.sqrt(60)
    assert sum(low <= wanted <= high for _, low, high in estimates) >= 50  # of 60; 57 expected
    even = [Label(i, "smoking", truth[i], 0.0) for i in sorted(truth)[::3]]
    assert estimated_positives(even, 600)[0] == 3 * sum(label.answer for label in even)


def test_precision_and_recall_with_equal_weights_have_exact_bounds():
    labels = [Label(str(n), "t", n % 4 != 0, 0.9 if n < 20 else 0.1) for n in range(40)]
    precision, recall = precision_at(0.5, labels), recall_at(0.5, labels, 20, 20)
    assert (precision.value, precision.lower, precision.labels) == (0.75, lower_bound(15, 20), 20)
    assert (recall.value, recall.lower, recall.labels) == (0.5, lower_bound(15, 30), 30)
    heavier = [Label(label.image_id, "t", label.answer, label.score, 7.0) for label in labels]
    assert precision_at(0.5, heavier) == precision and recall_at(0.5, heavier, 20, 20) == recall
    assert math.isnan(precision_at(0.95, labels).value) and precision_at(0.95, labels).lower == 0
    assert recall_at(0.0, labels, 40, 0).lower == 1


def test_a_stratum_without_a_positive_label_may_still_hold_some():
    above = [Label(str(n), "t", True, 0.9, 1.0) for n in range(60)]
    below = [Label(str(100 + n), "t", False, 0.1, 100.0) for n in range(30)]
    recall = recall_at(0.5, above + below, 60, 3000)
    assert recall.value == 1
    assert recall.lower < 0.2  # 30 of 3,000 were seen: 345 of the others may be positive


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "target"), [("precision", 0.8), ("recall", 0.6)])
@pytest.mark.parametrize("is_even", [True, False], ids=["even", "sample"])
def test_a_threshold_that_is_given_keeps_its_target(tmp_path, policy, kind, target, is_even):
    kept = missed = 0
    for seed in range(30):
        rows, truth = made_up(policy, 1500, seed)
        tags = tags_of(tmp_path, rows)
        if is_even:
            own = [Label(i, "smoking", truth[i], tags.rows[i]["scores"]["smoking"]) for i in sorted(truth)[:900]]
        else:
            own = sampled(tags, truth, 600, seed)
        labels = type(labels_of(tmp_path, tags, labels_text(truth, list(truth)[:1])))("labels.csv", tuple(own))
        try:
            threshold = choose_threshold("smoking", Target(kind, target), tags, labels)["threshold"]
        except ConfigError:
            continue
        queue = [i for i in truth if tags.rows[i]["scores"]["smoking"] >= threshold]
        found = sum(truth[i] for i in queue)
        reached = found / len(queue) if kind == "precision" else found / sum(truth.values())
        kept, missed = kept + (reached >= target), missed + (reached < target)
    assert kept >= 5
    assert missed <= 4  # at most one in twenty in the long run: 5 of 30 have a probability of 0.02


def test_labels_choose_or_judge_and_copies_of_a_picture_stay_together(tmp_path, policy):
    rows, truth = made_up(policy, 200)
    for number in range(0, 40, 2):
        rows[number]["image_sha256"] = rows[number + 1]["image_sha256"]
    tags = tags_of(tmp_path, rows)
    own = labels_of(tmp_path, tags, labels_text(truth, truth)).of("smoking")
    choosing, judging = ({label.image_id for label in side} for side in halves(own, tags))
    assert not choosing & judging and choosing | judging == set(truth) and min(len(choosing), len(judging)) > 60
    ids = list(truth)
    assert all((ids[number] in choosing) == (ids[number + 1] in choosing) for number in range(0, 40, 2))


def choose(tags, labels, kind, value):
    return choose_threshold("smoking", Target(kind, value), tags, labels)


def test_too_few_labels_are_refused_with_the_number_needed(tmp_path, policy):
    rows, truth = made_up(policy, 400, separation=6)
    tags = tags_of(tmp_path, rows)
    positive = [i for i in truth if truth[i]]
    few = labels_of(tmp_path, tags, labels_text(truth, positive[:14] + [i for i in truth if not truth[i]][:30]))
    with refused(says=("smoking: precision", "lower 95 % bound", "about 58 labels at the threshold or above")):
        choose(tags, few, "precision", 0.9)
    with refused(says=("smoking: recall", "at least 118 labels that are yes are needed")):
        choose(tags, few, "recall", 0.95)
    for ids, only in ((positive, "all of them yes"), ([i for i in truth if not truth[i]], "all of them no")):
        with refused(says=only):
            choose(tags, labels_of(tmp_path, tags, labels_text(truth, ids)), "recall", 0.5)
    with refused(says="--labels"):
        choose(tags, None, "recall", 0.5)


def test_a_tagger_that_is_not_good_enough_is_refused_whatever_the_labels(tmp_path, policy):
    rows, truth = made_up(policy, 600, separation=0, share=0.3)
    tags = tags_of(tmp_path, rows)
    with refused(says="train a better tagger"):
        choose(tags, labels_of(tmp_path, tags, labels_text(truth, truth)), "precision", 0.95)


def test_a_queue_is_never_longer_than_asked_for_and_ties_stay_together(tmp_path, policy):
    scores = [0.9] * 3 + [0.8] * 4 + [0.1] * 13
    rows = [row(policy, str(n), {"smoking": score, "weapon": 0.5}) for n, score in enumerate(scores)]
    tags = tags_of(tmp_path, rows)
    for share, threshold in ((0.15, 0.9), (0.3, 0.9), (0.35, 0.8), (0.99, 0.8)):
        chosen = choose(tags, None, "queue", share)
        assert chosen["threshold"] == threshold and chosen["queue"] <= share
    with refused(says="3 pictures with the highest score"):
        choose(tags, None, "queue", 0.1)


def run(capsys, *words):
    """Run a command and return its exit code, stdout and stderr."""
    code = 0
    try:
        cli.main(["moderate", *map(str, words)])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    return code, said.out, said.err


def test_from_a_sample_to_thresholds(tmp_path, policy, capsys):
    rows, truth = made_up(policy, 800, separation=4)
    path = write_rows(tmp_path / "tags.jsonl", rows)
    output, thresholds = tmp_path / "labels.csv", tmp_path / "thresholds.json"
    assert run(capsys, "sample", path, "--n", 400, "--tag", "smoking", "--output", output)[0] == 0
    code, _, error = run(capsys, "sample", path, "--output", output)
    assert code == 2 and "may hold labels" in error and error.count("\n") == 1
    with open(output, encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        line["label"] = "yes" if truth[line["image_id"]] else "no"
    with open(output, "w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    code, said, error = run(capsys, "threshold", path, "--labels", output, "--output", thresholds)
    assert (code, error) == (0, "")
    assert "smoking: " in said and "(recall 0.6 wanted)" in said and "95 % sure" in said and "note:" in said
    record = json.loads(thresholds.read_text())
    assert record["policy"]["sha256"] == policy.sha256 and record["tagger"]["weights_sha256"] == "ab" * 32
    assert record["labels"]["sha256"] == file_sha256(output)
    assert record["tags"]["smoking"]["recall"]["lower_95"] >= 0.6
    assert record["tags"]["weapon"]["queue"] <= 0.1 and "recall" not in record["tags"]["weapon"]
    read = read_thresholds(thresholds, read_tags(path))
    assert read.by_tag["smoking"] == record["tags"]["smoking"]["threshold"] and read.chosen_by_labels == {"smoking"}


def test_a_tag_without_a_threshold_is_one_line_and_the_others_are_written(tmp_path, policy, capsys):
    rows, _ = made_up(policy, 100)
    path = write_rows(tmp_path / "tags.jsonl", rows)
    code, said, error = run(capsys, "threshold", path, "--output", tmp_path / "t.json")
    assert code == 2 and error.startswith("error: smoking: ") and error.count("\n") == 1
    assert set(json.loads((tmp_path / "t.json").read_text())["tags"]) == {"weapon"} and "weapon" in said
    code, _, error = run(capsys, "threshold", path, "--queue", "5", "--output", tmp_path / "no.json")
    assert code == 2 and "--queue" in error and "5%" in error and not (tmp_path / "no.json").exists()
    code, _, error = run(capsys, "threshold", path, "--queue", "5%", "--tag", "gun", "--output", tmp_path / "no.json")
    assert code == 2 and "one of smoking, weapon" in error


def test_thresholds_of_another_policy_or_tagger_are_refused(tmp_path, policy):
    tags = tags_of(tmp_path, [row(policy, "a", {"smoking": 0.9, "weapon": 0.1})])
    good = {"policy": tags.policy, "tagger": tags.tagger, "labels": None, "tags": {}}
    path = tmp_path / "thresholds.json"
    for change, says in (
        ({"policy": {"sha256": "0"}}, "another policy"),
        ({"tagger": {"weights_sha256": "0"}}, "another tagger"),
        ({"tags": {"smoking": {}}}, "no thresholds"),
        ({"tags": None}, "no thresholds"),
    ):
        path.write_text(json.dumps(good | change))
        with refused(says=says):
            read_thresholds(path, tags)
    path.write_text("{")
    with refused(says="malformed JSON"):
        read_thresholds(path, tags)
