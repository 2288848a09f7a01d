"""Captions of a requested length: the token that is learned, saved, and asked for."""

import datasets
import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig

from hfcap.cli import main
from hfcap.data.reading import loads_of
from hfcap.data.scenes import load_scenes
from hfcap.generation.caption import caption_stream
from hfcap.generation.loading import load_captioner
from hfcap.generation.requested_length import LengthRequest, WordRange, ends_in_sign, is_in_word, words_of_tokens
from hfcap.generation.word_probabilities import scored_caption_stream
from hfcap.length_tokens import LONGEST, add_length_tokens, count_words, length_token, length_token_ids
from hfcap.samples import word_log_probabilities
from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments
from hfcap.training.collators import CaptionCollator
from hfcap.training.data_arguments import DataArguments
from hfcap.training.settings_checks import check_settings
from hfcap.training.tokenizer_training import train_tokenizer
from refusals import refused
from tiny.captioners import build_joined
from tiny.training import make_trainer

SAYINGS = ["a dog", "one man runs fast", "two women play cards at home"]
PROMPTS = {"llava": "Describe.", "encoder_decoder": None}


def test_words_are_what_stands_between_spaces():
    assert [count_words(text) for text in ("A dog runs .", "it's a well-known place", "", "- 3 dogs")] == [3, 4, 0, 2]


def test_a_target_begins_with_the_token_of_its_length(build_tiny):
    model, processor = build_tiny("llava")
    plain = CaptionCollator(processor, model.config, "Describe.").targets(SAYINGS)
    add_length_tokens(model, processor.tokenizer)
    collator = CaptionCollator(processor, model.config, "Describe.")
    ids = length_token_ids(processor.tokenizer)
    assert [own[0] for own in collator.targets(SAYINGS)] == [ids[2], ids[4], ids[6]]
    assert [own[1:] for own in collator.targets(SAYINGS)] == plain
    assert collator.targets(["word " * 99])[0][0] == ids[LONGEST]
    # In a caption it is text.
    assert ids[3] not in collator.targets([f"a {length_token(3)} dog"])[0][1:]
    num_tokens = len(processor.tokenizer)
    add_length_tokens(model, processor.tokenizer)
    assert len(processor.tokenizer) == num_tokens == model.get_input_embeddings().num_embeddings


@pytest.mark.parametrize("family", PROMPTS)
def test_captions_have_the_length_asked_for_also_when_saved(family, tmp_path):
    torch.manual_seed(0)
    args = CaptionTrainingArguments(num_beams=2, max_new_tokens=32)
    model, processor = build_joined(family, SAYINGS * 4, args)
    add_length_tokens(model, processor.tokenizer)
    picture = load_scenes("train", 1, "caption", 32)[0]
    rows = datasets.Dataset.from_list([{"image_id": "1", "image": picture["image"], "captions": SAYINGS}])
    collator = CaptionCollator(processor, model.config, PROMPTS[family])
    make_trainer(model, collator, rows, tmp_path, max_steps=100, learning_rate=1e-2, warmup_steps=5).train()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    for own_model, own_processor in ((model, processor), load_captioner(str(tmp_path / "model"))):
        options = {"prompt": PROMPTS[family], "batch_size": 2}
        said = [
            next(iter(caption_stream(own_model, own_processor, rows, length=length, **options)))[1]
            for length in (2, 4, 6)
        ]
        assert said == SAYINGS
        scored = next(iter(scored_caption_stream(own_model, own_processor, loads_of(rows), PROMPTS[family], length=4)))
        words = word_log_probabilities(own_processor.tokenizer, scored[1])
        assert [word for word, _ in words] == SAYINGS[1].split()
        # The length is no word, and its probability is none of the caption's.
        assert len(scored[1].tokens) == len(collator.targets([SAYINGS[1]])[0]) - 1
        free = next(iter(caption_stream(own_model, own_processor, rows, **options)))[1]
        assert free in SAYINGS  # and no token shows
    assert length_token_ids(AutoTokenizer.from_pretrained(tmp_path / "model")) == length_token_ids(processor.tokenizer)
    for length in (0, LONGEST):
        with refused(option="length", got=length, wanted=f"1 to {LONGEST - 1} words"):
            list(caption_stream(model, processor, rows, length=length, **options))


@pytest.mark.parametrize("family", PROMPTS)
def test_any_captioner_keeps_to_a_length(family, tmp_path):
    torch.manual_seed(0)
    prompt = PROMPTS[family]
    model, processor = build_joined(family, SAYINGS * 4, CaptionTrainingArguments(num_beams=1, max_new_tokens=48))
    pictures = load_scenes("train", 2, "caption", 32)["image"]
    said = [SAYINGS[0], SAYINGS[2]]
    rows = [{"image_id": text, "image": image, "captions": [text]} for text, image in zip(said, pictures, strict=True)]
    rows = datasets.Dataset.from_list(rows)
    collator = CaptionCollator(processor, model.config, prompt)
    make_trainer(model, collator, rows, tmp_path, max_steps=100, learning_rate=1e-2, warmup_steps=5).train()

    def captions(**options):
        return [text for _, text in sorted(caption_stream(model, processor, rows, prompt, **options))]

    assert captions() == said
    for num_beams in (1, 3):
        for length in (1, 2, 5, 7, 9):
            found = captions(length=length, num_beams=num_beams)
            assert all(abs(count_words(text) - length) <= 1 and text for text in found), found
            # One that has the length already stays as it is.
            if num_beams == 1:
                near = [abs(count_words(text) - length) <= 1 for text in said]
                assert [text == own for text, own in zip(found, said, strict=True)] == near
    assert said[1].startswith(captions(length=3)[1])  # and a longer one begins as it did


def test_a_token_begins_a_word_after_a_space_or_behind_signs():
    tokenizer = train_tokenizer(SAYINGS * 4, 350)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    in_word, between = (dict(zip(tokens, words.tolist(), strict=True)) for words in words_of_tokens(tokenizer))
    assert [in_word[token] for token in ("Ġa", "Ġcar", "Ġ", "a", ".")] == [1, 1, 0, 0, 0]
    assert [between[token] for token in ("Ġa", "Ġcar", "Ġ", "a", ".")] == [1, 1, 0, 1, 0]
    texts = ("a dog", "a dog.", "a dog ", 'a "', "", "a dog's")
    assert [is_in_word(text) for text in texts] == [True, True, False, False, False, True]


def test_signs_are_no_way_to_a_length(build_tiny):
    _, processor = build_tiny("llava")
    tokenizer = processor.tokenizer
    end = tokenizer.eos_token_id
    (word_range,) = LengthRequest(tokenizer, 6, GenerationConfig(eos_token_id=end)).processors(0)
    (sign,) = tokenizer(".", add_special_tokens=False)["input_ids"][-1:]
    scores = torch.zeros(2, len(tokenizer))
    said = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a dog", "a.")]
    rows = torch.tensor([ids[-2:] for ids in said])
    free = word_range(rows, scores).isfinite()
    assert free[:, end].tolist() == [False, False] and free[:, sign].tolist() == [True, False]
    assert free[1].any()
    said = ("", "a dog", "नमस्ते", "a \ufffd", "a dog.", "a dog ")
    assert [ends_in_sign(text) for text in said] == [False] * 4 + [True] * 2


def test_a_length_is_refused_for_captions_without_spaces():
    tokenizer = train_tokenizer(["一个男人骑着自行车", "a dog runs on grass"] * 9, 400)
    request = LengthRequest(tokenizer, 6, GenerationConfig(eos_token_id=tokenizer.eos_token_id))
    english, chinese = tokenizer(["a dog runs on grass", "一个男人骑着自行车"], add_special_tokens=False)["input_ids"]
    request.check_script([english, [tokenizer.eos_token_id]])
    request.check_script([english, chinese])  # most letters have spaces between words
    with refused(option="length", got=6, says="writes a script without: '一个男人骑着自行车'", fix="remove it"):
        request.check_script([chinese])


def test_no_token_brings_a_word_too_many():
    tokenizer = train_tokenizer(SAYINGS * 4, 350)
    tokenizer.add_tokens([" on the"])  # as tokenizers have that do not split at spaces
    request = LengthRequest(tokenizer, 3, GenerationConfig(eos_token_id=tokenizer.eos_token_id))  # up to four words

    def may_follow(token, text):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        return bool(WordRange(request, 0)(ids, torch.zeros(1, len(tokenizer))).isfinite()[0, token])

    two_words = tokenizer.convert_tokens_to_ids(" on the")
    said = ("one man", "one man runs", "one man runs ", "one man runs fast")
    assert [may_follow(two_words, text) for text in said] == [True, False, False, False]
    first_byte, second_byte = tokenizer("и")["input_ids"][-2:]  # a letter once both are there
    said = ("one man runs ", "one man runs fast", "one man runs fast ", "one man runs fast. ")
    assert [may_follow(first_byte, text) for text in said] == [True, True, False, False]
    ids = torch.tensor([[*tokenizer("one man runs ")["input_ids"], first_byte]])
    assert WordRange(request, 0)(ids, torch.zeros(1, len(tokenizer)))[0, second_byte] == 0


@pytest.mark.parametrize("learned", [False, True])
def test_a_length_that_needs_more_tokens_than_a_caption_may_have_is_one_line(learned):
    model, processor = build_joined("encoder_decoder", SAYINGS * 4)
    if learned:
        add_length_tokens(model, processor.tokenizer)
    needed = 9 + 1 + learned  # one word less than asked for, the end, and the token of the length
    settings = GenerationConfig(eos_token_id=processor.end_token_id, max_new_tokens=needed)
    LengthRequest(processor.tokenizer, 10, settings)
    settings.max_new_tokens -= 1
    with refused(option="max_new_tokens", got=needed - 1, wanted=f"{needed} or more", says="10 words"):
        LengthRequest(processor.tokenizer, 10, settings)


@pytest.mark.parametrize("length", ["0", "30", "-1", "five", "2.5", "٣٠"])
def test_a_length_out_of_range_is_refused_before_a_model_is_loaded(length, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["caption", "photo.jpg", "--model", "no/model", "--length", length])
    assert f"--length: {length!r}; wanted a whole number of words, 1 to 29" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model_settings", "settings"),
    [
        ({"strategy": "projector"}, {}),
        ({"strategy": "lora", "model": "outputs/run"}, {}),
        ({}, {"tokenizer": "char"}),
    ],
)
def test_tokens_that_would_not_be_learned_are_refused(model_settings, settings, tmp_path):
    args = CaptionTrainingArguments(output_dir=str(tmp_path), length_tokens=True, **settings)
    with refused(option="length_tokens", got=True):
        check_settings(DataArguments(), ModelArguments(**model_settings), args, "hfcap_llava")
