"""Quantized variants of ONNX graphs: float16 weights, int8 weights, and int8 arithmetic for decoders.

What only stores its weights narrower computes in float32: a CNN in dynamic int8 gives other captions and is slower. A
language model's matrix products are faster in int8 and take it well.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hfcap.hub.onnx_graphs import quiet

# Smaller tensors (norms, biases) stay as they are: nothing is gained.
SMALLEST = 1024
DECODER = "decoder_model_merged"
INT8_MAX = 127
# Operators that sum over the first axis of their second input: a scale per column, not per row.
_BY_COLUMN = ("MatMul",)

# New initializers, and the nodes that make of them the weight of this name.
Replacement = tuple[list[onnx.TensorProto], list[onnx.NodeProto]]


def quantize(source: Path, target: Path, variant: str) -> None:
    """Write a variant of a float32 graph.

    Args:
        source: the graph, weights inside.
        target: file to write.
        variant: "float16", weights; "int8", weights and, in the decoder, matrix products.
    """
    model = onnx.load(source)
    if variant == "float16":
        _replace_weights(model, _as_float16)
    else:
        _quantize_embeddings(model)
        if source.stem == DECODER:
            _transpose_weights(model)
        _drop_unused(model)
        if source.stem != DECODER:
            _replace_weights(model, _as_int8)
    onnx.save(model, target)
    if variant == "int8" and source.stem == DECODER:
        _quantize_products(target)


def _quantize_embeddings(model: onnx.ModelProto) -> None:
    """Look rows of large tables up in int8, and make float32 of these alone: a table is read at every token."""
    weights = _large_weights(model)
    nodes = []
    for node in model.graph.node:
        is_lookup = node.op_type == "Gather" and not any(one.name == "axis" and one.i for one in node.attribute)
        if not (is_lookup and node.input[0] in weights):
            nodes.append(node)
            continue
        name, output = node.input[0], node.output[0]
        rounded, scale = _to_int8(numpy_helper.to_array(weights[name]), 0)
        stored = {f"{name}_rows": rounded, f"{name}_row_scales": scale}
        known = {tensor.name for tensor in model.graph.initializer}
        model.graph.initializer.extend(
            numpy_helper.from_array(values, key) for key, values in stored.items() if key not in known
        )
        nodes += [
            helper.make_node("Gather", [f"{name}_rows", node.input[1]], [f"{output}_row"]),
            helper.make_node("Gather", [f"{name}_row_scales", node.input[1]], [f"{output}_row_scale"]),
            helper.make_node("Cast", [f"{output}_row"], [f"{output}_row_float"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [f"{output}_row_float", f"{output}_row_scale"], [output]),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _transpose_weights(model: onnx.ModelProto) -> None:
    """Store a transposed copy where a weight is transposed in the graph: the head that is tied to the embeddings.

    Only the products of weights that are stored as they are used become int8.
    """
    weights, nodes = _large_weights(model), []
    for node in model.graph.node:
        if node.op_type == "Transpose" and node.input[0] in weights:
            order = next((list(one.ints) for one in node.attribute if one.name == "perm"), None)
            values = np.ascontiguousarray(numpy_helper.to_array(weights[node.input[0]]).transpose(order))
            model.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _drop_unused(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _large_weights(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1 and np.prod(tensor.dims) >= SMALLEST
    }


def _replace_weights(model: onnx.ModelProto, replace: Callable[[onnx.TensorProto, int], Replacement]) -> None:
    """Store large float32 weights as `replace` says; what reads them stays."""
    graph = model.graph
    axes = dict(_channel_axes(graph))
    initializers, nodes, large = [], [], _large_weights(model)
    for tensor in graph.initializer:
        if tensor.name in large:
            stored, made_by = replace(tensor, axes.get(tensor.name, 0))
            initializers += stored
            nodes += made_by
        else:
            initializers.append(tensor)
    nodes += graph.node
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(initializers)
    graph.node.extend(nodes)


def _channel_axes(graph: onnx.GraphProto) -> Iterator[tuple[str, int]]:
    """Yield weights whose output channels lie in another axis than the first."""
    for node in graph.node:
        is_transposed = any(one.name == "transB" and one.i for one in node.attribute)
        if node.op_type in _BY_COLUMN or (node.op_type == "Gemm" and not is_transposed):
            yield node.input[1], 1


def _as_float16(tensor: onnx.TensorProto, axis: int) -> Replacement:
    name = f"{tensor.name}_float16"
    stored = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), name)
    return [stored], [helper.make_node("Cast", [name], [tensor.name], to=onnx.TensorProto.FLOAT)]


def _as_int8(tensor: onnx.TensorProto, axis: int) -> Replacement:
    values = numpy_helper.to_array(tensor)
    axis += values.ndim - 2 if axis else 0  # of batched products
    rounded, scale = _to_int8(values, axis)
    names = [f"{tensor.name}_int8", f"{tensor.name}_scale"]
    stored = [numpy_helper.from_array(rounded, names[0]), numpy_helper.from_array(scale.reshape(-1), names[1])]
    return stored, [helper.make_node("DequantizeLinear", names, [tensor.name], axis=axis)]


def _to_int8(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Round symmetrically with a scale per index of `axis`; give int8 values, and scales that broadcast to them."""
    others = tuple(number for number in range(values.ndim) if number != axis)
    scale = np.abs(values).max(axis=others, keepdims=True) / INT8_MAX
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    return np.clip(np.rint(values / scale), -INT8_MAX, INT8_MAX).astype(np.int8), scale


def _quantize_products(path: Path) -> None:
    """Let onnxruntime put products with a weight into int8, in place; the other factor is quantized as it comes."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        quantize_dynamic(
            path,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            # Both factors unsigned: signed weights saturate on processors without VNNI, and captions depended on it.
            weight_type=QuantType.QUInt8,
        )
