"""A tiny ONNX export made by hand, without torch: logits by the last token, a table and the mean color of the picture.

Its keys and values are zeros that grow with the tokens: a wrong length or row would raise in `Concat`, or change
logits, as the number of earlier tokens counts for them.
"""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from hfcap.content_hashes import file_sha256

WORDS = ["a", "dog", "'s", "cat", "red", "ball", "runs", "on", "grass", "and", "the", "sits"]
SPECIAL = ["<pad>", "<bos>", "<eos>", "<image>"]
VOCAB = [*SPECIAL, *WORDS]
HEADS, SIZE = 2, 4
IMAGE = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 16, "width": 16},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
DECODING = {
    "num_beams": 3,
    "max_new_tokens": 8,
    "early_stopping": True,
    "eos_token_id": 2,
    "suppress_tokens": [0, 1, 3],
}
# As `hfcap export` writes it for transformers.js.
WEB_CONFIG = {
    "encoder_decoder": {
        "model_type": "vision-encoder-decoder",
        "is_encoder_decoder": True,
        "decoder": {"model_type": "gpt2", "n_layer": 1, "n_head": HEADS, "n_embd": HEADS * SIZE, "vocab_size": 16},
        "decoder_start_token_id": 1,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "transformers.js_config": {"dtype": "fp32"},
    },
    "decoder_only": {
        "model_type": "llava",
        "image_token_index": 3,
        "text_config": {
            "model_type": "llama",
            "num_hidden_layers": 1,
            "num_attention_heads": HEADS,
            "head_dim": SIZE,
            "num_key_value_heads": HEADS,
            "hidden_size": HEADS * SIZE,
            "vocab_size": 16,
        },
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "transformers.js_config": {"dtype": "fp32"},
    },
}
TEMPLATE = (
    "{% for m in messages %}{% for c in m.content %}"
    "{{ '<image>' if c.type == 'image' else ' ' + c.text }}{% endfor %}{% endfor %}"
)


def make_export(folder, layout="encoder_decoder", seed=0):
    """Write an export of a layout; its captions are words in no order."""
    (folder / "onnx").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(len(VOCAB), len(VOCAB))).astype(np.float32) * 2
    np.fill_diagonal(table, -9)  # no word follows itself
    table[:, VOCAB.index("<eos>")] = -3
    table[[VOCAB.index(word) for word in ("ball", "grass", "runs", "red")], VOCAB.index("<eos>")] = 4
    table[[VOCAB.index("dog"), VOCAB.index("ball")], VOCAB.index("'s")] = 5
    of_color = rng.normal(size=(3, len(VOCAB))).astype(np.float32) * 1.5
    if layout == "encoder_decoder":
        graphs = {"encoder_model": _encoder("last_hidden_state"), "decoder_model_merged": _decoder(table, of_color)}
    else:
        embeddings = np.concatenate([np.zeros((len(VOCAB), 3), np.float32), np.eye(len(VOCAB), dtype=np.float32)], 1)
        graphs = {
            "vision_encoder": _encoder("image_features", len(VOCAB)),
            "embed_tokens": _embed(embeddings),
            "decoder_model_merged": _language_model(table, of_color),
        }
    described = {}
    for name, graph in graphs.items():
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model)
        path = folder / "onnx" / f"{name}.onnx"
        onnx.save(model, path)
        described[name] = {"file": f"onnx/{name}.onnx", "bytes": path.stat().st_size, "sha256": file_sha256(path)}
    is_encoder_decoder = layout == "encoder_decoder"
    write(
        folder,
        "hfcap_ondevice",
        {
            "schema_version": 1,
            "model_type": "hfcap_encoder_decoder" if is_encoder_decoder else "hfcap_llava",
            "layout": layout,
            "decoding": DECODING,
            "image_processor": IMAGE,
            "caption_prompt": None if is_encoder_decoder else "the",
            "prompt_ids": [1] if is_encoder_decoder else [3, VOCAB.index("the")],
            "image_token_id": None if is_encoder_decoder else 3,
            "clean_up_tokenization_spaces": False,
            "variants": {"none": described},
        },
    )
    write(folder, "config", WEB_CONFIG[layout])
    write(folder, "preprocessor_config", IMAGE)
    write(folder, "generation_config", DECODING | {"num_beams": 1, "early_stopping": False})
    _write_tokenizer(folder)
    return folder


def write(folder, name, content):
    (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def change(folder, name, **changes):
    """Change keys of a JSON file."""
    write(folder, name, json.loads((folder / f"{name}.json").read_text()) | changes)


def _write_tokenizer(folder):
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(VOCAB)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    write(
        folder,
        "tokenizer_config",
        names
        | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "chat_template": TEMPLATE,
        },
    )


def _value(name, shape, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def _constants(**arrays):
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]


def _encoder(output, zeros=0):
    """Mean color, (B, 1, 3), with zeros behind it."""
    nodes = [
        helper.make_node("ReduceMean", ["pixel_values", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["color"]),
        helper.make_node("Pad", ["color", "pads"], [output]),
    ]
    pads = np.array([0, 0, 0, 0, 0, zeros])
    return helper.make_graph(
        nodes,
        "encoder",
        [_value("pixel_values", ["batch_size", 3, 16, 16])],
        [_value(output, ["batch_size", 1, 3 + zeros])],
        _constants(axes=np.array([2, 3]), one=np.array([1]), pads=pads),
    )


def _embed(embeddings):
    return helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["inputs_embeds"])],
        "embed",
        [_value("input_ids", ["batch_size", "sequence_length"], TensorProto.INT64)],
        [_value("inputs_embeds", ["batch_size", "sequence_length", embeddings.shape[1]])],
        _constants(table=embeddings),
    )


def _cache(hidden):
    """Nodes, inputs and outputs of a layer whose first key value is that of the first three channels of `hidden`."""
    shape = ["batch_size", HEADS, "past_sequence_length", SIZE]
    nodes, inputs, outputs = [], [], []
    nodes += [
        helper.make_node("Slice", [hidden, "zero", "three", "two"], ["colors"]),  # (B, T, 3)
        helper.make_node("Pad", ["colors", "to_size"], ["wide"]),  # (B, T, 4)
        helper.make_node("Unsqueeze", ["wide", "one"], ["head"]),
        helper.make_node("Concat", ["head", "head"], ["new"], axis=1),  # (B, 2, T, 4)
    ]
    for part in ("key", "value"):
        past, present = f"past_key_values.0.{part}", f"present.0.{part}"
        nodes.append(helper.make_node("Concat", [past, "new"], [present], axis=2))
        inputs.append(_value(past, shape))
        outputs.append(_value(present, ["batch_size", HEADS, "total_sequence_length", SIZE]))
    # All earlier tokens count: their sum, (B, 3), is the color of an LLaVA-style prompt's image token.
    nodes += [
        helper.make_node("ReduceSum", ["present.0.key", "sequence"], ["summed"], keepdims=0),  # (B, 2, 4)
        helper.make_node("Slice", ["summed", "zero", "one", "one"], ["first_head"]),
        helper.make_node("Squeeze", ["first_head", "one"], ["of_head"]),
        helper.make_node("Slice", ["of_head", "zero", "three", "one"], ["memory"]),  # (B, 3)
        helper.make_node("Unsqueeze", ["memory", "one"], ["memories"]),
    ]
    constants = _constants(
        zero=np.array([0]),
        one=np.array([1]),
        two=np.array([2]),
        three=np.array([3]),
        sequence=np.array([2]),
        to_size=np.array([0, 0, 0, 0, 0, 1]),
    )
    return nodes, inputs, outputs, constants


def _decoder(table, of_color):
    nodes, inputs, outputs, constants = _cache("embedded")
    colors = np.random.default_rng(1).normal(size=(len(VOCAB), 3)).astype(np.float32) * 0.3
    nodes = [
        helper.make_node("Gather", ["token_colors", "input_ids"], ["embedded"]),
        *nodes,
        helper.make_node("Gather", ["table", "input_ids"], ["by_token"]),
        helper.make_node("Add", ["encoder_hidden_states", "memories"], ["seen"]),
        helper.make_node("MatMul", ["seen", "of_color"], ["by_color"]),
        helper.make_node("Add", ["by_token", "by_color"], ["logits"]),
    ]
    return helper.make_graph(
        nodes,
        "decoder",
        [
            _value("input_ids", ["batch_size", "sequence_length"], TensorProto.INT64),
            _value("encoder_hidden_states", ["batch_size", 1, 3]),
            *inputs,
        ],
        [_value("logits", ["batch_size", "sequence_length", len(VOCAB)]), *outputs],
        [*constants, *_constants(table=table, of_color=of_color, token_colors=colors)],
    )


def _language_model(table, of_color):
    nodes, inputs, outputs, constants = _cache("inputs_embeds")
    nodes = [
        *nodes,
        helper.make_node("Slice", ["inputs_embeds", "three", "end", "two"], ["tokens"]),  # (B, T, V) one-hot
        helper.make_node("MatMul", ["tokens", "table"], ["by_token"]),
        helper.make_node("MatMul", ["memories", "of_color"], ["by_color"]),
        helper.make_node("Add", ["by_token", "by_color"], ["logits"]),
    ]
    width = 3 + len(VOCAB)
    return helper.make_graph(
        nodes,
        "language_model",
        [
            _value("inputs_embeds", ["batch_size", "sequence_length", width]),
            _value("attention_mask", ["batch_size", "total_sequence_length"], TensorProto.INT64),
            _value("position_ids", ["batch_size", "sequence_length"], TensorProto.INT64),
            *inputs,
        ],
        [_value("logits", ["batch_size", "sequence_length", len(VOCAB)]), *outputs],
        [*constants, *_constants(table=table, of_color=of_color, end=np.array([width]))],
    )
