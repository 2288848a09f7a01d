"""Special tokens inside captions and prompts, read as plain text.

A tokenizer takes "<eos>" or "<image>" for its special token wherever it stands: a caption with it would end in the
middle, and a second image token finds no picture. Captions are tokenized with special tokens split into their letters.
A prompt lies within a template whose special tokens count, and whoever captions tokenizes the two together, so a space
after the first letter ("< image>") keeps those in the prompt from being taken for special ones.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

# Spellings of common tokenizers, where it is not known which one will read a text.
COMMON = re.compile(
    r"</?s>|<(?:pad|bos|eos|unk|mask|sep|cls|image|video|audio|start|end|end_of_utterance|start_of_\w+|end_of_\w+)>"
    r"|<\|[^\s<>|]+\|>|\[(?:PAD|CLS|SEP|UNK|MASK|DEC|ENC|BOS|EOS|IMG|INST|/INST)\]"
)


def special_texts(processor) -> re.Pattern:
    """Match the special tokens of a processor (or tokenizer), those that stand for a picture among them."""
    return _special_texts(processor, len(getattr(processor, "tokenizer", processor)))


@lru_cache(maxsize=16)
def _special_texts(processor, num_tokens: int) -> re.Pattern:
    # Asked for with every picture; `num_tokens` says when tokens were added.
    tokenizer = getattr(processor, "tokenizer", processor)
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    # LLaVA's "<image>" is an added token that is not marked as special.
    of_pictures = [str(value) for name, value in vars(processor).items() if name.endswith("_token") and value]
    texts = {*tokenizer.all_special_tokens, *added, *of_pictures}
    texts = sorted((text for text in texts if len(text) > 1), key=len, reverse=True)  # the longest that fits
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)")


def split_special(text: str, special: re.Pattern) -> str:
    """Put a space into each special token of a text, behind its first character."""
    while special.search(text):
        text = special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    return text


def encode_captions(processor, captions: Sequence[str]) -> list[list[int]]:
    """Token ids of captions as text, without special tokens of any kind."""
    tokenizer = getattr(processor, "tokenizer", processor)
    encoded = tokenizer(list(captions), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    special = special_texts(processor)
    ids = {tokenizer.convert_tokens_to_ids(text) for text in map(str, tokenizer.all_special_tokens)}
    ids |= {getattr(processor, "image_token_id", None)}
    ids -= {tokenizer.unk_token_id, None}
    for number, own in enumerate(encoded):
        # Added tokens that are not marked as special are found even so.
        if not ids.isdisjoint(own) and special.search(captions[number]):
            text = split_special(captions[number], special)
            encoded[number] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return encoded
