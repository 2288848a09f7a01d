"""Styles on request: an encoder-decoder writes captions behind the prompt of their row."""

from contextlib import nullcontext

import datasets
import pytest
import torch
from torch.nn.functional import cross_entropy

from hfcap.generation.caption import caption_stream
from hfcap.generation.decoding import generate
from hfcap.generation.inputs import caption_prompt, keep_caption_prompt
from hfcap.generation.loading import load_captioner
from hfcap.hub import snapshot
from hfcap.hub.onnx_format import OnnxFormat
from hfcap.hub.usage import usage_code
from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.collators import CaptionCollator
from hfcap.training.data_arguments import DataArguments
from hfcap.training.run_rows import tokenizer_texts
from hfcap.training.tokenizer_training import train_tokenizer
from refusals import refused
from tiny.captioners import build_joined
from tiny.training import KeepGradients, make_trainer

STYLES = {"short": "a dog runs", "told": "once upon a time a dog ran home"}


def rows_of_styles(scene_rows, number=4):
    """Each picture in both styles, under a prompt of its own."""
    entries = [
        {
            "image_id": f"{i}-{style}",
            "image": scene_rows[i]["image"],
            "captions": [text, f"{text} again"],
            "prompt": style,
        }
        for i in range(number)
        for style, text in STYLES.items()
    ]
    return datasets.Dataset.from_list(entries)


def build(scene_rows):
    torch.manual_seed(0)
    args = CaptionTrainingArguments(num_beams=1, max_new_tokens=16)
    texts = [*STYLES.values(), *STYLES, *scene_rows[0]["captions"]] * 4
    return build_joined("encoder_decoder", texts, args)


def gradients(scene_rows, tmp_path, packing):
    model, processor = build(scene_rows)
    collator = CaptionCollator(processor, model.config, None, packing)
    keep = KeepGradients()
    trainer = make_trainer(
        model, collator, rows_of_styles(scene_rows), tmp_path / str(packing), max_steps=1, max_grad_norm=1e9,
        per_device_train_batch_size=8, logging_steps=1,
    )  # fmt: skip
    trainer.add_callback(keep)
    trainer.train()
    return trainer.state.log_history[0]["loss"], keep.gradients


def test_a_new_tokenizer_knows_the_words_of_the_prompts(scene_rows):
    rows = rows_of_styles(scene_rows, 24)
    tokenizer = train_tokenizer(tokenizer_texts(DataArguments(data="mine", prompt="Describe it."), rows), 400)
    for prompt in (*STYLES, "Describe it."):
        assert len(tokenizer(prompt)["input_ids"]) == len(prompt.replace(".", " .").split()), prompt


def test_packed_captions_behind_a_prompt_learn_what_single_ones_do(scene_rows, tmp_path):
    packed, single = gradients(scene_rows, tmp_path, True), gradients(scene_rows, tmp_path, False)
    assert packed[0] == pytest.approx(single[0], rel=1e-5)
    for name, gradient in single[1].items():
        torch.testing.assert_close(packed[1][name], gradient, rtol=1e-5, atol=1e-6, msg=name)
    # By hand: the prompt behind the start token, and only the caption is a target.
    model, processor = build(scene_rows)
    collator = CaptionCollator(processor, model.config)
    total, count = 0.0, 0
    for row in rows_of_styles(scene_rows):
        pixel_values = processor.image_processor([row["image"]], return_tensors="pt")["pixel_values"]
        prompt = processor.tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
        for target in collator.targets(row["captions"]):
            ids = torch.tensor([[processor.start_token_id, *prompt, *target[:-1]]])
            with torch.no_grad():
                logits = model.eval()(pixel_values=pixel_values, decoder_input_ids=ids).logits[0, -len(target) :]
            total += cross_entropy(logits, torch.tensor(target), reduction="sum").item()
            count += len(target)
    assert packed[0] == pytest.approx(total / count, rel=1e-5)


def test_each_style_is_written_when_asked_for_also_when_saved(scene_rows, tmp_path):
    model, processor = build(scene_rows)
    rows = rows_of_styles(scene_rows)
    rows = rows.map(lambda row: {"captions": [STYLES[row["prompt"]]]})
    collator = CaptionCollator(processor, model.config)
    make_trainer(model, collator, rows, tmp_path, max_steps=60, learning_rate=1e-2, warmup_steps=5).train()
    keep_caption_prompt(processor, "told")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    pictures = scene_rows.select(range(3)).remove_columns("captions")
    own_model, own_processor = load_captioner(str(tmp_path / "model"))
    assert caption_prompt(own_processor) == "told"
    for num_beams in (1, 3):
        for style, text in STYLES.items():
            options = {"prompt": style, "num_beams": num_beams}
            said = [caption for _, caption in caption_stream(own_model, own_processor, pictures, **options)]
            assert said == [text] * 3
        mixed = [caption for _, caption in sorted(caption_stream(own_model, own_processor, rows, num_beams=num_beams))]
        assert mixed == [STYLES[style] for style in rows["prompt"]]
    images = [row["image"] for row in pictures]
    usage = usage_code(own_model.config.model_type, "told")
    assert snapshot.captions(usage, own_model, own_processor, images, **snapshot.GREEDY) == [STYLES["told"]] * 3
    with refused(option="--format", got="onnx", says="'told'"):
        OnnxFormat(own_model, own_processor, 18)


def test_tokens_behind_a_prompt_are_those_of_stock_generate(scene_rows):
    model, processor = build(scene_rows)
    pictures = [scene_rows[i]["image"] for i in range(3)]
    pixel_values = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
    ids = [processor.start_token_id, *processor.tokenizer("told", add_special_tokens=False)["input_ids"]]
    inputs = {"pixel_values": pixel_values, "decoder_input_ids": torch.tensor([ids] * 3)}
    for settings in ({"num_beams": 3}, {"num_beams": 1}):
        options = {"max_new_tokens": 8, "do_sample": False, **settings}
        assert generate(model.eval(), inputs, **options).tolist() == model.generate(**inputs, **options).tolist()


def test_a_prompt_that_leaves_no_room_for_a_caption_is_one_line(scene_rows):
    model, processor = build(scene_rows)  # 64 positions, captions of up to 16 tokens
    pictures = scene_rows.select([0]).remove_columns("captions")
    for prompt, is_refused in (("told " * 9, False), ("told " * 70, True)):
        with refused(option="max_new_tokens", got=16, says="64 positions") if is_refused else nullcontext():
            list(caption_stream(model, processor, pictures, prompt))
