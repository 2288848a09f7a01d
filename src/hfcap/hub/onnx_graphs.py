"""ONNX graphs of captioners: picture encoder, token embeddings, decoder with its cache of keys and values.

The names of graphs, inputs and outputs are those that transformers.js and optimum give them. Every graph takes any
number of pictures, and the decoders any number of new tokens after any number of earlier ones, none included.

What an encoder-decoder attends to never changes while it decodes, so its encoder graph computes the keys and values of
all cross-attention layers once. They leave it side by side as `last_hidden_state` and come to the decoder as
`encoder_hidden_states`: who runs the graphs hands one to the other without looking, as with any export.
"""

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import Cache

from hfcap.errors import ConfigError
from hfcap.models import HfcapEncoderDecoderModel, HfcapLlavaForConditionalGeneration
from hfcap.models.modeling_hfcap_encoder_decoder import CACHE_NAMES

# Operators of this set are what onnxruntime and its WebGPU and WASM builds know; the exporter targets no lower one.
OPSET = 18
PAST, PRESENT = "past_key_values", "present"
# Sizes of the example that is traced. Sizes of 0 and 1 would be taken for constants.
BATCH, TOKENS, EARLIER = 2, 3, 4
BATCH_AXIS = "batch_size"  # transformers.js sizes the empty cache by an axis of this name


@dataclass(frozen=True)
class Graph:
    """A module to export, with one example of its inputs.

    Attributes:
        module: takes `inputs` in order.
        inputs: tensors by name.
        dynamic: for each of `inputs` the names of the axes that are not fixed, by their place.
        outputs: names of what `module` returns.
    """

    module: nn.Module
    inputs: dict[str, torch.Tensor]
    dynamic: list[dict[int, str]]
    outputs: list[str]


def write_graphs(model: PreTrainedModel, image_size: Sequence[int], folder: Path, opset: int = OPSET) -> list[str]:
    """Write the graphs of a captioner as `folder/NAME.onnx`, weights inside.

    Args:
        model: a float32 captioner in `eval()`.
        image_size: height and width of `pixel_values`.
        folder: exists.
        opset: version of the ONNX operators.

    Returns:
        The names, in the order in which the graphs run.

    Raises:
        ConfigError: a part that the exporter of torch cannot trace.
    """
    with quiet():
        graphs = captioner_graphs(model, image_size)
    for name, graph in graphs.items():
        export_graph(graph, folder / f"{name}.onnx", opset)
    return list(graphs)


@torch.no_grad()
def captioner_graphs(model: PreTrainedModel, image_size: Sequence[int]) -> dict[str, Graph]:
    """Return the graphs of a captioner of either family, in hfcap's classes or in the stock ones, by their names."""
    pixel_values = torch.zeros(BATCH, 3, *image_size)
    batch = {0: BATCH_AXIS}
    if model.config.is_encoder_decoder:
        encoder = picture_encoder(model)
        encoded = encoder(pixel_values)
        return {
            "encoder_model": Graph(encoder, {"pixel_values": pixel_values}, [batch], ["last_hidden_state"]),
            "decoder_model_merged": _decoder_graph(_CrossAttentionDecoder(model), {"encoder_hidden_states": encoded}),
        }
    vision, embeddings = picture_encoder(model), _TokenEmbeddings(model)
    tokens = torch.zeros(BATCH, TOKENS, dtype=torch.long)
    text = {0: BATCH_AXIS, 1: "sequence_length"}
    return {
        "vision_encoder": Graph(vision, {"pixel_values": pixel_values}, [batch], ["image_features"]),
        "embed_tokens": Graph(embeddings, {"input_ids": tokens}, [text], ["inputs_embeds"]),
        "decoder_model_merged": _decoder_graph(_LanguageModel(model), {}),
    }


def picture_encoder(model: PreTrainedModel) -> nn.Module:
    """Return what becomes the graph of the encoder: pixels (B, 3, H, W) to what the decoder reads of them."""
    return _CrossAttentionEncoder(model) if model.config.is_encoder_decoder else _VisionEncoder(model)


class _CrossAttentionEncoder(nn.Module):
    """Pixels (B, 3, H, W) to the keys and values of all cross-attention layers, (B, N, 2 * layers * width)."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        states = encode_pictures(self.model, pixel_values)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        # Of the decoder's work on this token nothing is used but the keys and values: the exporter drops the rest.
        token = torch.zeros(states.shape[0], 1, dtype=torch.long)
        _run(self.model.decoder, cache, input_ids=token, encoder_hidden_states=states)
        layers = cache.cross_attention_cache.layers
        both = [state for layer in layers for state in (layer.keys, layer.values)]
        return torch.cat([state.transpose(1, 2).flatten(2) for state in both], dim=-1)  # each (B, N, width)


class _CrossAttentionDecoder(nn.Module):
    """Token ids (B, T) and the output of `_CrossAttentionEncoder` to logits (B, T, V), and the cache."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.decoder = model.decoder
        config = model.decoder.config
        self.num_layers, self.num_heads = config.num_hidden_layers, config.num_attention_heads
        self.width = config.hidden_size

    def forward(self, input_ids: torch.Tensor, encoder_hidden_states: torch.Tensor, past: list) -> tuple:
        states = encoder_hidden_states.unflatten(2, (2 * self.num_layers, self.num_heads, -1))
        states = states.permute(2, 0, 3, 1, 4)  # (2 * layers, B, heads, N, head size)
        cross = DynamicCache()
        for layer in range(self.num_layers):
            cross.update(states[2 * layer], states[2 * layer + 1], layer)
        cache = EncoderDecoderCache(_cache_of(past), cross)
        cache.is_updated = dict.fromkeys(range(self.num_layers), True)
        # That there is something to attend to is all that the layers still ask of it.
        attended = encoder_hidden_states[..., : self.width]
        outputs = _run(self.decoder, cache, input_ids=input_ids, encoder_hidden_states=attended)
        return outputs.logits, *_tensors_of(cache.self_attention_cache)

    def example(self) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.zeros(BATCH, TOKENS, dtype=torch.long)}

    def cache_shapes(self) -> list[tuple[int, int]]:
        """Heads and head size of each layer."""
        return [(self.num_heads, self.width // self.num_heads)] * self.num_layers


class _VisionEncoder(nn.Module):
    """Pixels (B, 3, H, W) to what stands in the place of the image tokens, (B, image tokens, width)."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if isinstance(self.model, HfcapLlavaForConditionalGeneration):
            return self.model.get_image_features(pixel_values).pooler_output
        # Not `get_image_features` of the stock class, which gives a list of pictures and so fixes their number.
        config, inner = self.model.config, self.model.model
        outputs = inner.vision_tower(pixel_values, output_hidden_states=True)
        layers, drops_first = config.vision_feature_layer, config.vision_feature_select_strategy == "default"
        chosen = [outputs.hidden_states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
        features = torch.cat([states[:, 1:] if drops_first else states for states in chosen], dim=-1)
        return inner.multi_modal_projector(features)


class _TokenEmbeddings(nn.Module):
    """Token ids (B, T) to their embeddings (B, T, width)."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.embeddings = model.get_input_embeddings()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.embeddings(input_ids)


class _LanguageModel(nn.Module):
    """Embeddings (B, T, width) to logits (B, T, V), and the cache."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.language_model, self.head = model.model.language_model, model.get_output_embeddings()
        self.embeddings = [model.get_input_embeddings()]  # in a list: no part of this graph

    def forward(
        self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, past: list
    ) -> tuple:
        cache = _cache_of(past)
        given = {"inputs_embeds": inputs_embeds, "attention_mask": attention_mask, "position_ids": position_ids}
        outputs = _run(self.language_model, cache, **given)
        return self.head(outputs.last_hidden_state), *_tensors_of(cache)

    def example(self) -> dict[str, torch.Tensor]:
        return {
            "inputs_embeds": self.embeddings[0](torch.zeros(BATCH, TOKENS, dtype=torch.long)),
            "attention_mask": torch.ones(BATCH, EARLIER + TOKENS, dtype=torch.long),
            "position_ids": torch.arange(EARLIER, EARLIER + TOKENS).expand(BATCH, -1),
        }

    def cache_shapes(self) -> list[tuple[int, int]]:
        """Heads and head size of each layer, as a run shows them."""
        cache = DynamicCache()
        _run(self.language_model, cache, inputs_embeds=self.example()["inputs_embeds"])
        return [(layer.keys.shape[1], layer.keys.shape[3]) for layer in cache.layers]


# Axes of the decoders' inputs.
_AXES = {
    "input_ids": {0: BATCH_AXIS, 1: "sequence_length"},
    "inputs_embeds": {0: BATCH_AXIS, 1: "sequence_length"},
    "position_ids": {0: BATCH_AXIS, 1: "sequence_length"},
    "attention_mask": {0: BATCH_AXIS, 1: "total_sequence_length"},
    "encoder_hidden_states": {0: BATCH_AXIS},
}
_PAST_AXES = {0: BATCH_AXIS, 2: "past_sequence_length"}


def _decoder_graph(decoder: _CrossAttentionDecoder | _LanguageModel, encoded: dict[str, torch.Tensor]) -> Graph:
    inputs = decoder.example() | encoded
    dynamic = [_AXES[name] for name in inputs]
    names = []
    for layer, (heads, size) in enumerate(decoder.cache_shapes()):
        for part in ("key", "value"):
            names.append(f"{PAST}.{layer}.{part}")
            inputs[names[-1]] = torch.zeros(BATCH, heads, EARLIER, size)
            dynamic.append(_PAST_AXES)
    return Graph(decoder, inputs, dynamic, ["logits", *(name.replace(PAST, PRESENT) for name in names)])


def encode_pictures(model: PreTrainedModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """Return what the decoder of an encoder-decoder attends to, (B, N, width), of pixels (B, 3, H, W)."""
    if isinstance(model, HfcapEncoderDecoderModel):
        return model.get_encoder_outputs(pixel_values).last_hidden_state
    states = model.encoder(pixel_values).last_hidden_state
    return model.enc_to_dec_proj(states) if hasattr(model, "enc_to_dec_proj") else states


def _run(decoder: nn.Module, cache: Cache, **inputs: torch.Tensor) -> Any:
    parameters = inspect.signature(decoder.forward).parameters
    name = next(name for name in reversed(CACHE_NAMES) if name in parameters)
    return decoder(**inputs, use_cache=True, return_dict=True, **{name: cache})


def _cache_of(past: Sequence[torch.Tensor]) -> DynamicCache:
    """A cache of keys and values, which take turns in `past`."""
    cache = DynamicCache()
    for layer in range(len(past) // 2):
        cache.update(past[2 * layer], past[2 * layer + 1], layer)
    return cache


def _tensors_of(cache: DynamicCache) -> Iterator[torch.Tensor]:
    for layer in cache.layers:
        yield from (layer.keys, layer.values)


def export_graph(graph: Graph, path: Path, opset: int) -> None:
    """Trace a graph and write it, weights inside.

    Raises:
        ConfigError: the exporter of torch cannot trace it.
    """
    names = list(graph.inputs)
    # The module takes the keys and values as one list.
    fixed = [name for name in names if not name.startswith(PAST)]
    args: list[Any] = [graph.inputs[name] for name in fixed]
    shapes: list[Any] = list(graph.dynamic[: len(fixed)])
    if len(fixed) < len(names):
        args.append([graph.inputs[name] for name in names[len(fixed) :]])
        shapes.append(graph.dynamic[len(fixed) :])
    try:
        with torch.no_grad(), quiet():
            program = torch.onnx.export(
                graph.module.eval(),
                tuple(args),
                dynamo=True,
                opset_version=opset,
                external_data=False,
                input_names=names,
                output_names=graph.outputs,
                dynamic_shapes=tuple(shapes),
                verbose=False,
            )
            program.save(path)
            _strip(path)
    except torch.onnx.errors.OnnxExporterError as error:
        reason = next((line for line in str(error.__cause__ or error).splitlines() if line.strip()), "")
        raise ConfigError(
            f"torch {torch.__version__} cannot export the {path.stem} of this captioner: {reason}",
            option="--format",
            got="onnx",
            fix="export it with --format auto",
        ) from error


def _strip(path: Path) -> None:
    """Remove what the exporter notes of each node, such as stacks of Python calls with paths of this machine."""
    import onnx

    model = onnx.load(path)
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:]
    onnx.save(model, path)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what libraries say of their own work: rewritten names of axes, operators of libraries not installed."""
    # Off altogether, not only below a level of one logger: the tracer writes its steps in as much detail as anybody
    # listens to, which takes most of the time under pytest.
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
