"""The graphs of an ONNX export in onnxruntime: picture encoder, decoder with its cache of keys and values."""

import os
import re
from pathlib import Path

import numpy as np
import onnxruntime

from hfcap.errors import ConfigError
from hfcap.ondevice.folder import OnnxFolder

_PAST, _PRESENT = "past_key_values.", "present."
# onnxruntime's own words for an operator set that is newer than it is.
_NEWER_OPSET = re.compile(r"Opset (\d+) is under development.* is till opset (\d+)", re.DOTALL)
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def open_graph(path: Path, num_threads: int | None = None) -> onnxruntime.InferenceSession:
    """Load a graph for the CPU.

    Args:
        path: the `.onnx` file.
        num_threads: threads of one operation; by default all cores of this process.

    Raises:
        ConfigError: the file is cut off, or of an operator set that this onnxruntime does not know.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings are about the graph and not for who captions
    options.intra_op_num_threads = num_threads or _num_cores()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors have no common class besides this one
        raise ConfigError(
            f"onnxruntime {onnxruntime.__version__} cannot load it: {_reason(error)}",
            option="model",
            got=str(path),
            fix="export the model again, or install a newer onnxruntime",
        ) from None


def _reason(error: Exception) -> str:
    if found := _NEWER_OPSET.search(str(error)):
        return f"its operator set is {found[1]}, and the newest known one {found[2]}"
    return " ".join(str(error).split()).removeprefix("[ONNXRuntimeError] : ")[:300]


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class DecoderGraph:
    """`decoder_model_merged.onnx`: one step of the language model.

    Args:
        path: the file.
        num_threads: as for `open_graph`.

    Raises:
        ConfigError: as `open_graph` does, and for a graph whose inputs are none of a decoder with a cache.
    """

    def __init__(self, path: Path, num_threads: int | None):
        self.session = open_graph(path, num_threads)
        inputs = {one.name: one for one in self.session.get_inputs()}
        self.cache = {name: one for name, one in inputs.items() if name.startswith(_PAST)}
        self.takes = frozenset(inputs) - frozenset(self.cache)
        self.outputs = [one.name for one in self.session.get_outputs()]
        unknown = self.takes - {
            *("input_ids", "inputs_embeds", "encoder_hidden_states", "attention_mask", "position_ids"),
        }
        presents = {name.replace(_PAST, _PRESENT) for name in self.cache}
        if unknown or not self.cache or not {"logits", *presents} <= set(self.outputs):
            raise ConfigError(
                f"its inputs are {', '.join(sorted(inputs))[:300]}",
                option="model",
                got=str(path),
                wanted=f"a decoder with {_PAST}* and {_PRESENT}*",
                fix="write it with `hfcap export RUN --format onnx`",
            )

    def empty_cache(self, batch_size: int) -> dict[str, np.ndarray]:
        """Return keys and values of no tokens, (B, heads, 0, head size) each."""
        return {
            name: np.zeros((batch_size, one.shape[1], 0, one.shape[3]), _DTYPES[one.type])
            for name, one in self.cache.items()
        }

    def run(self, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Run the decoder; return logits (B, T, V) float32, and the cache."""
        found = dict(zip(self.outputs, self.session.run(None, inputs), strict=True))
        cache = {name: found[name.replace(_PAST, _PRESENT)] for name in self.cache}
        return found["logits"].astype(np.float32, copy=False), cache


class Decoding:
    """A decoder and what it remembers of the tokens so far; see `hfcap.ondevice.search.DecodingState`.

    Args:
        decoder: the graph.
        embed_tokens: graph that gives the embeddings of token ids, of decoders that take them.
        encoded: (B, N, D) what an encoder-decoder attends to; None for others.
        batch_size: rows.
    """

    def __init__(
        self,
        decoder: DecoderGraph,
        embed_tokens: onnxruntime.InferenceSession | None,
        encoded: np.ndarray | None,
        batch_size: int,
    ):
        self.decoder, self.embed_tokens, self.encoded = decoder, embed_tokens, encoded
        self.cache = decoder.empty_cache(batch_size)
        self.length = 0

    def forward(self, tokens: np.ndarray, embeddings: np.ndarray | None = None) -> np.ndarray:
        """Take tokens (B, T) int64, or their embeddings (B, T, D); return the logits after each, (B, T, V) float32."""
        batch_size, num_tokens = tokens.shape
        takes = self.decoder.takes
        positions = np.arange(self.length, self.length + num_tokens)
        inputs = {"encoder_hidden_states": self.encoded}
        inputs["attention_mask"] = np.ones((batch_size, self.length + num_tokens), np.int64)
        inputs["position_ids"] = np.broadcast_to(positions, tokens.shape).copy()
        if "inputs_embeds" in takes:
            inputs["inputs_embeds"] = embed(self.embed_tokens, tokens) if embeddings is None else embeddings
        else:
            inputs["input_ids"] = tokens
        inputs = {name: inputs[name] for name in takes}
        logits, self.cache = self.decoder.run(inputs | self.cache)
        self.length += num_tokens
        return logits

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Take the next token of each row; see `DecodingState`."""
        return self.forward(tokens[:, None])[:, -1]

    def select(self, rows: np.ndarray) -> None:
        """Keep these rows; see `DecodingState`."""
        self.cache = {name: value[rows] for name, value in self.cache.items()}
        if self.encoded is not None and not np.array_equal(rows, np.arange(len(self.encoded))):
            self.encoded = self.encoded[rows]


def embed(graph: onnxruntime.InferenceSession, tokens: np.ndarray) -> np.ndarray:
    """Return the embeddings of token ids (B, T), (B, T, D)."""
    return graph.run(None, {"input_ids": tokens})[0]


def _picture_size(encoder: onnxruntime.InferenceSession, path: Path) -> tuple[int, int]:
    inputs = {one.name: one.shape for one in encoder.get_inputs()}
    shape = inputs.get("pixel_values", ())
    if len(inputs) != 1 or len(shape) != 4 or not all(isinstance(size, int) for size in shape[1:]):
        raise ConfigError(
            f"its inputs are {inputs}"[:300],
            option="model",
            got=str(path),
            wanted="pixel_values of one size",
            fix="write it with `hfcap export RUN --format onnx`",
        )
    return shape[2], shape[3]


class CaptionerGraphs:
    """All graphs of an export.

    Args:
        folder: the export.
        num_threads: as for `open_graph`.

    Raises:
        ConfigError: as `open_graph` does, and for an encoder that takes no pictures of one size.

    Attributes:
        picture_size: height and width of the pixel values that the encoder takes.
    """

    def __init__(self, folder: OnnxFolder, num_threads: int | None = None):
        self.decoder = DecoderGraph(folder.graphs["decoder_model_merged"], num_threads)
        is_encoder_decoder = folder.settings["layout"] == "encoder_decoder"
        encoder = folder.graphs["encoder_model" if is_encoder_decoder else "vision_encoder"]
        self.encoder = open_graph(encoder, num_threads)
        self.picture_size = _picture_size(self.encoder, encoder)
        self.embed_tokens = None if is_encoder_decoder else open_graph(folder.graphs["embed_tokens"], num_threads)

    def encode(self, pixel_values: np.ndarray) -> np.ndarray:
        """Return the features of pictures (B, 3, H, W), (B, N, D)."""
        return self.encoder.run(None, {"pixel_values": pixel_values})[0]

    def begin(
        self, features: np.ndarray, prompts: np.ndarray, image_token_id: int | None
    ) -> tuple[Decoding, np.ndarray]:
        """Take pictures and the tokens before their captions.

        Args:
            features: (B, N, D) of `encode`.
            prompts: (B, P) int64; the start token, or a prompt with N image tokens in each row.
            image_token_id: of the image tokens; None for encoder-decoders, which attend to the features.

        Returns:
            The state of the decoder, and the logits after each token, (B, P, V) float32.
        """
        if image_token_id is None:
            state = Decoding(self.decoder, None, features, len(prompts))
            return state, state.forward(prompts)
        embeddings = embed(self.embed_tokens, prompts)
        embeddings[prompts == image_token_id] = features.reshape(-1, features.shape[-1])
        state = Decoding(self.decoder, self.embed_tokens, None, len(prompts))
        return state, state.forward(prompts, embeddings)
