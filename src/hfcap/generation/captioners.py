"""Captioners of commands: one in torch, or an ONNX export without it, with the same methods."""

from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hfcap.errors import ConfigError
from hfcap.ondevice.folder import is_onnx_folder
from hfcap.samples import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from hfcap.data.reading import DataWait
    from hfcap.ondevice import Captioner


@dataclass
class TorchCaptioner:
    """A captioner in torch and its processor, with the methods of `hfcap.ondevice.Captioner` that commands use."""

    model: "PreTrainedModel"
    processor: "ProcessorMixin"

    @property
    def tokenizer(self):
        """The tokenizer of captions."""
        return self.processor.tokenizer

    def caption_stream(
        self,
        loads: Iterable[Callable[[], dict]],
        prompt: str | None = None,
        batch_size: int = 8,
        on_bad_row: Callable[[int, Exception], None] | None = None,
        waiting: "DataWait | None" = None,
        length: int | None = None,
        **settings: Any,
    ) -> Iterator[tuple[int, str]]:
        """Caption rows; see `hfcap.generation.caption.caption_loaded`."""
        from hfcap.generation.caption import caption_loaded

        prompt = self._prepare(prompt, settings)
        return caption_loaded(self.model, self.processor, loads, prompt, batch_size, on_bad_row, waiting, length)

    def scored_stream(
        self,
        loads: Iterable[Callable[[], dict]],
        prompt: str | None = None,
        batch_size: int = 8,
        on_bad_row: Callable[[int, Exception], None] | None = None,
        length: int | None = None,
        **settings: Any,
    ) -> Iterator[tuple[int, Sample]]:
        """Caption rows, with the log-probabilities; see `hfcap.generation.word_probabilities`."""
        from hfcap.generation.word_probabilities import scored_caption_stream

        prompt = self._prepare(prompt, settings)
        return scored_caption_stream(self.model, self.processor, loads, prompt, batch_size, on_bad_row, length)

    def _prepare(self, prompt: str | None, settings: dict[str, Any]) -> str | None:
        from hfcap.generation.inputs import caption_prompt
        from hfcap.generation.settings import change_decoding

        change_decoding(self.model, {name: value for name, value in settings.items() if value is not None})
        return prompt or caption_prompt(self.processor)


def load_for_command(args: Namespace, source: str) -> "TorchCaptioner | Captioner":
    """Load the captioner of a command, onto the device of this process.

    Args:
        args: options of the command: `load_in_4bit`.
        source: model folder, adapter folder, ONNX export, or Hub id.

    Raises:
        ConfigError: there is no captioner, or an option that it cannot follow.
    """
    if is_onnx_folder(source):
        if args.load_in_4bit:
            raise ConfigError("an ONNX export has the precision that it was exported with; leave out --load_in_4bit")
        from hfcap.ondevice import Captioner

        return Captioner(source)
    from accelerate import PartialState

    from hfcap.distributed import use_all_cores
    from hfcap.generation.loading import load_captioner

    use_all_cores()
    model, processor = load_captioner(source, args.load_in_4bit)
    if not args.load_in_4bit:  # which is on its device already
        model.to(PartialState().device)
    return TorchCaptioner(model, processor)
