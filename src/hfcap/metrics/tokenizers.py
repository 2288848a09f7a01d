"""Tokenizers of the caption metrics: `ptb` of COCO evaluation, and sacrebleu's `intl`, `zh` and `char`.

`ptb` is for English. It splits at white space, so a caption in Chinese, Japanese or Thai is one token, and
BLEU and CIDEr find nothing to compare. The other three give the tokens of sacrebleu 2.6, case and punctuation
included; the rules follow the public descriptions of NIST's mteval scripts and what sacrebleu was seen to do with each
character.

Source: Post, "A call for clarity in reporting BLEU scores", WMT 2018.
"""

import re
import warnings
from collections.abc import Callable, Sequence
from functools import cache

from hfcap.scripts import LETTER

from .ptb_tokenizer import tokenize

TOKENIZERS = ("ptb", "intl", "zh", "char")
_MOST_UNSPLIT = 0.2  # share of captions that a tokenizer cannot split, from which on figures say little
_TOGETHER = re.compile(f"{LETTER}{LETTER}")
_NO_WORD = 20  # letters without a space that are no word
# Characters that `zh` sets apart: ASCII symbols, and blocks of Chinese characters and their punctuation. sacrebleu
# takes in all from U+200B to U+2A6D, and leaves Chinese characters beyond U+FFFF together; so does this.
_ZH_SYMBOL = re.compile(
    "([!-&(-+/:-@\\[-`{-~\u200b-\u2027\u202a-\u202e\u2030-\u205e\u2060-\u2a6d\u2e80-\u2fdf\u2ff0-\u2fff\u3001-\u303f"
    "\u3100-\u312f\u31a0-\u31ef\u3200-\u4db5\u4e00-\u9fbb\uf900-\ufa2d\ufa30-\ufa6a\ufa70-\ufad9\ufe10-\ufe1f"
    "\ufe30-\ufe4f\uff00-\uffef])"
)
# Full stops and commas stay inside numbers; a hyphen goes apart after a digit. From mteval-v13a.
_ZH_RULES = (
    (_ZH_SYMBOL, r" \1 "),
    (re.compile("([^0-9])([.,])"), r"\1 \2 "),
    (re.compile("([.,])([^0-9])"), r" \1 \2"),
    (re.compile("([0-9])(-)"), r"\1 \2 "),
)
_has_warned = False


def split_captions(captions: Sequence[str], tokenizer: str = "ptb", isolated: bool = False) -> list[str]:
    """Tokenize captions for the metrics.

    Args:
        captions: any strings.
        tokenizer: one of `TOKENIZERS`. "ptb": English, lower case without punctuation, as pycocoevalcap; "intl": any
            language that puts spaces between words, splits off punctuation and symbols; "zh": Chinese, character by
            character, with the rest as words; "char": any language, character by character.
        isolated: for "ptb", see `ptb_tokenizer.tokenize`; the others look at one caption at a time anyway.

    Returns:
        One string per caption: tokens joined by single spaces, "" where nothing is left.

    Raises:
        ValueError: unknown tokenizer.

    Warns:
        UserWarning: once per process, where a fifth of the captions or more stay unsplit.
    """
    if tokenizer == "ptb":
        tokens = tokenize(captions, isolated)
    else:
        split = _splitter(tokenizer)
        # White space of any kind ends a token, as where sacrebleu counts n-grams.
        tokens = [" ".join(split(caption).split()) for caption in captions]
    _warn_if_unsplit(captions, tokens, tokenizer)
    return tokens


def check_tokenizer(tokenizer: str) -> None:
    """Raise ValueError for a tokenizer that is not there."""
    if tokenizer not in TOKENIZERS:
        raise ValueError(f"tokenizer is {tokenizer!r}; wanted one of {', '.join(TOKENIZERS)}")


def _splitter(tokenizer: str) -> Callable[[str], str]:
    check_tokenizer(tokenizer)
    if tokenizer == "char":
        return " ".join
    # As sacrebleu does: a full stop at the beginning of a caption is not one behind a space.
    strip, rules = (str.strip, _ZH_RULES) if tokenizer == "zh" else (str.rstrip, _intl_rules())

    def split(caption: str) -> str:
        caption = strip(caption)
        for pattern, replacement in rules:
            caption = pattern.sub(replacement, caption)
        return caption

    return split


@cache
def _intl_rules() -> tuple:
    """Punctuation goes apart except between digits, symbols everywhere: mteval-v14, --international-tokenization."""
    import regex  # `re` knows no Unicode categories; slow to import

    rules = ((r"(\P{N})(\p{P})", r"\1 \2 "), (r"(\p{P})(\P{N})", r" \1 \2"), (r"(\p{S})", r" \1 "))
    return tuple((regex.compile(pattern), replacement) for pattern, replacement in rules)


def _warn_if_unsplit(captions: Sequence[str], tokens: Sequence[str], tokenizer: str) -> None:
    global _has_warned
    if _has_warned or not captions:
        return
    unsplit = sum(map(_is_unsplit, tokens))
    if unsplit >= _MOST_UNSPLIT * len(captions):
        _has_warned = True
        zh = "" if tokenizer == "zh" else "zh (Chinese) or "
        warnings.warn(
            f"{unsplit / len(captions):.0%} of {len(captions)} captions have no spaces between words, and phrases are "
            f"one token for the tokenizer {tokenizer}: BLEU-4 and CIDEr are near 0 whatever they say. "
            f"Choose --tokenizer {zh}char (Japanese, Thai and the like); in Python tokenizer=.",
            UserWarning,
            stacklevel=4,
        )


def _is_unsplit(tokens: str) -> bool:
    """Whether letters of scripts without spaces stay together, or all of a caption in another script."""
    return bool(_TOGETHER.search(tokens)) or (" " not in tokens and len(tokens) >= _NO_WORD and not tokens.isascii())
