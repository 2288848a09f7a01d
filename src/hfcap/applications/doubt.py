"""Words of a caption that its model was not sure of."""

import math

from hfcap.function_words import FUNCTION_WORDS
from hfcap.samples import Sample, word_log_probabilities
from hfcap.scripts import SPACELESS

# A content word of less probability than this is said to be unsure; docs/applications.md has how often it was right.
UNSURE_BELOW = 0.2


def content_words(tokenizer, sample: Sample) -> list[tuple[str, float]]:
    """Return the words of a caption that say what is in a picture, each with its log-probability.

    In scripts without spaces none is known: what stands between spaces there is the whole caption.
    """
    words = word_log_probabilities(tokenizer, sample)
    return [(word, value) for word, value in words if not (word.lower() in FUNCTION_WORDS or SPACELESS.search(word))]


def unsure_words(tokenizer, sample: Sample) -> list[str]:
    """Return the content words of a caption that its model found improbable, in order."""
    return [word for word, value in content_words(tokenizer, sample) if value < math.log(UNSURE_BELOW)]
