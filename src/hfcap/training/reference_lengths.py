"""Lengths of references in tokens: what `max_caption_tokens` cuts, and `max_new_tokens`."""

import logging
from dataclasses import dataclass
from itertools import chain

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.caption_stream import FIRST_OF_STREAM, CaptionStream, first_texts
from hfcap.generation.settings import DEFAULT_DECODING, change_decoding
from hfcap.training.collators import CaptionCollator

logger = logging.getLogger(__name__)

CAPTIONS_AT_A_TIME = 10_000
MANY = 0.01  # share of cut references that is worth a warning


@dataclass(frozen=True)
class ReferenceLengths:
    """Lengths of the references that a run learns from.

    Attributes:
        number: references looked at.
        cut: those of more than `limit` tokens, EOS included.
        longest: tokens of the longest, EOS included; where that is less than a new captioner's `max_new_tokens`, that.
        limit: `max_caption_tokens`.
        of: which references these are, for people.
    """

    number: int
    cut: int
    longest: int
    limit: int
    of: str

    def __str__(self) -> str:
        """Say what is cut and which limit would cut nothing."""
        if not self.cut:
            return f"{self.of}: none of {self.number:,} is cut (max_caption_tokens is {self.limit})"
        return (
            f"{self.of}: {self.cut:,} of {self.number:,} ({self.cut / self.number:.1%}) have more than "
            f"max_caption_tokens={self.limit} tokens; they are cut and do not teach where a caption ends. The longest "
            f"has {self.longest}: max_caption_tokens {self.longest} would cut none"
        )


def measure_references(data: CaptionDataset | CaptionStream, collator: CaptionCollator) -> ReferenceLengths:
    """Count the tokens of all references of the training data; of a stream, of its first images."""
    if isinstance(data, CaptionStream):
        of = f"references of the first {FIRST_OF_STREAM:,} images"
        captions = [row["captions"] for row in first_texts(data.source, FIRST_OF_STREAM)]
    else:
        of, captions = "references", data.rows["captions"]
    short = min(collator.max_caption_tokens, DEFAULT_DECODING["max_new_tokens"])
    texts = list(chain.from_iterable(captions))
    # A token takes a byte at the least; one may stand for the start of the text, one for its length, and one is EOS.
    long = [text for text in texts if len(text.encode()) + 3 > short]
    lengths = [
        len(ids)
        for start in range(0, len(long), CAPTIONS_AT_A_TIME)
        for ids in collator.whole_targets(long[start : start + CAPTIONS_AT_A_TIME])
    ]
    cut = sum(length > collator.max_caption_tokens for length in lengths)
    return ReferenceLengths(len(texts), cut, max([short, *lengths]), collator.max_caption_tokens, of)


def follow_references(model, collator: CaptionCollator, data: CaptionDataset | CaptionStream, args) -> None:
    """Log which share of the references is cut, and let captions become as long as what is learned of them.

    `max_new_tokens` is raised where the run does not state it, unless an adapter trains: that decodes by the settings
    of its base.
    """
    lengths = measure_references(data, collator)
    logger.log(
        logging.WARNING if lengths.cut >= MANY * lengths.number and lengths.cut else logging.INFO, "%s", lengths
    )
    learned, now = min(lengths.longest, lengths.limit), model.generation_config.max_new_tokens
    if now is None or learned <= now:
        return
    if args.max_new_tokens is None and not hasattr(model, "peft_config"):
        change_decoding(model, {"max_new_tokens": learned})
        logger.info("max_new_tokens: %d instead of %d, the length of the longest reference as learned", learned, now)
        return
    fix = f"give --max_new_tokens {learned}"
    if hasattr(model, "peft_config"):
        fix = f"set max_new_tokens {learned} in the base's generation_config.json, by which an adapter decodes"
    logger.warning(
        "max_new_tokens is %d, and references as learned have up to %d tokens: longer captions will be cut off; %s",
        now,
        learned,
        fix,
    )
