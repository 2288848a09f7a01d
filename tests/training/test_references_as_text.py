"""Captions and prompts of people are text, and what is cut of long ones is said."""

import json
import logging

import pytest
import torch
from PIL import Image

from hfcap.cli import main
from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.caption_stream import CaptionStream
from hfcap.generation.caption import caption_rows
from hfcap.generation.inputs import caption_prompt, encode_prefix, keep_caption_prompt
from hfcap.plain_text import encode_captions, special_texts, split_special
from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.collators import CaptionCollator
from hfcap.training.dry_run import describe_run
from hfcap.training.reference_lengths import follow_references, measure_references
from hfcap.training.strategies import apply_strategy
from tiny.native import PROMPT, build_native
from tiny.training import STEPS_ALONE, make_trainer

LEFT_BEHIND = "a <eos> red <pad> circle <bos> on <image> a dark </s> [SEP] ground"


def words(number):
    return " ".join(["circle"] * number)


def with_captions(rows, *captions):
    """As many of the rows as there are captions, with one caption each."""
    chosen = [{**rows[i], "captions": [caption]} for i, caption in enumerate(captions)]
    return rows.from_list(chosen, features=rows.features)


@pytest.mark.parametrize("family", ["llava", "encoder_decoder", "blip", "git", "paligemma", "idefics3", "blip-2"])
def test_special_tokens_in_captions_are_text(build_tiny, scene_rows, family):
    if family in ("llava", "encoder_decoder"):
        model, processor = build_tiny(family)
    else:
        model, processor = build_native(family, [c for captions in scene_rows["captions"] for c in captions])
    collator = CaptionCollator(processor, model.config, max_caption_tokens=1000)
    target = collator.targets([LEFT_BEHIND, "a red circle"])
    special = {*processor.tokenizer.all_special_ids, getattr(processor, "image_token_id", None)}
    assert special.isdisjoint(target[0][:-1])
    assert processor.tokenizer.decode(target[0][:-1]).strip() == LEFT_BEHIND
    # Other captions are tokenized as ever.
    assert target[1][:-1] == processor.tokenizer("a red circle", add_special_tokens=False)["input_ids"]


def test_an_image_token_that_is_not_marked_as_special_is_text(build_tiny):
    _, processor = build_tiny("llava")
    processor.tokenizer.add_tokens(["<photo>"])  # as LLaVA 1.5 has its "<image>"
    processor.image_token, processor.image_token_id = "<photo>", processor.tokenizer.convert_tokens_to_ids("<photo>")
    (ids,) = encode_captions(processor, ["a <photo> of"])
    assert processor.image_token_id not in ids
    assert processor.tokenizer.decode(ids).strip() == "a < photo> of"


@pytest.mark.parametrize("model_type", ["llava", "idefics3", "paligemma", "blip", "git", "blip-2"])
def test_special_tokens_in_prompts_are_text(model_type, scene_rows):
    captions = [c for captions in scene_rows["captions"] for c in captions] + [PROMPT] * 9
    model, processor = build_native(model_type, captions)
    row, prompt = dict(scene_rows[0]), "<image> describe <eos> the picture"
    plain = encode_prefix(processor, model.config, row, "describe the picture")
    prefix = encode_prefix(processor, model.config, row, prompt)
    special = {*processor.tokenizer.all_special_ids, getattr(processor, "image_token_id", None)}
    assert [i for i in prefix.input_ids if i in special] == [i for i in plain.input_ids if i in special]
    # What is kept for whoever captions is asked as it was trained.
    keep_caption_prompt(processor, prompt)
    assert encode_prefix(processor, model.config, row, caption_prompt(processor)).input_ids == prefix.input_ids
    assert caption_prompt(processor).replace("< ", "<") == prompt
    model.generation_config.max_new_tokens = 3
    assert len(caption_rows(model, processor, [{**row, "prompt": prompt}])) == 1


def test_splitting_leaves_other_text_alone(build_tiny):
    _, processor = build_tiny("llava")
    special = special_texts(processor)
    assert split_special("a < b <eos><eos> >", special) == "a < b < eos>< eos> >"
    assert split_special("<<eos>eos>", special) == "<< eos>eos>"
    assert split_special("plain", special) == "plain"


def test_a_training_with_such_captions_and_prompts_ends_well(build_tiny, scene_rows, tmp_path):
    model, processor = build_tiny("llava")
    rows = with_captions(scene_rows, LEFT_BEHIND, LEFT_BEHIND, "a circle", "two circles")
    collator = CaptionCollator(processor, model.config, "<image> caption <eos>")
    trainer = make_trainer(model, collator, rows, tmp_path, max_steps=1, per_device_train_batch_size=4)
    trainer.train()


def test_data_check_counts_special_tokens(tmp_path, build_tiny, capsys):
    lines = []
    for number, (caption, prompt) in enumerate([("a <eos> b", "p"), ("plain", "<image>\nwhat?"), ("a < b > c", "p")]):
        Image.effect_noise((40, 40), 50 + number).convert("RGB").save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "captions": [caption], "prompt": prompt}))
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    main(["data", "check", str(tmp_path), "--output", str(tmp_path / "out")])
    record = json.loads((tmp_path / "out" / "check.json").read_text())
    texts = [one["text"] for one in record["findings"]["special_text"]["examples"]]
    assert texts == ["<eos> in the caption: a <eos> b", "<image> in the prompt: <image>\nwhat?"]
    assert "captions or prompts with the text of a special token: 2" in capsys.readouterr().out
    # With a processor its own tokens count.
    _, processor = build_tiny("llava")
    processor.tokenizer.add_special_tokens({"additional_special_tokens": ["< b >"]})
    processor.save_pretrained(tmp_path / "processor")
    main(["data", "check", str(tmp_path), "--processor", str(tmp_path / "processor")])
    assert "the text of a special token: 3" in capsys.readouterr().out


@pytest.mark.parametrize("family", ["llava", "encoder_decoder"])
def test_a_cut_caption_does_not_teach_an_end(build_tiny, family):
    model, processor = build_tiny(family)
    whole = CaptionCollator(processor, model.config, max_caption_tokens=100).targets([words(9)])[0]
    end, length = whole[-1], len(whole)
    for limit in (length, length - 1, 4):
        (target,) = CaptionCollator(processor, model.config, max_caption_tokens=limit).targets([words(9)])
        assert target == whole[:limit]
        assert (target[-1] == end) == (limit == length)


def test_the_share_that_is_cut_is_said_with_the_value_that_cuts_none(build_tiny, scene_rows, tmp_path, caplog):
    model, processor = build_tiny("llava")
    rows = with_captions(scene_rows, *[words(2)] * 15, words(30))
    data, collator = CaptionDataset(rows), CaptionCollator(processor, model.config, "caption", max_caption_tokens=20)
    longest = len(collator.whole_targets([words(30)])[0])
    lengths = measure_references(data, collator)
    assert (lengths.number, lengths.cut, lengths.longest) == (16, 1, longest) and longest > 20
    stream = CaptionStream(rows.to_iterable_dataset())
    assert measure_references(stream, collator).cut == 1
    args = CaptionTrainingArguments(output_dir=str(tmp_path), **STEPS_ALONE)
    printed = describe_run(make_trainer(model, collator, rows, tmp_path, per_device_train_batch_size=4))
    assert "1 of 16 (6.2%) have more than max_caption_tokens=20" in printed
    assert f"max_caption_tokens {longest} would cut none" in printed
    with caplog.at_level(logging.INFO, "hfcap"):
        follow_references(model, collator, data, args)
    assert [r.levelname for r in caplog.records if "(6.2%)" in r.getMessage()] == ["WARNING"]
    caplog.clear()
    collator.max_caption_tokens = longest
    with caplog.at_level(logging.INFO, "hfcap"):
        follow_references(model, collator, data, args)
    assert "none of 16 is cut" in caplog.records[0].getMessage() and caplog.records[0].levelname == "INFO"


def test_max_new_tokens_follows_the_references(build_tiny, scene_rows, tmp_path, caplog):
    model, processor = build_tiny("llava")
    rows = with_captions(scene_rows, words(2), words(60))
    data, collator = CaptionDataset(rows), CaptionCollator(processor, model.config, "caption", max_caption_tokens=500)
    needed = len(collator.whole_targets([words(60)])[0])
    args = CaptionTrainingArguments(output_dir=str(tmp_path), **STEPS_ALONE)
    model.generation_config.max_new_tokens = 40
    follow_references(model, collator, data, args)
    assert model.generation_config.max_new_tokens == needed > 40
    collator.max_caption_tokens = 50  # no longer than what is learned
    model.generation_config.max_new_tokens = 40
    follow_references(model, collator, data, args)
    assert model.generation_config.max_new_tokens == 50
    # What the run states stays, and short references lower nothing.
    model.generation_config.max_new_tokens = args.max_new_tokens = 45
    follow_references(model, collator, data, args)
    assert model.generation_config.max_new_tokens == 45
    assert "give --max_new_tokens 50" in caplog.text
    args.max_new_tokens = None
    follow_references(model, collator, CaptionDataset(with_captions(scene_rows, words(2))), args)
    assert model.generation_config.max_new_tokens == 45
    adapted = apply_strategy(model, "lora")
    follow_references(adapted, collator, data, args)
    assert model.generation_config.max_new_tokens == 45
    assert "in the base's generation_config.json" in caplog.text


def test_data_check_says_which_share_is_cut(tmp_path, build_tiny, capsys):
    _, processor = build_tiny("llava")
    processor.save_pretrained(tmp_path / "processor")
    captions = [words(2), words(3), words(2), words(30)]
    for number, caption in enumerate(captions):
        Image.effect_noise((40, 40), 50 + number).convert("RGB").save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(caption)
    longest = len(encode_captions(processor, [words(30)])[0]) + 1
    main(["data", "check", str(tmp_path), "--processor", str(tmp_path / "processor"), "--max_caption_tokens", "20"])
    assert (
        f"25.0% of all; training cuts them, and they do not teach where a caption ends; max_caption_tokens {longest}"
        in (capsys.readouterr().out)
    )


def test_the_encoder_decoder_processor_reads_captions_as_text(build_tiny):
    _, processor = build_tiny("encoder_decoder")
    labels = processor.get_labels(["a <eos> b"])[0].tolist()
    assert labels.count(processor.end_token_id) == 1 and labels[-1] == processor.end_token_id
    cut = processor.get_labels([words(9)], max_length=4)[0]
    assert torch.equal(cut, processor.get_labels([words(9)])[0][:4])
