import pytest

from hfcap.hub.caption_stats import caption_stats


def test_gender_without_evidence_is_told_from_gender_with():
    captions = ["a man rides", "a woman runs", "two boys and a girl", "a person", "he he sits"]
    references = [["a person rides"], ["the girl runs"], ["boys play"], ["a man"], ["him", "her"]]
    habits = caption_stats(captions, references)
    assert habits.gendered == pytest.approx(4 / 5)
    # the man of the first, the girl of the third; "woman" has evidence in "girl", "he" in "him"
    assert habits.gendered_without_evidence == pytest.approx(2 / 5)
    assert (habits.repetition, habits.empty, habits.duplicates) == (pytest.approx(1 / 5), 0, 0)
