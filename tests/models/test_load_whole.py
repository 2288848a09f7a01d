"""Parts of captioners from checkpoints that are whole, lack weights, or have more than is used."""

import logging

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageClassification

from hfcap.applications.tagging import load_tagger
from hfcap.metrics.clip_score import ClipScorer
from hfcap.models import load_vision_encoder
from hfcap.models.pretrained import load_whole
from hfcap.training.merge import load_base
from refusals import refused

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VIT = SIZES | {"image_size": 8, "patch_size": 4}
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 20, "n_positions": 8}


def change_names(folder, change):
    tensors = load_file(folder / "model.safetensors")
    changed = {change(name): tensor for name, tensor in tensors.items() if change(name)}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})


def test_an_encoder_with_other_names_is_not_left_random(tmp_path):
    transformers.ResNetModel(
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    ).save_pretrained(tmp_path)
    load_vision_encoder(str(tmp_path))
    change_names(tmp_path, lambda name: f"backbone.{name}")
    with refused(
        option="encoder", got=str(tmp_path), says=("do not fit its config.json: ", "first ", "is in no file")
    ):
        load_vision_encoder(str(tmp_path))


def test_a_classifier_gives_its_encoder_without_a_table_of_its_head(tmp_path, caplog):
    transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)).save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO):
        load_vision_encoder(str(tmp_path))  # with a pooler that the checkpoint lacks
    assert [record.getMessage() for record in caplog.records if "weights" in record.getMessage()] == [
        f"encoder {tmp_path}: weights that are not used: 2, first classifier.bias"
    ]


def test_a_pooler_that_nobody_reads_is_the_same_each_time(tmp_path):
    """Or another seed would compute the feature cache again, and two exports of one checkpoint would differ."""
    transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)).save_pretrained(tmp_path)
    poolers, after = [], []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        poolers.append(load_vision_encoder(str(tmp_path)).pooler.dense.weight)
        after.append(torch.rand(1))
    assert torch.equal(poolers[0], poolers[1])
    assert after[0] == after[2] != after[1]  # the chance of the caller goes its own way


def test_taggers_clip_models_and_bases_are_not_left_random(tmp_path):
    tagger, clip, base = tmp_path / "tagger", tmp_path / "clip", tmp_path / "base"
    transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)).save_pretrained(tagger)
    text = SIZES | {"vocab_size": 20}
    transformers.CLIPModel(transformers.CLIPConfig(vision_config=VIT, text_config=text)).save_pretrained(clip)
    transformers.CLIPImageProcessorPil().save_pretrained(clip)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VIT), text_config=transformers.LlamaConfig(**text)
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(base)
    change_names(tagger, lambda name: None if name.startswith("classifier") else name)
    change_names(clip, lambda name: None if name.startswith("text_projection") else name)
    change_names(base, lambda name: None if "projector.linear_1" in name else name)
    with refused(option="tagger", got=str(tagger), says=("classifier.bias", "is in no file")):
        load_tagger(str(tagger), None, None, torch.device("cpu"))
    with refused(option="clip_model", got=str(clip), says=("text_projection.weight", "is in no file")):
        ClipScorer.from_pretrained(clip)
    with refused(option="base of the adapter", got=str(base), says=("projector.linear_1.bias", "is in no file")):
        load_base(str(base))


def test_a_pooler_that_is_read_is_not_left_random(tmp_path):
    """BEiT classifies its pooler's output, and a two-tower model of ViT and BERT compares those of both."""
    tagger, clip = tmp_path / "tagger", tmp_path / "clip"
    transformers.BeitForImageClassification(transformers.BeitConfig(**VIT)).save_pretrained(tagger)
    text = transformers.BertConfig(**SIZES, vocab_size=20)
    both = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(transformers.ViTConfig(**VIT), text)
    transformers.VisionTextDualEncoderModel(both).save_pretrained(clip)
    for folder in (tagger, clip):
        change_names(folder, lambda name: None if ".pooler." in name else name)
    with refused(option="tagger", got=str(tagger), says=("beit.pooler.layernorm.bias", "is in no file")):
        load_whole(AutoModelForImageClassification, "tagger", str(tagger))
    with refused(option="clip_model", got=str(clip), says=("pooler.dense.bias", "is in no file")):
        load_whole(AutoModel, "clip_model", str(clip))
    load_vision_encoder(str(tagger))


def test_a_decoder_may_lack_the_cross_attention_that_it_gets_and_no_other_weight(tmp_path):
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)).save_pretrained(tmp_path)
    config = transformers.GPT2Config(**GPT2, add_cross_attention=True, is_decoder=True)
    options = {"may_lack": "cross_?att|encoder_attn", "config": config}
    decoder = load_whole(AutoModelForCausalLM, "decoder", str(tmp_path), **options)
    assert any("crossattention" in name for name, _ in decoder.named_parameters())
    change_names(tmp_path, lambda name: None if "attn.c_proj.weight" in name else name)
    with refused(option="decoder", says=("do not fit its config.json: 1", "h.0.attn.c_proj.weight", "is in no file")):
        load_whole(AutoModelForCausalLM, "decoder", str(tmp_path), **options)


@pytest.mark.parametrize("name", ["BertLMHeadModel", "RobertaForCausalLM", "OPTForCausalLM"])
def test_decoders_of_other_kinds_are_whole(name, tmp_path):
    config = getattr(transformers, name).config_class(
        **SIZES, vocab_size=20, is_decoder=True, ffn_dim=16, word_embed_proj_dim=16, max_position_embeddings=8
    )
    getattr(transformers, name)(config).save_pretrained(tmp_path)
    load_whole(AutoModelForCausalLM, "decoder", str(tmp_path))
