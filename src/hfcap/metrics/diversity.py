"""Diversity of captions apart from correctness: vocabulary, novelty, length, repetition.

Distinct-n: Li et al., "A diversity-promoting objective function for neural conversation models", NAACL 2016. Words are
those of the tokenizer chosen.
"""

from collections import Counter
from collections.abc import Sequence

from .tokenizers import split_captions


def describe_captions(
    predictions: Sequence[str], training_captions: Sequence[str] | None = None, tokenizer: str = "ptb"
) -> dict:
    """Describe the captions of a model.

    Args:
        predictions: N captions, one per image.
        training_captions: what the model was trained on, to say how many captions are new; None leaves "novel" out.
        tokenizer: see `hfcap.metrics.tokenizers`.

    Returns:
        {"num_captions": int,
        "vocabulary": int, different words,
        "distinct_1", "distinct_2": different n-grams over all n-grams of the captions,
        "mean_length": float, words per caption,
        "length_histogram": {words: captions}, in order,
        "empty": int, captions without a word,
        "repetition": share of captions that say a word twice running, or a group of two to four words,
        "duplicates": share of captions that stand under another image too,
        "most_common": [[caption, times], ...], up to ten that stand under several images,
        "novel": share of captions that are no training caption}. Captions are compared after tokenization.

    Raises:
        ValueError: no captions.
    """
    if not len(predictions):
        raise ValueError("got 0 predictions; there is nothing to describe")
    captions = split_captions(predictions, tokenizer, isolated=True)
    words = [caption.split() for caption in captions]
    lengths = Counter(map(len, words))
    times = Counter(captions)
    result = {
        "num_captions": len(captions),
        "vocabulary": len({word for caption in words for word in caption}),
        "distinct_1": distinct(words, 1),
        "distinct_2": distinct(words, 2),
        "mean_length": sum(map(len, words)) / len(words),
        "length_histogram": dict(sorted(lengths.items())),
        "empty": lengths[0],
        "repetition": sum(map(has_repetition, words)) / len(words),
        "duplicates": sum(count for count in times.values() if count > 1) / len(captions),
        "most_common": [[caption, count] for caption, count in times.most_common(10) if count > 1],
    }
    if training_captions is not None:
        known = set(split_captions(training_captions, tokenizer, isolated=True))
        result["novel"] = sum(caption not in known for caption in captions) / len(captions)
    return result


def distinct(captions: Sequence[Sequence[str]], order: int) -> float:
    """Give the share of different n-grams among all n-grams of the captions.

    Args:
        captions: words of each caption.
        order: n, 1 or more.

    Returns:
        From 0 to 1; 0 where no caption has n words.
    """
    ngrams = [tuple(words[i : i + order]) for words in captions for i in range(len(words) - order + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def has_repetition(words: Sequence[str], shortest: int = 1, longest: int = 4) -> bool:
    """Say whether a group of `shortest` to `longest` words comes twice in a row ("a man on a man on a horse")."""
    return any(
        words[start : start + size] == words[start + size : start + 2 * size]
        for size in range(shortest, longest + 1)
        for start in range(len(words) - 2 * size + 1)
    )
