"""The cards of the project's own runs say what their records say."""

import shutil
from pathlib import Path

import pytest

from hfcap.hub.card import write_card
from hfcap.hub.card_check import check_card

CARDS = sorted((Path(__file__).parents[1] / "model_cards").glob("*/README.md"))


def test_there_are_cards():
    assert CARDS


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.parent.name)
def test_a_card_of_our_own_runs_is_as_measured(card, tmp_path):
    stale, _ = check_card(card)
    assert stale == []
    copy = shutil.copytree(card.parent, tmp_path / card.parent.name)
    assert write_card(copy).read_text(encoding="utf-8") == card.read_text(encoding="utf-8")
