"""Processor of the cross-attention captioner: pictures in, `pixel_values` out; captions in, `labels` out."""

import torch
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin


class HfcapEncoderDecoderProcessor(ProcessorMixin):
    """Image processor and tokenizer of [`HfcapEncoderDecoderModel`].

    Pictures alone give `pixel_values`; text alone gives the tokenizer's `input_ids` and `attention_mask`; both give
    `pixel_values` and `labels`: the caption's tokens without BOS, then EOS, then -100 as padding. The model makes its
    `decoder_input_ids` from them.

    Args:
        image_processor: an image processor that gives `pixel_values` of one size.
        tokenizer: the decoder's tokenizer. Its EOS (or SEP, for BERT) ends a caption.
        chat_template: unused, a prompt of this family is plain text; here because every processor has one.

    """

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @property
    def end_token_id(self) -> int | None:
        """The id that ends a caption: EOS, or SEP where the tokenizer has no EOS (BERT)."""
        eos_token_id = self.tokenizer.eos_token_id
        return eos_token_id if eos_token_id is not None else self.tokenizer.sep_token_id

    @property
    def start_token_id(self) -> int | None:
        """The id captions start from: BOS, or CLS where the tokenizer has no BOS (BERT), or the end token."""
        candidates = (self.tokenizer.bos_token_id, self.tokenizer.cls_token_id, self.end_token_id)
        return next((token_id for token_id in candidates if token_id is not None), None)

    def __call__(self, images=None, text: str | list[str] | None = None, max_length: int | None = None, **kwargs):
        """Process pictures, captions, or both.

        Args:
            images: one picture or a list.
            text: one caption or a list; with pictures, as many as there are pictures.
            max_length: longest label row in tokens, EOS included; with text alone it is the tokenizer's `max_length`.
            **kwargs: to the image processor and the tokenizer, as in every processor.

        Returns:
            A `BatchFeature`; with both, `labels` are (B, L) int64 torch tensors.

        Raises:
            ValueError: numbers of pictures and captions differ, or the tokenizer has neither EOS nor SEP.

        """
        if images is None or text is None:
            if max_length is not None:
                kwargs["max_length"] = max_length
            return super().__call__(images=images, text=text, **kwargs)
        batch = super().__call__(images=images, **kwargs)
        labels = self.get_labels(text, max_length)
        if len(labels) != len(batch["pixel_values"]):
            raise ValueError(
                f"Got {len(labels)} captions for {len(batch['pixel_values'])} pictures. Pass one caption a picture; "
                "several captions of one picture are several calls."
            )
        return BatchFeature({**batch, "labels": labels})

    def get_labels(self, text: str | list[str], max_length: int | None = None) -> torch.LongTensor:
        """Tokenize captions into targets, (B, L) int64: tokens, EOS, -100 up to the longest row.

        What looks like a special token in a caption is text. A caption of more than `max_length` tokens is cut and has
        no EOS.
        """
        if self.end_token_id is None:
            raise ValueError("The tokenizer has neither EOS nor SEP, one must end the captions: set its eos_token.")
        captions = [text] if isinstance(text, str) else list(text)
        token_ids = self.tokenizer(captions, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        rows = [torch.tensor([*row, self.end_token_id][:max_length]) for row in token_ids]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)


__all__ = ["HfcapEncoderDecoderProcessor"]
