"""Settings files of an ONNX export, in the form that transformers.js reads, and `hfcap_ondevice.json`.

transformers.js knows no model type of hfcap's and reads an export as one of the two stock classes, of which it needs
little: the sizes of the cache, the ids of some tokens, the processor. The rest is in the graphs.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL
from tokenizers.models import BPE
from transformers import PreTrainedModel, ProcessorMixin

from hfcap import provenance
from hfcap.atomic_files import write_json
from hfcap.content_hashes import file_sha256
from hfcap.generation.inputs import BLANK, caption_prompt, encode_prefix
from hfcap.generation.settings import image_token_ids
from hfcap.hub.older_versions import save_processor
from hfcap.models.model_types import spec_of

ONDEVICE_JSON = "hfcap_ondevice.json"
GRAPHS = "onnx"  # folder of the graphs
SCHEMA_VERSION = 1
# Of `hfcap export --quantize`: the end of a graph's file name, and what transformers.js calls it (`dtype`).
SUFFIXES = {"none": "", "float16": "_fp16", "int8": "_quantized"}
DTYPES = {"none": "fp32", "float16": "fp16", "int8": "q8"}
LLAVA_PROCESSOR = "LlavaProcessor"
# More than any picture's side in pixels: LLaVA's processor in transformers.js then counts no tokens by patches.
NO_PATCHES = 100_000


def write_settings(model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> None:
    """Write the files that transformers.js reads beside the graphs, the tokenizer's included."""
    _write_tokenizer(processor, folder)
    write_json(folder / "config.json", web_config(model))
    write_json(folder / "generation_config.json", web_decoding(model))
    images = image_settings(processor)
    if not model.config.is_encoder_decoder:
        write_json(folder / "processor_config.json", _llava_processor(model, processor))
        images["processor_class"] = LLAVA_PROCESSOR  # transformers.js looks for it here
    write_json(folder / "preprocessor_config.json", images)


def image_settings(processor: ProcessorMixin) -> dict[str, Any]:
    """What `preprocessor_config.json` says; of the image processor's name the library that it works with is left out.

    transformers 5 writes it into `processor_config.json`, where transformers.js does not look.
    """
    settings = _plain(processor.image_processor.to_dict())
    name = type(processor.image_processor).__name__
    settings["image_processor_type"] = name.removesuffix("Pil").removesuffix("Fast")
    return settings


def web_config(model: PreTrainedModel) -> dict[str, Any]:
    """What `config.json` says: a stock model type with the sizes of the cache of this captioner's decoder.

    Any decoder is described as GPT-2 (encoder-decoders) or Llama: of those two transformers.js takes the sizes by name
    and nothing else, while of BERT as a decoder it expects other inputs.
    """
    config = model.config
    text = config.get_text_config(decoder=True)
    num_heads, width = text.num_attention_heads, text.hidden_size
    ids = {name: getattr(model.generation_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if config.is_encoder_decoder:
        sizes = {"n_layer": text.num_hidden_layers, "n_head": num_heads, "n_embd": width}
        return {
            "model_type": "vision-encoder-decoder",
            "architectures": ["VisionEncoderDecoderModel"],
            "is_encoder_decoder": True,
            "decoder": {"model_type": "gpt2", **sizes, "vocab_size": text.vocab_size},
            "decoder_start_token_id": model.generation_config.decoder_start_token_id,
            **ids,
        }
    (image_token_id,) = image_token_ids(config)
    return {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "image_token_index": image_token_id,
        "image_seq_length": config.image_seq_length,
        "text_config": {
            "model_type": "llama",
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": num_heads,
            "num_key_value_heads": getattr(text, "num_key_value_heads", None) or num_heads,
            "head_dim": getattr(text, "head_dim", None) or width // num_heads,
            "hidden_size": width,
            "vocab_size": text.vocab_size,
        },
        **ids,
    }


def web_decoding(model: PreTrainedModel) -> dict[str, Any]:
    """What `generation_config.json` says: the captioner's settings, greedy.

    With more beams transformers.js gives the greedy caption too, and says nothing.
    """
    settings = shipped_decoding(model)
    return {name: value for name, value in settings.items() if name not in _OF_BEAMS} | {"num_beams": 1}


_OF_BEAMS = ("num_beams", "length_penalty", "early_stopping")


def shipped_decoding(model: PreTrainedModel) -> dict[str, Any]:
    """The decoding settings that hfcap captions with, token ids included; what is not set is left out."""
    settings = json.loads(model.generation_config.to_json_string(use_diff=False, ignore_metadata=True))
    return {name: value for name, value in settings.items() if value is not None and not name.startswith("_")}


def ondevice_settings(model: PreTrainedModel, processor: ProcessorMixin, opset: int) -> dict[str, Any]:
    """What `hfcap_ondevice.json` says, for captioning as hfcap does; `docs/ondevice.md` lists its fields."""
    prompt = caption_prompt(processor)
    prefix = encode_prefix(processor, model.config, {"image": BLANK}, prompt)
    own = image_token_ids(model.config)
    return {
        "schema_version": SCHEMA_VERSION,
        "model_type": model.config.model_type,
        "layout": spec_of(model.config).layout,
        "opset": opset,
        "decoding": shipped_decoding(model),
        "image_processor": image_settings(processor),
        "caption_prompt": prompt,
        "prompt_ids": prefix.input_ids,
        "image_token_id": own[0] if own else None,
        "image_seq_length": prefix.input_ids.count(own[0]) if own else None,
        "clean_up_tokenization_spaces": cleans_up(processor),
        "versions": provenance.library_versions() | {"pillow": PIL.__version__},
    }


def cleans_up(processor: ProcessorMixin) -> bool:
    """Whether hfcap's captions have the spaces before punctuation removed when tokens become text."""
    tokenizer = processor.tokenizer
    if not tokenizer.clean_up_tokenization_spaces:
        return False
    is_bpe = isinstance(tokenizer.backend_tokenizer.model, BPE)
    return not is_bpe or tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output


def _write_tokenizer(processor: ProcessorMixin, folder: Path) -> None:
    save_processor(processor, folder)
    (folder / "processor_config.json").unlink(missing_ok=True)  # of transformers 5: the image processor inside
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    # JavaScript takes a missing one for true, which changes captions: "man 's" becomes "man's".
    settings["clean_up_tokenization_spaces"] = cleans_up(processor)
    if prompt := caption_prompt(processor):
        settings["caption_prompt"] = prompt
    if processor.chat_template is not None:
        settings["chat_template"] = processor.chat_template
        (folder / "chat_template.jinja").unlink(missing_ok=True)  # one place for it: JavaScript reads this one
    write_json(path, settings)


def _llava_processor(model: PreTrainedModel, processor: ProcessorMixin) -> dict[str, Any]:
    return {
        "processor_class": LLAVA_PROCESSOR,
        "image_token": processor.image_token,
        "patch_size": NO_PATCHES,
        "num_additional_image_tokens": model.config.image_seq_length,
        "vision_feature_select_strategy": "full",
    }


def recommend(folder: Path, variant: str) -> None:
    """Let transformers.js load this variant where its user says nothing, on every device."""
    path = folder / "config.json"
    settings: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**settings, "transformers.js_config": {"dtype": DTYPES[variant]}})


def list_files(folder: Path, graphs: list[str], variants: list[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """File, size and SHA-256 of each graph of each variant, as `hfcap_ondevice.json` and `verification.json` say."""
    return {
        variant: {name: _described(folder, f"{GRAPHS}/{name}{SUFFIXES[variant]}.onnx") for name in graphs}
        for variant in variants
    }


def _described(folder: Path, file: str) -> dict[str, Any]:
    return {"file": file, "bytes": (folder / file).stat().st_size, "sha256": file_sha256(folder / file)}


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
