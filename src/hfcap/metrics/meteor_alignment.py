"""METEOR's alignment of a candidate with a reference: words by exact match, stem, synonym and paraphrase.

Banerjee and Lavie, "METEOR: an automatic metric for MT evaluation with improved correlation with human judgments",
2005; Denkowski and Lavie, "Meteor 1.3", 2011, and "Meteor universal", 2014. Each word is in one match at most; as many
words as possible are matched, in as few chunks as possible. What the papers leave open follows what the jar of
pycocoevalcap answers to sentences of our own (docs/decisions.md); none of its code was looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

EXACT, STEM, SYNONYM, PARAPHRASE = range(4)
BEAM_SIZE = 40
_WEIGHTS = (1.0, 0.6, 0.8, 0.6)

# A match: start in the reference, kind, start in the candidate, words in the candidate, words in the reference.
Match = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Sentence:
    """One caption, ready to be aligned.

    Attributes:
        words: its words.
        places: positions of each different word.
        phrases: positions and lengths of its phrases that have paraphrases.
    """

    words: Sequence[str]
    places: Mapping[str, list[int]]
    phrases: Mapping[int, list[tuple[int, int]]]


def align(
    candidate: Sentence,
    reference: Sentence,
    kin: Mapping[str, Mapping[str, tuple[int, ...]]],
    partners: Mapping[int, Mapping[int, int]],
) -> tuple[list[Match], int]:
    """Align a candidate with a reference.

    Args:
        candidate: the candidate.
        reference: the reference.
        kin: for each word of the candidate, the words that match it, with the kinds of match.
        partners: for each phrase, its paraphrases, with how often the table has the pair.

    Returns:
        The matches in the order of the reference, and the number of chunks.
    """
    matches = _find_matches(candidate, reference, kin, partners)
    if not matches:
        return [], 0
    certain, rest = _split(matches, len(candidate.words), len(reference.words))
    if rest:
        certain += _search(certain, rest)
        certain.sort()
    chunks, end = 0, (-1, -1)
    for start, _, begin, words, length in certain:
        chunks += (begin, start) != end
        end = (begin + words, start + length)
    return certain, chunks


def _find_matches(candidate: Sentence, reference: Sentence, kin: Mapping, partners: Mapping) -> list[Match]:
    matches = []
    for word, places in candidate.places.items():
        related = kin[word]
        for other in related.keys() & reference.places.keys():
            for kind in related[other]:
                matches += [(start, kind, begin, 1, 1) for begin in places for start in reference.places[other]]
    for phrase, places in candidate.phrases.items():
        related = partners[phrase]
        for other in related.keys() & reference.phrases.keys():
            found = [
                (start, PARAPHRASE, begin, words, length)
                for begin, words in places
                for start, length in reference.phrases[other]
            ]
            matches += found * related[other]
    matches.sort()
    return matches


def _split(matches: list[Match], candidate_words: int, reference_words: int) -> tuple[list[Match], list[Match]]:
    """Separate the matches that no other one competes with; the same match by two kinds competes with itself."""
    in_candidate, in_reference = [0] * candidate_words, [0] * reference_words
    for start, _, begin, words, length in matches:
        for place in range(begin, begin + words):
            in_candidate[place] += 1
        for place in range(start, start + length):
            in_reference[place] += 1
    certain, rest = [], []
    for match in matches:
        start, _, begin, words, length = match
        alone = max(in_candidate[begin : begin + words]) == 1 and max(in_reference[start : start + length]) == 1
        (certain if alone else rest).append(match)
    return certain, rest


def _search(certain: list[Match], rest: list[Match]) -> list[Match]:
    """Choose among competing matches by beam search, from left to right in the reference.

    Paths are ranked by words matched, then chunks, then number of matches; of equal ones the earlier made leads, which
    takes the first match rather than none. Words count by weight, rounded down for each side of a match, so that a
    single word matched by other than itself counts for nothing: it is taken only where it breaks no chunk.
    """
    ends = {(begin + words, start + length) for start, _, begin, words, length in certain}
    begins = {(begin, start) for start, _, begin, _, _ in certain}
    # A path: rank, words of the candidate in use (bits), end in the candidate, end in the reference, matches.
    paths: list[tuple] = [(0, 0, -1, -1, ())]
    position = 0
    while position < len(rest):
        here = rest[position][0]
        options = []
        while position < len(rest) and rest[position][0] == here:
            _, kind, begin, words, length = match = rest[position]
            gain = int(_WEIGHTS[kind] * words + 1e-9) + int(_WEIGHTS[kind] * length + 1e-9)
            fresh = 1 - ((begin, here) in ends) - ((begin + words, here + length) in begins)
            rank = (gain << 24) - (fresh << 12) + 1
            options.append((rank, (1 << words) - 1 << begin, begin, begin + words, here + length, match))
            position += 1
        extended = []
        for path in paths:
            rank, used, candidate_end, reference_end, chosen = path
            if reference_end <= here:
                for gain, bits, begin, begin_end, start_end, match in options:
                    if not used & bits:
                        follows = 4096 if candidate_end == begin and reference_end == here else 0
                        extended.append((rank + gain + follows, used | bits, begin_end, start_end, (*chosen, match)))
            extended.append(path)
        extended.sort(key=itemgetter(0), reverse=True)  # stable, so equal paths stay in order
        paths = extended[:BEAM_SIZE]
    return list(paths[0][4])
