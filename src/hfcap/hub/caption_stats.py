"""Statistics of known caption failures: repetition, duplicates, unsupported gender, empty captions."""

from collections.abc import Sequence
from dataclasses import dataclass

from hfcap.function_words import looks_english
from hfcap.metrics import describe_captions
from hfcap.metrics.ptb_tokenizer import tokenize

# After the word lists of Hendricks et al., "Women also Snowboard", ECCV 2018: words that state a person's gender.
FEMALE = {"woman", "women", "girl", "girls", "lady", "ladies", "female", "she", "her", "herself", "mother", "wife"}
MALE = {"man", "men", "boy", "boys", "guy", "guys", "gentleman", "male", "he", "him", "his", "himself", "father"}


@dataclass(frozen=True)
class CaptionStats:
    """Shares are of all captions, from 0 to 1.

    Attributes:
        num_captions: how many captions were looked at.
        mean_length: words per caption.
        vocabulary: different words.
        empty: share without a word.
        repetition: share that says a word, or a group of two to four, twice running.
        duplicates: share that stands under another picture too.
        gendered: share that names a person's gender.
        gendered_without_evidence: share that names a gender which no reference of the picture names.
        english: whether the captions look like English: in other languages no gender is found.
    """

    num_captions: int
    mean_length: float
    vocabulary: int
    empty: float
    repetition: float
    duplicates: float
    gendered: float
    gendered_without_evidence: float
    english: bool = True  # as where an earlier hfcap counted


def caption_stats(
    captions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "ptb"
) -> CaptionStats:
    """Measure what captions of pictures do that captions should not do.

    Args:
        captions: one per picture.
        references: all that people wrote about each picture.
        tokenizer: of the metrics; gender is looked for in English words, whichever it is.
    """
    facts = describe_captions(captions, tokenizer=tokenizer)
    said = [_genders(text) for text in tokenize(captions, isolated=True)]
    flat = iter(tokenize([text for texts in references for text in texts], isolated=True))
    seen = [set().union(*(_genders(next(flat)) for _ in texts)) for texts in references]
    total = len(captions)
    return CaptionStats(
        num_captions=total,
        mean_length=facts["mean_length"],
        vocabulary=facts["vocabulary"],
        empty=facts["empty"] / total,
        repetition=facts["repetition"],
        duplicates=facts["duplicates"],
        gendered=sum(map(bool, said)) / total,
        gendered_without_evidence=sum(bool(own - there) for own, there in zip(said, seen, strict=True)) / total,
        english=looks_english(captions),
    )


def _genders(text: str) -> set[str]:
    words = set(text.split())
    return {name for name, listed in (("female", FEMALE), ("male", MALE)) if words & listed}
