"""Safetensors as an export format: what `from_pretrained` of transformers reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from hfcap.hub import remote_code, verify
from hfcap.hub.formats import Format, to_stock
from hfcap.hub.older_versions import save_model, save_processor
from hfcap.hub.usage import usage_code
from hfcap.models.model_types import spec_of


class SafetensorsFormat:
    """A captioner as weights, settings and processor for transformers.

    Like every export format it has `write`, `load` in a clean process, and `compare` of what was loaded with what is
    in memory: here tensors, settings and captions.

    Args:
        name: of `hfcap.hub.formats.choose_format`.
        model: the captioner, in the dtype that is shipped.
        processor: its processor.
        prompt: instruction of the captions.
        max_shard_size: of a file of weights, as `save_pretrained` takes it.
    """

    def __init__(
        self,
        name: Format,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        prompt: str | None,
        max_shard_size: str,
    ):
        self.name, self.model, self.processor, self.prompt = name, model, processor, prompt
        self.max_shard_size = max_shard_size
        self.shipped, self.shipped_processor = to_stock(model, processor) if name == "native" else (model, processor)

    def expect(self, images: Sequence[Image.Image], *, captions: bool = True) -> dict[str, Any]:
        """Describe the captioner in memory; without `captions` those are not compared. See `verify.expect`."""
        shipped = (self.shipped, self.shipped_processor)
        return verify.expect(self.model, self.processor, images, self.prompt, shipped=shipped, captions=captions)

    def write(self, folder: Path) -> None:
        """Write all files but those that say what was verified."""
        if self.name == "native":
            save_model(self.shipped, folder, self.max_shard_size)
        else:  # our classes need the newest transformers anyway
            self.shipped.save_pretrained(folder, max_shard_size=self.max_shard_size)
        save_processor(self.shipped_processor, folder)
        if self.name == "remote-code":
            remote_code.add_code(folder, self.model.config.model_type)

    def load(self, folder: Path, images: Sequence[Image.Image]) -> dict[str, Any]:
        """Load the folder in a clean process; see `verify.reload_in_clean_process`."""
        return verify.reload_in_clean_process(
            folder,
            images,
            usage_code(self.shipped.config.model_type, self.prompt),
            with_hfcap=self.name == "hfcap",
            remote_code=self.name == "remote-code",
            with_torchvision=spec_of(self.model.config).needs_torchvision,
        )

    def compare(self, expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
        """Say how what `load` found differs from what `expect` saw before anything was written, a line each."""
        return verify.differences(expected, found)
