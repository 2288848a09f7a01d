import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from hfcap.models import HfcapEncoderDecoderProcessor, HfcapLlavaProcessor, add_image_token
from hfcap.models.processing_hfcap_llava import CAPTION_CHAT_TEMPLATE
from tiny.parts import (
    EOS,
    IMAGE_ID,
    IMAGE_SIZE,
    VOCABULARY,
    build_encoder_decoder,
    build_image_processor,
    build_llava,
    build_tokenizer,
)

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
PROMPT = [{"type": "image"}, {"type": "text", "text": "word1 word2"}]


def build_llava_processor(**kwargs):
    return HfcapLlavaProcessor(build_image_processor(), build_tokenizer(), image_seq_length=16, **kwargs)


def test_placeholders_become_as_many_image_tokens_as_the_model_has():
    model = build_llava("vit").eval()
    processor = build_llava_processor()
    batch = processor(images=[PICTURE, PICTURE], text=["<image>\nword1", "<image>\nword1 word2"], padding=True)
    batch = batch.convert_to_tensors("pt")
    assert batch["pixel_values"].shape == (2, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert (batch["input_ids"] == IMAGE_ID).sum(1).tolist() == [16, 16] == [model.config.image_seq_length] * 2
    with torch.no_grad():
        assert model(**batch).logits.shape[:2] == batch["input_ids"].shape


def test_a_processor_of_another_model_gives_both_numbers():
    batch = HfcapLlavaProcessor(build_image_processor(), build_tokenizer(), image_seq_length=9)(
        images=PICTURE, text="<image>", return_tensors="pt"
    )
    with pytest.raises(ValueError, match=r"9 image tokens .* 16 image features.*image_seq_length \(16\)"):
        build_llava("vit")(**batch)


@pytest.mark.parametrize("length", [None, 0, "16"])
def test_image_seq_length_must_be_stated(length):
    with pytest.raises(ValueError, match=f"image_seq_length is {length}.*model.config.image_seq_length"):
        HfcapLlavaProcessor(build_image_processor(), build_tokenizer(), image_seq_length=length)


def test_image_token_must_be_in_the_tokenizer():
    tokenizer = build_tokenizer()
    with pytest.raises(ValueError, match=r"48 tokens, '<picture>' is not among them.*add_image_token"):
        HfcapLlavaProcessor(build_image_processor(), tokenizer, image_seq_length=16, image_token="<picture>")
    assert add_image_token(tokenizer, "<picture>") == len(VOCABULARY) == len(tokenizer) - 1
    assert add_image_token(tokenizer, "<picture>") == len(VOCABULARY)
    assert add_image_token(tokenizer) == IMAGE_ID
    processor = HfcapLlavaProcessor(build_image_processor(), tokenizer, image_seq_length=2, image_token="<picture>")
    text = processor.apply_chat_template([{"role": "user", "content": PROMPT}])
    assert text == "<picture>\nword1 word2\n"
    token_ids = processor(images=PICTURE, text=text)["input_ids"][0]
    assert token_ids.count(len(VOCABULARY)) == 2


def test_llava_processor_survives_saving(tmp_path):
    processor = build_llava_processor()
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "processor_config.json").exists()
    assert not (tmp_path / "preprocessor_config.json").exists()
    reloaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(reloaded) is HfcapLlavaProcessor
    assert (reloaded.image_token, reloaded.image_token_id, reloaded.image_seq_length) == ("<image>", IMAGE_ID, 16)
    assert reloaded.chat_template == processor.chat_template == CAPTION_CHAT_TEMPLATE
    expected = processor(images=PICTURE, text="<image>\nword1", return_tensors="pt")
    batch = reloaded(images=PICTURE, text="<image>\nword1", return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values"} == set(expected)
    assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_own_chat_template_survives_saving(tmp_path):
    build_llava_processor(chat_template="{{ messages[0].content }}!").save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).chat_template == "{{ messages[0].content }}!"


def test_caption_template_whole():
    processor = build_llava_processor()
    conversation = [
        {"role": "system", "content": "word9"},
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": [{"type": "text", "text": "word3"}]},
        {"role": "user", "content": "word4"},
    ]
    assert processor.apply_chat_template(conversation) == "word9\n<image>\nword1 word2\nword3</s>word4\n"
    only_a_picture = [{"role": "user", "content": [{"type": "image"}]}]
    assert processor.apply_chat_template(only_a_picture, add_generation_prompt=True) == "<image>\n"
    with pytest.raises(Exception, match="role is 'tool', it must be system, user or assistant"):
        processor.apply_chat_template([{"role": "tool", "content": "word1"}])


def test_generation_prompt_is_how_the_training_text_begins():
    processor = build_llava_processor()
    user = {"role": "user", "content": PROMPT}
    caption = {"role": "assistant", "content": "word3 word4"}
    prompt = processor.apply_chat_template([user], add_generation_prompt=True)
    whole = processor.apply_chat_template([user, caption])
    assert whole == prompt + "word3 word4</s>"


def test_chat_template_tokenizes_pictures_and_marks_the_caption():
    processor = build_llava_processor()
    content = [{"type": "image", "image": PICTURE}, {"type": "text", "text": "word1"}]
    conversation = [{"role": "user", "content": content}, {"role": "assistant", "content": "word3 word4"}]
    batch = processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
    )
    words = [VOCABULARY[index] for index in batch["input_ids"][0]]
    assert words == ["<s>", *["<image>"] * 16, "\n", "word1", "\n", "word3", "word4", "</s>"]
    assert batch["assistant_masks"].tolist() == [[0] * (len(words) - 3) + [1] * 3]
    assert batch["pixel_values"].shape == (1, 3, IMAGE_SIZE, IMAGE_SIZE)


def test_text_only_chat_template_of_the_tokenizer_is_kept_and_takes_pictures():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (
        "{%- for message in messages -%}[{{ message.role }}]{{ message.content }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}[assistant]{%- endif -%}"
    )
    processor = HfcapLlavaProcessor(build_image_processor(), tokenizer, image_seq_length=16)
    conversation = [{"role": "system", "content": "word9"}, {"role": "user", "content": PROMPT}]
    text = processor.apply_chat_template(conversation, add_generation_prompt=True)
    assert text == "[system]word9[user]<image>\nword1 word2[assistant]"


def test_image_tokens_are_counted_for_serving():
    counted = build_llava_processor()._get_num_multimodal_tokens(image_sizes=[[10, 20], [30, 40]])
    assert counted["num_image_tokens"] == [16, 16]


def test_encoder_decoder_processor():
    processor = HfcapEncoderDecoderProcessor(build_image_processor(), build_tokenizer())
    pictures = processor(images=[PICTURE], return_tensors="pt")
    assert set(pictures) == {"pixel_values"}
    texts = processor(text=["word1 word2"])
    assert texts["input_ids"] == [[1, 7, 8]]
    assert processor(text=["word1 word2"], max_length=2, truncation=True)["input_ids"] == [[1, 7]]
    both = processor(images=[PICTURE, PICTURE], text=["word1 word2", "word3"], return_tensors="pt")
    assert set(both) == {"pixel_values", "labels"}
    assert both["labels"].tolist() == [[7, 8, EOS], [9, EOS, -100]]
    cut = processor(images=PICTURE, text="word1 word2 word3", max_length=3, return_tensors="pt")
    assert cut["labels"].tolist() == [[7, 8, 9]]  # a cut caption has no end
    assert processor.start_token_id == 1
    loss = build_encoder_decoder("vit")(**both).loss
    assert torch.isfinite(loss)
    assert processor.batch_decode([[1, 7, 8, EOS]], skip_special_tokens=True) == ["word1 word2"]
    with pytest.raises(ValueError, match="1 captions for 2 pictures"):
        processor(images=[PICTURE, PICTURE], text="word1", return_tensors="pt")


def test_bert_style_tokens_end_with_sep():
    tokenizer = build_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    processor = HfcapEncoderDecoderProcessor(build_image_processor(), tokenizer)
    with pytest.raises(ValueError, match="neither EOS nor SEP"):
        processor.get_labels("word1")
    tokenizer.cls_token, tokenizer.sep_token = "<s>", "</s>"
    assert processor.get_labels("word1").tolist() == [[7, EOS]]
    assert processor.start_token_id == 1


def test_encoder_decoder_processor_survives_saving(tmp_path):
    processor = HfcapEncoderDecoderProcessor(build_image_processor(), build_tokenizer())
    processor.save_pretrained(tmp_path)
    reloaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(reloaded) is HfcapEncoderDecoderProcessor
    expected = processor(images=PICTURE, text="word1", return_tensors="pt")
    batch = reloaded(images=PICTURE, text="word1", return_tensors="pt")
    assert all(torch.equal(batch[name], expected[name]) for name in expected)
