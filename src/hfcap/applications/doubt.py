"""Words of a caption that its model was not sure of."""

import math

from hfcap.samples import Sample, word_log_probabilities

# A content word of less probability than this is said to be unsure; docs/applications.md has how often it was right.
UNSURE_BELOW = 0.2
# English words that say little about what is in a picture.
FUNCTION_WORDS = {
    *("a", "an", "the", "in", "on", "of", "at", "to", "with", "and", "is", "are", "by", "his", "her", "their", "its"),
    *(
        "for",
        "from",
        "through",
        "into",
        "up",
        "down",
        "over",
        "near",
        "while",
        "as",
        "it",
        "he",
        "she",
        "they",
        "that",
    ),
    *("this", "there", "being", "be", "out", "off", "next", "behind", "front", "under"),
}


def content_words(tokenizer, sample: Sample) -> list[tuple[str, float]]:
    """Return the words of a caption that say what is in a picture, each with its log-probability."""
    words = word_log_probabilities(tokenizer, sample)
    return [(word, value) for word, value in words if word.lower() not in FUNCTION_WORDS]


def unsure_words(tokenizer, sample: Sample) -> list[str]:
    """Return the content words of a caption that its model found improbable, in order."""
    return [word for word, value in content_words(tokenizer, sample) if value < math.log(UNSURE_BELOW)]
