"""METEOR 1.5 for English, in Python.

Denkowski and Lavie, "Meteor universal: language specific translation evaluation for any target language", WMT 2014.
A candidate is aligned with each of its references (`meteor_alignment.py`); the counts of the best one are kept, the
score is a formula of these, and the corpus score that formula of their sums.

Needs `pip install "hfcap[meteor]"`: word lists and paraphrases come with pycocoevalcap. The option `meteor="jar"` has
its jar do the alignment, for checking, and needs Java.
"""

import importlib.util
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hfcap.errors import ConfigError

from .corpus import Corpus
from .meteor_alignment import EXACT, STEM, SYNONYM, Match, Sentence, align
from .meteor_jar import NUM_STATISTICS, MeteorUnavailableError, check_java, find_jar, jar_statistics
from .meteor_paraphrases import Paraphrases, load_table
from .meteor_words import WordNet, normalize, read_function_words
from .metric import Inputs, Metric, Options, warn_unless_english

# Parameters of METEOR 1.5 for English: exact, stem, synonym and paraphrase matches weigh this much.
_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.20, 0.60, 0.75


def meteor_statistics(corpus: Corpus) -> np.ndarray:
    """Align each candidate with the reference that suits it best.

    Args:
        corpus: N images.

    Returns:
        (N, 23) float64: length of candidate and reference, function words in each; then for exact, stem, synonym and
        paraphrase matches: content words in candidate and reference, function words in candidate and reference; then
        chunks (0 where all words match in one), matched words in candidate and reference.

    Raises:
        MeteorUnavailableError: pycocoevalcap or snowballstemmer is missing.
    """
    jar = find_jar()
    wordnet, function_words = WordNet(jar), read_function_words(jar)
    captions = [caption for references in corpus.references for caption in references] + corpus.candidates
    words = list(map(normalize, captions))
    paraphrases = Paraphrases(load_table(jar.parent / "data" / "paraphrase-en.gz"), words)
    sentences = [_sentence(*parts) for parts in zip(words, paraphrases.phrases, strict=True)]
    candidates = sentences[-len(corpus) :]
    kin = _find_kin(
        {word for one in candidates for word in one.places}, {word for one in words for word in one}, wordnet
    )
    rows, image = [], np.repeat(np.arange(len(corpus)), [len(references) for references in corpus.references])
    for reference, number in zip(sentences, image.tolist(), strict=False):
        candidate = candidates[number]
        matches, chunks = align(candidate, reference, kin, paraphrases.partners)
        rows.append(_count(candidate.words, reference.words, matches, chunks, function_words))
    statistics = _without_whole_matches(np.array(rows, dtype=np.float64).reshape(-1, NUM_STATISTICS))
    return statistics[_first_best(meteor_from_statistics(statistics), image)]


def _sentence(words: Sequence[str], phrases: Mapping[int, list[tuple[int, int]]]) -> Sentence:
    places: dict[str, list[int]] = {}
    for place, word in enumerate(words):
        places.setdefault(word, []).append(place)
    return Sentence(words, places, phrases)


def _find_kin(
    candidate_words: Iterable[str], vocabulary: Iterable[str], wordnet: WordNet
) -> dict[str, dict[str, tuple[int, ...]]]:
    """For each word of the candidates, the words of the vocabulary that match it, with the kinds of match."""
    stem = _load_stemmer()
    by_stem, by_synset, synsets = defaultdict(list), defaultdict(list), {}
    for word in sorted(vocabulary):
        by_stem[stem(word)].append(word)
        synsets[word] = wordnet.synset_ids(word)
        for one in synsets[word]:
            by_synset[one].append(word)
    kin = {}
    for word in candidate_words:
        found = dict.fromkeys(by_stem[stem(word)], (STEM,))
        for other in {other for one in synsets[word] for other in by_synset[one]}:
            found[other] = (*found.get(other, ()), SYNONYM)
        kin[word] = {**found, word: (EXACT,)}
    return kin


def _load_stemmer():
    try:
        import snowballstemmer
    except ModuleNotFoundError as error:
        raise MeteorUnavailableError(
            "snowballstemmer is missing", option="meteor", fix='pip install "hfcap[meteor]"'
        ) from error
    return snowballstemmer.stemmer("english").stemWord


def _count(
    candidate: Sequence[str],
    reference: Sequence[str],
    matches: list[Match],
    chunks: int,
    function_words: frozenset[str],
) -> list[int]:
    """Give the 23 statistics of one alignment."""
    in_candidate = [word in function_words for word in candidate]
    in_reference = [word in function_words for word in reference]
    counts = [len(candidate), len(reference), sum(in_candidate), sum(in_reference), *[0] * 16, chunks, 0, 0]
    for start, kind, begin, words, length in matches:
        first = 4 + 4 * kind
        function, reference_function = (
            sum(in_candidate[begin : begin + words]),
            sum(in_reference[start : start + length]),
        )
        counts[first] += words - function
        counts[first + 1] += length - reference_function
        counts[first + 2] += function
        counts[first + 3] += reference_function
        counts[21] += words
        counts[22] += length
    return counts


def _first_best(scores: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Give the row of the highest score of each image, the first of equal ones."""
    order = np.lexsort((-np.arange(len(scores)), scores, image))
    return order[np.flatnonzero(np.diff(image[order], append=-1))]


def _without_whole_matches(statistics: np.ndarray) -> np.ndarray:
    """Set the chunks of a candidate equal to its reference to 0: it is not fragmented, and adds nothing to the sum."""
    lengths, chunks, matched = statistics[:, 0:2], statistics[:, 20], statistics[:, 21:23]
    whole = (matched == lengths).all(axis=1) & (chunks == 1)
    statistics[whole, 20] = 0.0
    return statistics


def meteor_from_statistics(statistics: np.ndarray) -> np.ndarray:
    """Give METEOR for rows of statistics: one image, or the sum over the images of a corpus.

    Args:
        statistics: (..., 23) as `meteor_statistics` returns them.

    Returns:
        (...,) float64 in [0, 1].
    """
    lengths, function_words = statistics[..., 0:2], statistics[..., 2:4]
    matches = statistics[..., 4:20].reshape(*statistics.shape[:-1], 4, 2, 2)  # (..., kind, content | function, side)
    chunks, matched = statistics[..., 20], statistics[..., 21:23]
    weighed = _DELTA * matches[..., 0, :] + (1 - _DELTA) * matches[..., 1, :]  # (..., kind, side)
    found = np.einsum("...ks,k->...s", weighed, _WEIGHTS)
    possible = _DELTA * (lengths - function_words) + (1 - _DELTA) * function_words
    ratio = np.divide(found, possible, out=np.zeros_like(found), where=possible > 0)
    precision, recall = ratio[..., 0], ratio[..., 1]
    some = (precision > 0) & (recall > 0)
    precision, recall = np.where(some, precision, 1.0), np.where(some, recall, 1.0)
    f_mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
    total = matched.mean(axis=-1)
    fragmentation = np.divide(chunks, total, out=np.zeros_like(total), where=total > 0)
    penalty = _GAMMA * fragmentation**_BETA
    return np.where(some, f_mean * (1 - penalty), 0.0)


def _statistics(inputs: Inputs) -> np.ndarray:
    warn_unless_english("meteor", inputs.corpus.references)
    if inputs.options.meteor == "jar":
        return _without_whole_matches(jar_statistics(inputs.corpus))
    return meteor_statistics(inputs.corpus)


def _require(options: Options) -> None:
    if options.tokenizer != "ptb":
        raise ConfigError(
            "meteor is for English only", option="tokenizer", got=options.tokenizer, wanted="ptb", fix="remove meteor"
        )
    if options.meteor not in ("python", "jar"):
        raise ConfigError(option="meteor", got=options.meteor, wanted="python or jar")
    if options.meteor == "jar":
        check_java()
    find_jar()
    if options.meteor == "python" and importlib.util.find_spec("snowballstemmer") is None:
        _load_stemmer()


METEOR = Metric(
    key="meteor",
    names={"meteor": "METEOR"},
    statistics=_statistics,
    combine=lambda sums, num_images: meteor_from_statistics(sums)[..., None],
    require=_require,
    record=lambda options: {"meteor_aligner": options.meteor},
)
