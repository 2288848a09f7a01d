"""Tokens that say how many words a caption has: learned with the references, and asked for by whoever captions.

A captioner with length tokens writes one before each caption, `<|words_9|>` for nine words. It learns this from the
references' own numbers of words, as it learns any first word; the token is special, so no text shows it. A length is
asked for by letting captions begin with its token. Kikuchi et al., "Controlling output length in neural
encoder-decoders", EMNLP 2016, compare ways of doing so; a token is that of Fan et al., "Controllable abstractive
summarization", 2018.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LONGEST = 30  # words; the token of more is the same


def length_token(num_words: int) -> str:
    """The token before a caption of so many words."""
    return f"<|words_{min(num_words, LONGEST)}|>"


def count_words(caption: str) -> int:
    """Count what stands between spaces and has a letter or a digit."""
    return sum(any(map(str.isalnum, word)) for word in caption.split())


def length_token_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Ids of the tokens of 0 to `LONGEST` words; none for a captioner without them."""
    added = tokenizer.get_added_vocab()
    ids = [added.get(length_token(number)) for number in range(LONGEST + 1)]
    return [] if None in ids else ids


def add_length_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Give a captioner length tokens, with random embeddings, unless it has them."""
    if length_token_ids(tokenizer):
        return
    tokens = [length_token(number) for number in range(LONGEST + 1)]
    tokenizer.add_tokens(tokens, special_tokens=True)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
