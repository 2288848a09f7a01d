"""Variants of ONNX graphs: what is stored, how far outputs move, and which tables are read row by row."""

import numpy as np
import pytest

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from hfcap.hub.onnx_quantization import quantize  # noqa: E402

ROWS, WIDTH = 80, 32


@pytest.fixture
def graph(tmp_path):
    """Write a decoder in small: a table that is looked up and, transposed, the head; a product; a bias."""
    random = np.random.default_rng(0)
    # Rows of very different size: one scale for all would lose the small ones.
    table = (random.standard_normal((ROWS, WIDTH)) * np.logspace(-2, 1, ROWS)[:, None]).astype(np.float32)
    weights = {
        "table": table,
        "product": random.standard_normal((WIDTH, WIDTH)).astype(np.float32),
        "bias": random.standard_normal(WIDTH).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "product"], ["multiplied"]),
        helper.make_node("Add", ["multiplied", "bias"], ["hidden"]),
        helper.make_node("Transpose", ["table"], ["head"], perm=[1, 0]),
        helper.make_node("MatMul", ["hidden", "head"], ["logits"]),
    ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch_size", "sequence_length", size])
        for name, size in (("embedded", WIDTH), ("logits", ROWS))
    ]
    stored = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "decoder", [ids], outputs, stored),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )

    def write(name):
        onnx.save(model, tmp_path / f"{name}.onnx")
        return tmp_path / f"{name}.onnx", table

    return write


def run(path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"input_ids": np.arange(ROWS).reshape(4, -1)})


@pytest.mark.parametrize("name", ["embed_tokens", "decoder_model_merged"])
@pytest.mark.parametrize(("variant", "error"), [("float16", 1e-3), ("int8", 0.02)])
def test_outputs_stay_close(graph, tmp_path, name, variant, error):
    source, _ = graph(name)
    quantize(source, tmp_path / "target.onnx", variant)
    for before, after in zip(run(source), run(tmp_path / "target.onnx"), strict=True):
        assert np.abs(before - after).max() < error * np.abs(before).max()
        assert not np.array_equal(before, after)


@pytest.mark.parametrize("name", ["embed_tokens", "decoder_model_merged"])
def test_each_row_of_a_table_has_its_own_scale(graph, tmp_path, name):
    source, table = graph(name)
    quantize(source, tmp_path / "target.onnx", "int8")
    embedded = run(tmp_path / "target.onnx")[0].reshape(ROWS, WIDTH)
    largest = np.abs(table).max(axis=1, keepdims=True)
    assert (np.abs(embedded - table) <= largest / 127 / 2 * 1.001).all()


def test_a_decoder_multiplies_in_int8_the_tied_head_too(graph, tmp_path):
    source, _ = graph("decoder_model_merged")
    quantize(source, tmp_path / "target.onnx", "int8")
    model = onnx.load(tmp_path / "target.onnx")
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("MatMulInteger") == 2 and "MatMul" not in operators
    # Nothing turns a whole table into float32 at every token.
    assert "DequantizeLinear" not in operators and "Transpose" not in operators
    largest = max(np.prod(one.dims) for one in model.graph.initializer if one.data_type == TensorProto.FLOAT)
    assert largest < ROWS * WIDTH
