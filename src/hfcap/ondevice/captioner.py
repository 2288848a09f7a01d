"""Captioner of an ONNX export: pictures to captions with onnxruntime, tokenizers, NumPy and Pillow."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hfcap.data.reading import DataWait, PictureRows, check_batch_size, loads_of, read_ahead
from hfcap.errors import ConfigError
from hfcap.length_tokens import length_token_ids
from hfcap.ondevice.folder import read_onnx_folder
from hfcap.ondevice.graphs import CaptionerGraphs
from hfcap.ondevice.image_processing import ImageProcessor
from hfcap.ondevice.search import search_for, token_log_probabilities
from hfcap.ondevice.settings import DecodingSettings, read_decoding
from hfcap.ondevice.tokens import CaptionTokenizer
from hfcap.samples import Sample, sample_of


class Captioner:
    """A captioner that `hfcap export --format onnx` wrote.

        captioner = Captioner("FOLDER")
        captioner.caption(["photo.jpg", Image.open("other.png")], num_beams=3)

    Args:
        folder: the export.
        num_threads: threads of onnxruntime; by default all cores of this process.
        variant: which graphs, by their quantization: "none", "float16" or "int8"; by default those that the export
            recommends.

    Attributes:
        settings: how captions are decoded where a call does not say.
        tokenizer: the tokens of captions.
        caption_prompt: the instruction that the captioner was trained with; None for encoder-decoders.

    Raises:
        ConfigError: a file that is missing, malformed or of another kind of model, or a decoding setting that is not
            followed without torch.
    """

    def __init__(self, folder: str | os.PathLike, num_threads: int | None = None, variant: str | None = None):
        found = read_onnx_folder(folder, variant)
        self.settings = read_decoding(found.settings["decoding"])
        self.image_processor = ImageProcessor(found.settings["image_processor"])
        self.tokenizer = CaptionTokenizer(found.path)
        self.length_ids = length_token_ids(self.tokenizer)
        self.caption_prompt: str | None = found.settings.get("caption_prompt")
        self.image_token_id: int | None = found.settings["image_token_id"]
        self._prompt_ids: list[int] = found.settings["prompt_ids"]
        self.graphs = CaptionerGraphs(found, num_threads)

    def caption(
        self, pictures: Iterable, batch_size: int = 8, prompt: str | None = None, **settings: Any
    ) -> list[str]:
        """Caption pictures.

        Args:
            pictures: paths, PIL images or the bytes of files; turned upright and to RGB as in training.
            batch_size: pictures decoded together.
            prompt: instruction; by default the one that the captioner was trained with.
            settings: change the export's own: fields of `hfcap.ondevice.settings.DecodingSettings`, such as
                `num_beams` and `max_new_tokens`.

        Returns:
            One caption per picture, in order.

        Raises:
            ConfigError: one picture in place of several, a wrong `batch_size`, a prompt for an encoder-decoder, or a
                setting that does not exist.
        """
        if isinstance(pictures, (str, bytes, Path, Image.Image)):
            raise ConfigError(
                f"a single {type(pictures).__name__}",
                option="pictures",
                wanted="a list of images",
                fix="wrap it in [...]",
            )
        rows = PictureRows(list(pictures))
        captions = [""] * len(rows)
        for index, caption in self.caption_stream(loads_of(rows), prompt, batch_size, **settings):
            captions[index] = caption
        return captions

    def caption_stream(
        self,
        loads: Iterable[Callable[[], dict]],
        prompt: str | None = None,
        batch_size: int = 8,
        on_bad_row: Callable[[int, Exception], None] | None = None,
        waiting: DataWait | None = None,
        **settings: Any,
    ) -> Iterator[tuple[int, str]]:
        """Caption rows of a stream and yield each caption with the number of its row as soon as its batch is done.

        Args:
            loads: functions that return a row `{"image": RGB PIL image}` each, called in threads.
            prompt: as for `caption`.
            batch_size: pictures decoded together.
            on_bad_row: called with the number of a row that cannot be read, and why; by default the error is raised.
            waiting: measures how long the decoder waits for rows.
            settings: as for `caption`.
        """
        decoding = self.settings.changed(settings)
        for numbers, features, prompts in self._batches(loads, prompt, batch_size, on_bad_row, waiting):
            tokens = self._search(features, prompts, decoding)
            yield from zip(numbers, map(self.text_of, tokens), strict=True)

    def scored_stream(
        self,
        loads: Iterable[Callable[[], dict]],
        prompt: str | None = None,
        batch_size: int = 8,
        on_bad_row: Callable[[int, Exception], None] | None = None,
        **settings: Any,
    ) -> Iterator[tuple[int, Sample]]:
        """Do what `caption_stream` does, with the log-probability of each token.

        Beam search keeps no probabilities of single tokens, so each caption goes through the decoder once more.
        """
        decoding = self.settings.changed(settings)
        for numbers, features, prompts in self._batches(loads, prompt, batch_size, on_bad_row, None):
            found = self._search(features, prompts, decoding)
            for number, row, own, tokens in zip(numbers, features, prompts, found, strict=True):
                given = np.array([[*own, *tokens[:-1]]])
                _, logits = self.graphs.begin(row[None], given, self.image_token_id)
                logs = token_log_probabilities(logits[0, len(own) - 1 :], own.tolist(), tokens, decoding)
                yield number, sample_of(self.text_of(tokens), tokens, logs, decoding.eos_token_id, self.length_ids)

    def caption_ids(
        self, images: Sequence[Image.Image], prompt: str | None = None, **settings: Any
    ) -> list[list[int]]:
        """Return the token ids of the captions of RGB pictures, decoded in one batch, each with its end token."""
        features = self.graphs.encode(np.stack([self._fitting(self.image_processor(image)) for image in images]))
        prompts = self._prompts(prompt, len(features))
        return self._search(features, prompts, self.settings.changed(settings))

    def text_of(self, tokens: Sequence[int]) -> str:
        """Return the caption of token ids, without special tokens and surrounding space."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    def prompt_ids(self, prompt: str | None = None) -> list[int]:
        """Return the tokens before a caption: the start token, or a prompt with its image tokens.

        Raises:
            ConfigError: a prompt for an encoder-decoder.
        """
        is_own = prompt is None or prompt == self.caption_prompt
        if is_own or (self.image_token_id is None and not prompt):
            return self._prompt_ids
        if self.image_token_id is None:
            raise ConfigError("encoder-decoders on a device take none", option="prompt", got=prompt, fix="remove it")
        image_seq_length = self._prompt_ids.count(self.image_token_id)
        return self.tokenizer.prompt_ids(prompt, self.image_token_id, image_seq_length)

    def _fitting(self, pixel_values: np.ndarray) -> np.ndarray:
        """Return pixel values (3, H, W) if the graph of the encoder takes them. Raises ConfigError."""
        height, width = self.graphs.picture_size
        if pixel_values.shape[1:] != (height, width):
            raise ConfigError(
                f"pixel values become {pixel_values.shape[1]} x {pixel_values.shape[2]}, and the graphs take "
                f"{height} x {width}",
                option="image_processor",
                got=self.image_processor.settings.get("size"),
                fix="export the model again",
            )
        return pixel_values

    def _prompts(self, prompt: str | None, batch_size: int) -> np.ndarray:
        return np.tile(np.array(self.prompt_ids(prompt), np.int64), (batch_size, 1))

    def _search(self, features: np.ndarray, prompts: np.ndarray, settings: DecodingSettings) -> list[list[int]]:
        state, logits = self.graphs.begin(features, prompts, self.image_token_id)
        return search_for(settings)(state, logits[:, -1].copy(), prompts, settings)

    def _batches(
        self,
        loads: Iterable[Callable[[], dict]],
        prompt: str | None,
        batch_size: int,
        on_bad_row: Callable[[int, Exception], None] | None,
        waiting: DataWait | None,
    ) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
        """Yield numbers of rows, their features (B, N, D) and the tokens before their captions (B, P)."""
        check_batch_size(batch_size)

        def pixels(load: Callable[[], dict]) -> np.ndarray | Exception:
            try:
                image = load()["image"]
            # Damaged pictures raise SyntaxError, ValueError, struct.error and others, besides OSError.
            except Exception as error:
                if on_bad_row is None:
                    raise
                return error
            return self._fitting(self.image_processor(image))

        def readable() -> Iterator[tuple[int, np.ndarray]]:
            for index, found in enumerate(read_ahead(pixels, loads, 2 * batch_size)):
                if isinstance(found, Exception):
                    on_bad_row(index, found)
                else:
                    yield index, found

        rows = readable()
        batches = iter(lambda: list(islice(rows, batch_size)), [])
        for batch in batches if waiting is None else waiting.of(batches):
            features = self.graphs.encode(np.stack([values for _, values in batch]))
            yield [index for index, _ in batch], features, self._prompts(prompt, len(features))
