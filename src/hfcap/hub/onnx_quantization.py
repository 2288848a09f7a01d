"""Quantized variants of ONNX graphs: float16 weights, int8 weights, and int8 arithmetic for decoders.

What only stores its weights narrower computes in float32: a CNN in dynamic int8 gives other captions and is slower. A
language model's matrix products are faster in int8 and take it well.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

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
    if variant == "int8" and source.stem == DECODER:
        _quantize_products(source, target)
        return
    model = onnx.load(source)
    _replace_weights(model, _as_float16 if variant == "float16" else _as_int8)
    onnx.save(model, target)


def _replace_weights(model: onnx.ModelProto, replace: Callable[[onnx.TensorProto, int], Replacement]) -> None:
    """Store large float32 weights as `replace` says; what reads them stays."""
    graph = model.graph
    axes = dict(_channel_axes(graph))
    initializers, nodes = [], []
    for tensor in graph.initializer:
        is_weight = tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1
        if is_weight and np.prod(tensor.dims) >= SMALLEST:
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
    """Symmetric, a scale per output channel."""
    values = numpy_helper.to_array(tensor)
    axis += values.ndim - 2 if axis else 0  # of batched products
    others = tuple(number for number in range(values.ndim) if number != axis)
    scale = np.abs(values).max(axis=others, keepdims=True) / INT8_MAX
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    rounded = np.clip(np.rint(values / scale), -INT8_MAX, INT8_MAX).astype(np.int8)
    names = [f"{tensor.name}_int8", f"{tensor.name}_scale"]
    stored = [numpy_helper.from_array(rounded, names[0]), numpy_helper.from_array(scale.reshape(-1), names[1])]
    return stored, [helper.make_node("DequantizeLinear", names, [tensor.name], axis=axis)]


def _quantize_products(source: Path, target: Path) -> None:
    """Matrix products and embeddings in int8, by onnxruntime; activations are quantized as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul", "Gather"],
        per_channel=True,
        # Two unsigned factors: signed weights saturate on processors without VNNI, and captions would depend on it.
        weight_type=QuantType.QUInt8,
    )
