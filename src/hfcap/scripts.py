"""Scripts that put no space between words, where a word is taken to be a letter, and joiners within words.

Without spaces are Thai, Lao, Tibetan, Burmese, Khmer, kana and Chinese characters. Korean has spaces.
"""

import re
from collections.abc import Iterable

# A class of letters for `re` and for the regular expressions of `tokenizers`, which share this notation alone. Vowel
# signs are in it, the signs of punctuation of Chinese and Japanese are not.
LETTER = (
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9ff\uaa60-\uaa7f"  # Thai, Lao, Tibetan; Burmese; Khmer
    "\u3005-\u3007\u3041-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana, and the marks that repeat a letter
    "\u2e80-\u2fdf\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"  # Chinese characters
)
SPACELESS = re.compile(LETTER)
JOINERS = "\u200c\u200d"  # they join letters, or keep them apart, within words of Persian, Sinhala and others


def is_spaceless(texts: Iterable[str]) -> bool:
    """Whether more than half of the letters of texts are of scripts without spaces."""
    letters = [letter for text in texts for letter in text if letter.isalpha()]
    return 2 * sum(map(bool, map(SPACELESS.match, letters))) > len(letters)


def num_words(text: str) -> int:
    """Count what stands between spaces, and of scripts without spaces the letters."""
    if not SPACELESS.search(text):
        return len(text.split())
    others = [part for part in SPACELESS.sub(" ", text).split() if any(map(str.isalnum, part))]
    return len(others) + sum(map(str.isalpha, SPACELESS.findall(text)))
