"""From rows of pictures and references to the batches of the two model families."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hfcap.errors import ConfigError
from hfcap.generation.inputs import end_token_id, is_prompted, prompt_token_ids, vision_inputs
from hfcap.training.packing import pack_references, pad_rows


@dataclass
class CaptionCollator:
    """Collate rows `{captions, image | vision_features}` into a training batch.

    Args:
        processor: processor of either family.
        prompt: instruction before the caption (LLaVA-style models; encoder-decoders take none).
        packing: lay all references of an image in one row behind one image; otherwise one row for each pair of image
        and
            reference, as stock trainers do. Loss and gradient are the same.
        max_caption_tokens: longer references are cut, and still end in EOS.

    The batch of B rows of length L has `input_ids`, `position_ids`, `segment_ids` and `shift_labels`, all (B, L) int64
    (`decoder_input_ids` and `decoder_position_ids` for encoder-decoders), and `pixel_values` (B, 3, H, W) or
    `vision_features` (B, N, D) in float32. `labels` is `shift_labels` again: `Trainer` counts targets only where a
    batch has that name.
    """

    processor: object
    prompt: str | None = None
    packing: bool = True
    max_caption_tokens: int = 64

    def __post_init__(self):
        self.prefix_ids = prompt_token_ids(self.processor, self.prompt)
        if self.prefix_ids[-1] == getattr(self.processor, "image_token_id", None):
            raise ConfigError(
                f"prompt: {self.prompt!r} leaves an image token right before the caption, and a caption starts "
                "from text: give a prompt, or a chat template with text after the image"
            )

    def targets(self, captions: Sequence[str]) -> list[list[int]]:
        """Token ids of each caption, cut to `max_caption_tokens` with EOS as the last."""
        encoded = self.processor.tokenizer(list(captions), add_special_tokens=False)["input_ids"]
        return [[*ids[: self.max_caption_tokens - 1], end_token_id(self.processor)] for ids in encoded]

    def collate(
        self, targets: Sequence[Sequence[list[int]]], vision: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Collate the target token ids of each image's captions, and the tensors of the pictures, one row an image."""
        groups = targets if self.packing else [[target] for image_targets in targets for target in image_targets]
        batch = pad_rows(
            [pack_references(self.prefix_ids, group) for group in groups], self.processor.tokenizer.pad_token_id
        )
        batch["labels"] = batch["shift_labels"]
        if not is_prompted(self.processor):
            batch["decoder_input_ids"] = batch.pop("input_ids")
            batch["decoder_position_ids"] = batch.pop("position_ids")
        if not self.packing:
            images = [number for number, image_targets in enumerate(targets) for _ in image_targets]
            vision = {key: value[images] for key, value in vision.items()}
        return batch | vision

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """Collate `rows`."""
        return self.collate([self.targets(row["captions"]) for row in rows], vision_inputs(self.processor, rows))
