"""Collation of images and references into batches for every model type."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from peft import PeftModel
from transformers import PreTrainedConfig, PreTrainedModel

from hfcap.errors import ConfigError
from hfcap.generation.inputs import CaptionPrefix, check_ids, encode_prefix, end_token_id, join_vision
from hfcap.length_tokens import LONGEST, count_words, length_token_ids
from hfcap.models.model_types import is_packable, spec_of
from hfcap.models.positions import learned_positions
from hfcap.plain_text import encode_captions
from hfcap.training.packing import join_images, pack_references, pad_rows


def check_positions(model: PreTrainedModel | PeftModel, collator: "CaptionCollator") -> None:
    """Check that the language model has positions for the longest caption, in training and when it is generated.

    Learned positions have an end; rotary ones, ALiBi and computed sinusoids have none. Of prompts, that of the run
    alone is counted: a row's own may be longer.

    Raises:
        ConfigError: it has too few.
    """
    positions = learned_positions(model, collator.spec)
    if positions is None:
        return
    lengths = {
        "max_caption_tokens": collator.max_caption_tokens,
        "max_new_tokens": model.generation_config.max_new_tokens,
    }
    before = collator.prefix_length(None) - 1  # the last token before the caption predicts its first
    for name, length in lengths.items():
        if length is not None and before + length > positions:
            raise ConfigError(
                f"{model.config.get_text_config(decoder=True).model_type} has {positions} positions, of which image "
                f"and prompt take {before}",
                option=name,
                got=length,
                wanted=f"{positions - before} or less",
                fix="lower it, or pass a decoder with more positions",
            )


@dataclass
class CaptionCollator:
    """Collate rows `{captions, image | vision_features}`, or lists of such that share a row, into a training batch.

    Args:
        processor: processor of the captioner.
        config: the captioner's config; it says which type of model the batch is for.
        prompt: instruction before the caption, for the types that take one. A row's own `prompt` wins.
        packing: lay all references of an image in one row behind one image; otherwise, and where the model cannot be
            packed, one row for each pair of image and reference, as stock trainers do. Loss and gradient are the same.
        max_caption_tokens: longer references are cut, EOS included: they do not teach where a caption ends.
        pad_to_multiple_of: rows are padded to a multiple of so many tokens.

    The batch of B rows of length L has `input_ids`, `segment_ids`, `image_ids` and `shift_labels`, all (B, L) int64
    (`decoder_input_ids` for encoder-decoders), for packable models `position_ids`, for some types token types, and the
    tensors of the pictures, in the order of their tokens: `pixel_values` (images, 3, H, W) or what the type's
    processor gives, or `vision_features` (images, N, D) in float32. `labels` is `shift_labels` again: `Trainer` counts
    targets only where a batch has that name.
    """

    processor: object
    config: PreTrainedConfig
    prompt: str | None = None
    packing: bool = True
    max_caption_tokens: int = 64
    pad_to_multiple_of: int = 1

    def __post_init__(self):
        self.spec = spec_of(self.config)
        self.packable = is_packable(self.config)
        self.packing = self.packing and self.packable
        self.length_ids = length_token_ids(self.processor.tokenizer)

    def prefix(self, row: dict) -> CaptionPrefix:
        """Encode the picture and the prompt of a row.

        Raises:
            ConfigError: the prompt ends in an image token: packed rows repeat its last token, which must be text.
        """
        prefix = encode_prefix(self.processor, self.config, row, self.prompt)
        if self.packing and self.spec.image_tokens and prefix.input_ids[-1] == self.config.image_token_id:
            raise ConfigError(
                f"with {self.prompt!r} an image token comes right before the caption, which must follow text",
                option="prompt",
                fix="pass a prompt, or a chat template with text after the image",
            )
        return prefix

    def prefix_length(self, prompt: str | None) -> int:
        """Count the tokens of the picture and a row's own `prompt`, where all pictures have the same number."""
        # With features, as with a cached encoder, no picture is needed; their values are not looked at.
        row = {"vision_features": torch.empty(0), "prompt": prompt}
        return len(encode_prefix(self.processor, self.config, row, self.prompt).input_ids)

    def targets(self, captions: Sequence[str]) -> list[list[int]]:
        """Token ids of each caption, cut to `max_caption_tokens`; a cut one has no EOS."""
        return [ids[: self.max_caption_tokens] for ids in self.whole_targets(captions)]

    def whole_targets(self, captions: Sequence[str]) -> list[list[int]]:
        """Token ids of each caption, EOS last; the token of its length first, for a captioner that has such tokens.

        Raises:
            ConfigError: a token has no embedding.
        """
        if not captions:
            return []
        end = end_token_id(self.processor, self.config)
        targets = [[*ids, end] for ids in encode_captions(self.processor, captions)]
        check_ids([token for ids in targets for token in ids], self.config)
        if not self.length_ids:
            return targets
        lengths = [min(count_words(caption), LONGEST) for caption in captions]
        return [[self.length_ids[length], *ids] for length, ids in zip(lengths, targets, strict=True)]

    def collate(
        self,
        prefixes: Sequence[CaptionPrefix],
        targets: Sequence[Sequence[list[int]]],
        images_a_row: Sequence[int] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Collate pictures with their prompts, and the target token ids of each one's captions.

        `images_a_row` says how many pictures lie in each packed row; one by default.
        """
        text_rows, pictures = [], []
        for prefix, own in zip(prefixes, targets, strict=True):
            groups = [own] if self.packing else [[target] for target in own]
            text_rows += [self._text_row(prefix, group) for group in groups]
            pictures += [prefix.vision] * len(groups)
        if images_a_row is not None:
            parts = iter(text_rows)
            text_rows = [join_images(list(islice(parts, number))) for number in images_a_row]
        padding = {self.spec.token_types: self.spec.caption_token_type} if self.spec.token_types else {}
        batch = pad_rows(text_rows, self.processor.tokenizer.pad_token_id, self.pad_to_multiple_of, **padding)
        batch["labels"] = batch["shift_labels"]
        if not self.packable:
            # Such models number positions in their own way.
            del batch["position_ids"]
        if self.spec.layout == "encoder_decoder":
            for name in ("input_ids", "position_ids"):
                if name in batch:
                    batch[f"decoder_{name}"] = batch.pop(name)
        return batch | join_vision(pictures)

    def __call__(self, rows: Sequence[dict | list[dict]]) -> dict[str, torch.Tensor]:
        """Collate `rows`."""
        images_a_row = None
        if isinstance(rows[0], list):
            images_a_row = [len(row) for row in rows]
            rows = [image for row in rows for image in row]
        prefixes = [self.prefix(row) for row in rows]
        return self.collate(prefixes, [self.targets(row["captions"]) for row in rows], images_a_row)

    def _text_row(self, prefix: CaptionPrefix, targets: Sequence[list[int]]) -> dict[str, list[int]]:
        whole_prefix = self.packable and self.spec.two_way == "prefix"
        row = pack_references(prefix.input_ids, targets, whole_prefix)
        if self.spec.token_types:
            rest = len(row["input_ids"]) - len(prefix.token_types)
            row[self.spec.token_types] = prefix.token_types + [self.spec.caption_token_type] * rest
        return row
