"""The Penn Treebank tokenizer of COCO evaluation: CoreNLP 3.4.1 as pycocoevalcap calls it, without Java.

pycocoevalcap runs `PTBTokenizer -preserveLines -lowerCase` and drops a list of punctuation tokens. The list is written
in upper case while the tokens come in lower case, so ``-lrb-`` and its kin stay in; that is kept as it is.

Most words of a caption mean the same wherever they stand, so they are tokenized once and remembered. The full set of
rules (`_ptb_lexer.py`) runs on the rest, and on whole captions where a rule may reach over a space.
"""

import re
from collections.abc import Sequence

from ._ptb_lexer import lex

PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
_LINE_BREAK = re.compile("[\n\r\x0b\x0c\u2028\u2029]")
# White space for `str.split` that does not end an address.
_WIDE_SPACE = "[\x1c-\x1f\x85\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]"
_HAS_WIDE_SPACE = re.compile(_WIDE_SPACE)
# Words that may belong together with what follows: numbers, tags, and full stops that look ahead.
_LOOKS_AHEAD = r"(?i:(?:(?:^|[^a-z]|\ds)(?:[a-z]|art|ca|figs?|nos?|op|pp|prop)|[\u0092\u2019;][a-z]{0,3})\.)"
_MAY_NEED_CONTEXT = re.compile(rf"[\d<]|{_LOOKS_AHEAD}$")
# Captions in which they may: two numbers side by side ("1 1/2", a phone number), a tag, such a full stop.
_NEEDS_CONTEXT = re.compile(rf"\d\)?\s+\+*\d|<|{_LOOKS_AHEAD}(?:\s|$)|{_WIDE_SPACE}")
_MAX_REMEMBERED = 500_000


class _NeedsContextError(Exception):
    """A word whose tokens may depend on its neighbours; look at the whole caption."""


class _Words(dict):
    """Words already tokenized: word -> its tokens joined by spaces ("" for punctuation)."""

    def __missing__(self, word: str) -> str:
        if len(self) >= _MAX_REMEMBERED:
            self.clear()
        self[word] = tokens = _without_punctuation(lex(word, " "))
        return tokens


class _FreeWords(_Words):
    """Those that mean the same everywhere."""

    def __missing__(self, word: str) -> str:
        if _MAY_NEED_CONTEXT.search(word):
            raise _NeedsContextError
        return super().__missing__(word)


_words = _Words()
_free_words = _FreeWords()


def _without_punctuation(tokens: list[str]) -> str:
    return " ".join(token for token in tokens if token not in PUNCTUATION)


def _tokenize_in_context(captions: Sequence[str], index: int, isolated: bool) -> str:
    if not _NEEDS_CONTEXT.search(captions[index]):
        return " ".join(filter(None, map(_words.__getitem__, captions[index].split())))
    text = _LINE_BREAK.sub(" ", captions[index])
    following = "\n"
    if not isolated:
        rest = (caption for caption in captions[index + 1 :] if caption.strip())
        next_line = next(rest, None)
        is_last = index + 1 == len(captions)
        following = "" if is_last else "\n" if next_line is None else f"\n{next_line}\n"
    # As the original does: a token may end in a no-break space, which goes where the token is the last of the line.
    return _without_punctuation(" ".join(lex(text, following)).rstrip().split(" "))


def tokenize(captions: Sequence[str], isolated: bool = False) -> list[str]:
    """Tokenize captions as pycocoevalcap does: Penn Treebank tokens in lower case, punctuation removed.

    Args:
        captions: any strings; a line break inside one counts as a space.
        isolated: the original sees the captions as lines of one file and, after a single letter with a full stop
            ("5th Ave S."), looks at the first word of the next line to decide whether the stop belongs to the letter.
            The default does the same, so that corpus values agree; True makes each caption independent of the others.

    Returns:
        One string a caption: tokens joined by single spaces, "" where nothing is left.

    Source: Stanford CoreNLP 3.4.1 (PTBTokenizer) and pycocoevalcap 1.2 (tokenizer/ptbtokenizer.py).
    """
    lookup = _free_words.__getitem__
    tokenized = []
    for index, caption in enumerate(captions):
        try:
            if not caption.isprintable() and _HAS_WIDE_SPACE.search(caption):
                raise _NeedsContextError
            tokenized.append(" ".join(filter(None, map(lookup, caption.split()))))
        except _NeedsContextError:
            tokenized.append(_tokenize_in_context(captions, index, isolated))
    return tokenized


def forget_words() -> None:
    """Empty the memory of tokenized words, for measurements that must start cold."""
    _words.clear()
    _free_words.clear()
