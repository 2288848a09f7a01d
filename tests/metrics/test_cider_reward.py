"""CIDEr-D as a reward, and document frequencies in a file."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from make_golden import made_captions

from hfcap.metrics import CiderDReward, DocumentFrequencies, compute_metrics, document_frequencies

GOLDEN = json.loads((Path(__file__).parent / "golden_metrics.json").read_text())["metrics"]
CANDIDATES, REFERENCES = made_captions()
IDS = [f"image-{index}" for index in range(len(REFERENCES))]


@pytest.fixture(scope="module")
def reward() -> CiderDReward:
    return CiderDReward(dict(zip(IDS, REFERENCES, strict=True)))


def test_reward_equals_the_golden_cider(reward):
    scores = reward.score(CANDIDATES, IDS)
    assert scores.dtype == np.float32 and scores.shape == (len(IDS),)
    assert scores == pytest.approx(GOLDEN["cider"]["per_image"], abs=1e-6)


def test_reward_depends_on_caption_and_image_alone(reward):
    together = reward.score(CANDIDATES, IDS)
    order = np.random.default_rng(0).permutation(len(IDS)).tolist()
    shuffled = reward.score([CANDIDATES[i] for i in order] * 2, [IDS[i] for i in order] * 2)
    assert shuffled.tolist() == together[order].tolist() * 2
    alone = [reward.score([caption], [image])[0] for caption, image in zip(CANDIDATES, IDS, strict=True)]
    assert alone == together.tolist()


def test_unknown_words_lower_the_reward_and_are_not_kept(reward):
    caption, image = REFERENCES[0][0], IDS[0]
    before = reward.score([caption], [image])[0]
    assert reward.score([f"{caption} zyx zyx wvu"], [image])[0] < before
    assert reward.score([caption], [image])[0] == before
    assert "zyx" not in reward._scorer.index.words


def test_empty_batch(reward):
    assert reward.score([], []).shape == (0,)


def test_reward_errors(reward, monkeypatch):
    with pytest.raises(ValueError, match="got 1 candidates and 2 image ids"):
        reward.score(["a"], IDS[:2])
    with pytest.raises(KeyError, match=f"no references for image 'nope'; there are {len(IDS)} images"):
        reward.score(["a"], ["nope"])
    with pytest.raises(ValueError, match="image x has 0 references"):
        CiderDReward({"x": []})
    monkeypatch.setattr("hfcap.metrics.cider._has_warned", False)
    with pytest.warns(UserWarning, match="--idf"):
        CiderDReward({"x": ["a dog"]})


def test_frequencies_survive_the_file(tmp_path):
    frequencies = document_frequencies(REFERENCES)
    frequencies.save(tmp_path / "idf.npz")
    again = DocumentFrequencies.load(tmp_path / "idf.npz")
    assert list(tmp_path.iterdir()) == [tmp_path / "idf.npz"]
    assert again.num_documents == len(REFERENCES)
    assert again.vocabulary.words == frequencies.vocabulary.words
    for order in range(4):
        assert np.array_equal(again.counts[order], frequencies.counts[order])
    own = compute_metrics(CANDIDATES, REFERENCES, ("cider",))["cider_per_image"]
    read = compute_metrics(CANDIDATES, REFERENCES, ("cider",), idf=tmp_path / "idf.npz")["cider_per_image"]
    assert read == pytest.approx(own, abs=1e-12)


def test_small_set_with_frequencies_of_a_large_one(recwarn):
    # A part of the images, weighed by all: each image keeps the score it has among all of them.
    frequencies = document_frequencies(REFERENCES)
    part = compute_metrics(CANDIDATES[20:25], REFERENCES[20:25], ("cider", "cider_d"), idf=frequencies)
    assert part["cider_per_image"] == pytest.approx(GOLDEN["cider"]["per_image"][20:25], abs=1e-9)
    assert part["cider_d_per_image"] == part["cider_per_image"]
    assert not recwarn.list
    reward = CiderDReward(dict(zip(IDS[20:25], REFERENCES[20:25], strict=True)), frequencies)
    assert reward.score(CANDIDATES[20:25], IDS[20:25]) == pytest.approx(part["cider_per_image"], abs=1e-6)


def test_frequencies_by_hand():
    frequencies = document_frequencies([["a dog runs", "a dog"], ["a cat", "the cat"], ["a a"]])
    words = dict(zip(frequencies.vocabulary.words, frequencies.counts[0].tolist(), strict=True))
    assert words.pop("\0") == 0  # stands between captions
    assert words == {"a": 3, "dog": 1, "runs": 1, "cat": 1, "the": 1}
    assert frequencies.num_documents == 3
    assert [len(counts) for counts in frequencies.counts] == [6, 5, 1, 0]
    # "a" is in every document and weighs 0; "dog" and "cat" weigh log 3; the rest follows by hand.
    result = compute_metrics(["dog", "dog cat"], [["dog"], ["dog"]], ("cider",), idf=frequencies)
    assert result["cider_per_image"][0] == pytest.approx(10 / 4)
    assert result["cider_per_image"][1] == pytest.approx(10 / 4 / math.sqrt(2) * math.exp(-1 / 72))


def test_a_foreign_file_is_refused(tmp_path):
    (tmp_path / "idf.npz").write_text("not an archive")
    with pytest.raises(ValueError, match="is not a file of document frequencies"):
        DocumentFrequencies.load(tmp_path / "idf.npz")
    np.savez(tmp_path / "other.npz", words=np.zeros(3))
    with pytest.raises(ValueError, match="is not a file of document frequencies"):
        DocumentFrequencies.load(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        DocumentFrequencies.load(tmp_path / "none.npz")
