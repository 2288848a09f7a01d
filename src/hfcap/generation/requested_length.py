"""Captions of a requested number of words, by any captioner.

Two things make them. A captioner that learned lengths begins with the token of the number (`hfcap.length_tokens`), so
it plans for it. And whatever it learned, a caption may end only where its number of words is near the one asked for;
of the ways to end there, beam search finds the likeliest. Words are what stands between spaces.
"""

import unicodedata
from collections.abc import Sequence

import torch
from transformers import GenerationConfig, LogitsProcessor, PreTrainedTokenizerBase

from hfcap.counts import counted
from hfcap.errors import ConfigError, shown
from hfcap.generation.settings import end_token_ids
from hfcap.length_tokens import LONGEST, count_words, length_token_ids
from hfcap.scripts import is_spaceless

TOLERANCE = 1  # words: room to end where a sentence does
PARTIAL = "\N{REPLACEMENT CHARACTER}"  # how tokenizers of bytes show a character of which some are missing


class LengthRequest:
    """What `generate` needs so that captions have about `num_words` words.

    Args:
        tokenizer: the captioner's.
        num_words: words asked for.
        settings: which tokens end a caption, and how many it may have.

    Raises:
        ConfigError: `num_words` is not from 1 to 29, or needs more than `max_new_tokens`.

    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, num_words: int, settings: GenerationConfig):
        if not 1 <= num_words < LONGEST:
            raise ConfigError(option="length", got=num_words, wanted=f"1 to {LONGEST - 1} words")
        self.tokenizer = tokenizer
        self.num_words = num_words
        self.fewest = max(1, num_words - TOLERANCE)
        self.most = num_words + TOLERANCE
        self.end_ids = set(end_token_ids(settings))
        learned = length_token_ids(tokenizer)
        self.first_token = learned[num_words] if learned else None
        # They do not show in the text, so they would be steps that add no word.
        self.other_special_ids = sorted(set(tokenizer.all_special_ids) - self.end_ids)
        self.words_in_word, self.words_between = words_of_tokens(tokenizer)
        for words in (self.words_in_word, self.words_between):
            words[[*self.end_ids, *self.other_special_ids]] = 0
        # A word takes a token (few tokenizers have tokens of several), and so do the end and the length.
        most_of_token = max(1, int(self.words_in_word.max()))
        needed = -(-self.fewest // most_of_token) + 1 + bool(learned)
        if settings.max_new_tokens is not None and settings.max_new_tokens < needed:
            raise ConfigError(
                f"captions of {counted(num_words, 'word')} take more tokens",
                option="max_new_tokens",
                got=settings.max_new_tokens,
                wanted=f"{needed} or more",
                fix="raise it, or ask for a smaller length",
            )

    def check_script(self, captions: Sequence[Sequence[int]]) -> None:
        """Check that captions, as token ids, have spaces between words: without, they go on until they are cut.

        Raises:
            ConfigError: more than half of their letters are of scripts without spaces.
        """
        texts = self.tokenizer.batch_decode(captions, skip_special_tokens=True)
        if is_spaceless(texts):
            text = shown(texts[0].strip())
            raise ConfigError(
                f"it counts words between spaces, and this captioner writes a script without: {text}",
                option="length",
                got=self.num_words,
                fix="remove it",
            )

    def processors(self, prefix_length: int) -> list[LogitsProcessor]:
        """Processors for `generate` behind prompts of `prefix_length` tokens."""
        first = [] if self.first_token is None else [FirstToken(self.first_token, prefix_length)]
        return [*first, WordRange(self, prefix_length)]


class FirstToken(LogitsProcessor):
    """Let `generate` begin with one token; as stock `ForcedBOSTokenLogitsProcessor`, but behind any prompt.

    Args:
        token_id: the token.
        length: tokens before it.
    """

    def __init__(self, token_id: int, length: int):
        self.token_id = token_id
        self.length = length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Leave one token in the first step: (B, V) logits in, 0 for it and -inf for all others out."""
        if input_ids.shape[1] != self.length:
            return scores
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.token_id] = 0.0
        return forced


class WordRange(LogitsProcessor):
    """Forbid the end before a caption has enough words, and another word where it has as many as it may have.

    Args:
        request: how many, and the tokens in question.
        length: tokens before the caption.
    """

    def __init__(self, request: LengthRequest, length: int):
        self.request = request
        self.length = length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Set what is forbidden to -inf: (B, V) logits in and out."""
        request = self.request
        own = input_ids[:, self.length :]
        if request.first_token is not None and own.shape[1] == 0:
            return scores
        forbidden = torch.zeros_like(scores, dtype=torch.bool)
        words_in_word = request.words_in_word.to(scores.device)
        words_between = request.words_between.to(scores.device)
        texts = request.tokenizer.batch_decode(own, skip_special_tokens=True)
        for row, tokens, text in zip(forbidden, own.tolist(), texts, strict=True):
            if not request.end_ids.isdisjoint(tokens):
                continue  # what follows an end is padding
            row[request.other_special_ids] = True
            words = count_words(text)
            if words < request.fewest:
                row[list(request.end_ids)] = True
                if ends_in_sign(text):  # one sign after another would be a way around words
                    row[: len(words_between)] |= words_between == 0
            added = words_in_word if is_in_word(text) else words_between
            row[: len(added)] |= words + added > request.most
        return scores.masked_fill(forbidden, -torch.inf)


def is_in_word(text: str) -> bool:
    """Say whether a text ends within a word: without a space behind it, and its last part has a letter or a digit.

    A character of which a part of the bytes is there may become a letter.
    """
    text = text.replace(PARTIAL, "x")
    last = text.split()[-1:]
    return bool(last) and not text[-1].isspace() and count_words(last[0]) == 1


def ends_in_sign(text: str) -> bool:
    """Say whether a text ends with punctuation, another symbol or a space."""
    return unicodedata.category(text[-1:].replace(PARTIAL, "x") or "x")[0] in "PSZ"


def words_of_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[torch.Tensor, torch.Tensor]:
    """Count the words that each token adds to a caption: two counts over the vocabulary, (V,) int64.

    The first is for captions that end within a word, where a token adds one with each space before a letter or a
    digit; the second for those that end with a space or a sign, where a letter or a digit is enough. Part of the bytes
    of a character counts as a letter, which it may become.
    """
    (before,) = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    texts = tokenizer.batch_decode([[before, token] for token in range(len(tokenizer))])
    texts = [text.replace(PARTIAL, "x") for text in texts]
    start = len(tokenizer.decode([before]))
    in_word = torch.tensor([count_words(text) - 1 for text in texts])
    between = torch.tensor([count_words(text[start:]) for text in texts])
    return in_word, between
