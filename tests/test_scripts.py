"""Scripts without spaces: which letters they have, and what counts as a word."""

import pytest
from tokenizers import Regex, pre_tokenizers

from hfcap.scripts import LETTER, SPACELESS, is_spaceless, num_words


@pytest.mark.parametrize(
    ("text", "words", "spaceless"),
    [
        ("一只狗。", 3, True),
        ("一只 T恤 狗, 2只", 7, True),
        ("コーヒーを飲む", 7, True),
        ("𠀀𠀁", 2, True),  # beyond U+FFFF
        ("เด็กวิ่ง", 5, True),  # three of its signs stand above a letter
        ("བོད་ཡིག", 4, True),
        ("A dog on a 狗 .", 5, False),
        ("كلب يركض", 2, False),
        ("개가 달린다", 2, False),
        ("", 0, False),
        ("2 + 3", 3, False),
    ],
)
def test_words_and_scripts(text, words, spaceless):
    assert num_words(text) == words
    assert is_spaceless([text]) is spaceless


def test_tokenizers_read_the_class_as_re_does():
    text = "".join(map(chr, [*range(0x20, 0xD800, 7), *range(0xE000, 0x10000, 7), *range(0x10000, 0x40000, 97)]))
    split = pre_tokenizers.Split(Regex(LETTER), "removed")
    assert "".join(part for part, _ in split.pre_tokenize_str(text)) == SPACELESS.sub("", text)
