"""English function words (articles, prepositions, pronouns and the like), and whether texts look like English."""

import string
from collections.abc import Iterable
from itertools import islice

_WORDS = """
a an the in on of at to with and is are by his her their its for from through into up down over near while as it he she
they that this there being be out off next behind front under
"""
FUNCTION_WORDS = frozenset(_WORDS.split())
# Share of function words from which on texts are taken for English. Flickr8k's captions: English 0.38, German 0.04
# ("in" and "an" are words there too), Arabic and Chinese 0.
ENGLISH_FROM = 0.2
LOOKED_AT = 1000  # texts


def looks_english(texts: Iterable[str]) -> bool:
    """Whether texts look like English, by the share of function words in the first of them."""
    words = [word.strip(string.punctuation).lower() for text in islice(texts, LOOKED_AT) for word in text.split()]
    return sum(word in FUNCTION_WORDS for word in words) >= ENGLISH_FROM * max(1, len(words))
