"""Tokenizers trained on captions: scripts with spaces and without."""

import pytest

from hfcap.training.tokenizer_training import train_tokenizer


def pieces(tokenizer, text):
    return [tokenizer.decode(one) for one in tokenizer(text)["input_ids"]]


@pytest.mark.parametrize("plain_text", [False, True])
def test_scripts_without_spaces_are_read_letter_by_letter(plain_text):
    captions = ["一个男人骑着自行车", "หมาวิ่ง", "犬がいる", "a dog runs", "犬𠀀𠀁"]
    tokenizer = train_tokenizer(captions * 20, 600, plain_text)
    assert pieces(tokenizer, "一个男人") == [" 一", "个", "男", "人"]
    assert pieces(tokenizer, "a dog 男人 runs") == [" a", " dog", " ", "男", "人", " runs"]
    assert pieces(tokenizer, "犬がいる")[1:] == ["が", "い", "る"]
    assert pieces(tokenizer, "犬𠀀𠀁")[1:] == ["𠀀", "𠀁"]
    for text in ("一个男人骑着自行车", "a dog 男人 runs", "龘 is unknown", "หมาวิ่ง"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == f" {text}"


def test_plain_text_keeps_the_joiners_within_words():
    text = "مردی می\u200cرود"
    tokenizer = train_tokenizer([text] * 5, 600, plain_text=True)
    assert tokenizer.decode(tokenizer(f"{text}. 👨\u200d👩")["input_ids"]) == f" {text}"


def test_words_of_a_mixed_corpus_have_the_tokens_of_an_english_one():
    english = ["a dog runs", "the dog's ball", "two dogs run"] * 5
    mixed = train_tokenizer([*english, *["狗"] * 3], 400)
    alone = train_tokenizer(english, 400)
    for text in ("a dog", " a dog", "\na dog", "", "dog's\n\nball  x", "<bos> dog"):
        assert pieces(mixed, text) == pieces(alone, text), text
