"""Greedy and beam search in NumPy: the tokens that `generate` of transformers finds.

Followed are `_sample` without sampling, `_beam_search` and the logits processors of transformers 5.24, step by step
and in float32; `tests/ondevice/test_search.py` compares the tokens. A picture whose caption is done leaves the batch,
where stock `generate` goes on to compute it.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from hfcap.ondevice.settings import DecodingSettings

NEVER = np.float32(-1.0e9)  # the score of what cannot be chosen


class DecodingState(Protocol):
    """What a decoder remembers of the tokens so far, for each row of a batch."""

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Take the next token of each row, (B,) int64; return logits of the one after it, (B, V) float32."""

    def select(self, rows: np.ndarray) -> None:
        """Keep these rows, in this order; a row may be there more than once."""


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log-probabilities over the last axis, in float32."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def process_scores(
    tokens: np.ndarray, scores: np.ndarray, settings: DecodingSettings, prompt_length: int
) -> np.ndarray:
    """Apply the settings that forbid or disfavour tokens, in the order of transformers.

    Args:
        tokens: (B, T) int64, prompt or start token first.
        scores: (B, V) float32 logits or log-probabilities; changed.
        settings: how captions are decoded.
        prompt_length: tokens before the caption.

    Returns:
        (B, V) float32.
    """
    num_tokens = tokens.shape[1]
    ends = [token for token in settings.eos_token_id if token < scores.shape[1]]
    if settings.repetition_penalty != 1.0:
        penalty = np.float32(settings.repetition_penalty)
        found = np.take_along_axis(scores, tokens, axis=1)
        np.put_along_axis(scores, tokens, np.where(found < 0, found * penalty, found / penalty), axis=1)
    size = settings.no_repeat_ngram_size
    if 0 < size <= num_tokens:
        windows = np.lib.stride_tricks.sliding_window_view(tokens, size, axis=1)
        matches = (windows[..., :-1] == tokens[:, None, num_tokens + 1 - size :]).all(axis=-1)
        rows, places = np.nonzero(matches)
        scores[rows, windows[rows, places, -1]] = -np.inf
    least = settings.min_length - prompt_length if settings.min_new_tokens is None else settings.min_new_tokens
    if num_tokens - prompt_length < least:
        scores[:, ends] = -np.inf
    # Like `generate`, which passes over ids that the vocabulary does not have.
    suppressed = [token for token in settings.suppress_tokens if token < scores.shape[1]]
    scores[:, suppressed] = -np.inf
    return scores


def greedy_search(
    state: DecodingState, logits: np.ndarray, prompts: np.ndarray, settings: DecodingSettings
) -> list[list[int]]:
    """Decode the most probable token each time.

    Args:
        state: of the decoder after the prompt, one row per picture.
        logits: (B, V) float32 after the prompt.
        prompts: (B, P) int64, prompt or start token.
        settings: how captions are decoded.

    Returns:
        The tokens after the prompt, with the end token where there is one.
    """
    prompt_length, ends = prompts.shape[1], np.array(settings.eos_token_id)
    found: list[list[int]] = [[] for _ in prompts]
    tokens, numbers = prompts, np.arange(len(prompts))
    while True:
        chosen = process_scores(tokens, logits, settings, prompt_length).argmax(axis=-1)
        for number, token in zip(numbers, chosen.tolist(), strict=True):
            found[number].append(token)
        tokens = np.concatenate([tokens, chosen[:, None]], axis=1)
        if tokens.shape[1] - prompt_length == settings.max_new_tokens:
            return found
        goes_on = np.flatnonzero(~np.isin(chosen, ends))
        if not len(goes_on):
            return found
        if len(goes_on) < len(chosen):
            state.select(goes_on)
            tokens, numbers, chosen = tokens[goes_on], numbers[goes_on], chosen[goes_on]
        logits = state.step(chosen)


class _Beams:
    """Beams of the pictures that are not done: K that run and the best K that ended, of each.

    Shapes: `running` and `ended` (B, K, L) int64, `running_scores` and `ended_scores` (B, K) float32, `has_ended`
    (B, K) bool, `can_improve` (B,) bool.
    """

    def __init__(self, prompts: np.ndarray, settings: DecodingSettings):
        batch, self.prompt_length = prompts.shape
        self.settings, self.width = settings, settings.num_beams
        length = self.prompt_length + settings.max_new_tokens
        self.running = np.zeros((batch, self.width, length), np.int64)
        self.running[:, :, : self.prompt_length] = prompts[:, None]
        self.ended = self.running.copy()
        # Only the first beam counts at the start, or all would be the same.
        self.running_scores = np.full((batch, self.width), NEVER, np.float32)
        self.running_scores[:, 0] = 0
        self.ended_scores = np.full((batch, self.width), NEVER, np.float32)
        self.ended_lengths = np.zeros((batch, self.width), np.int64)
        self.has_ended = np.zeros((batch, self.width), bool)
        self.can_improve = np.ones(batch, bool)
        self.length = self.prompt_length

    def advance(self, log_probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Choose the next tokens by scores (B, K, V).

        Returns:
            (B, K) int64, the beam that each one now running continues, and (B,) bool, which pictures are done.
        """
        num_kept = max(2, 1 + len(self.settings.eos_token_id)) * self.width
        vocab_size = log_probabilities.shape[-1]
        scores = (log_probabilities + self.running_scores[:, :, None]).reshape(len(self.running), -1)
        best, places = _top(scores, num_kept)
        beams, tokens = places // vocab_size, places % vocab_size
        candidates = np.take_along_axis(self.running, beams[:, :, None], axis=1)
        candidates[:, :, self.length] = tokens
        is_longest = self.length + 1 == candidates.shape[-1]
        ends = np.isin(tokens, self.settings.eos_token_id) | is_longest
        self._keep_ended(candidates, best, ends)
        self.running_scores, goes_on = _top(best + ends * NEVER, self.width)
        self.running = np.take_along_axis(candidates, goes_on[:, :, None], axis=1)
        self.length += 1
        self._update_hope()
        is_full = self.has_ended.all(axis=1) & (self.settings.early_stopping is True)
        return np.take_along_axis(beams, goes_on, axis=1), ~self.can_improve | is_full | ends.all(axis=1)

    def _keep_ended(self, candidates: np.ndarray, scores: np.ndarray, ends: np.ndarray) -> None:
        """Let candidates that end take the places of worse captions; only the K most probable ones may."""
        ends = ends & (np.arange(ends.shape[1]) < self.width)
        num_tokens = self.length + 1 - self.prompt_length
        scores = scores / np.float32(num_tokens**self.settings.length_penalty)
        is_full = self.has_ended.all(axis=1) & (self.settings.early_stopping is True)
        scores = scores + is_full[:, None] * NEVER + ~self.can_improve[:, None] * NEVER + ~ends * NEVER
        self.ended_scores, chosen = _top(np.concatenate([self.ended_scores, scores], axis=1), self.width)
        self.has_ended = np.take_along_axis(np.concatenate([self.has_ended, ends], axis=1), chosen, axis=1)
        lengths = np.concatenate([self.ended_lengths, np.full(scores.shape, num_tokens)], axis=1)
        self.ended_lengths = np.take_along_axis(lengths, chosen, axis=1)
        sequences = np.concatenate([self.ended, candidates], axis=1)
        self.ended = np.take_along_axis(sequences, chosen[:, :, None], axis=1)

    def _update_hope(self) -> None:
        """Find out which pictures' running beams may still beat the worst caption that ended.

        With `early_stopping=False` this is a guess, as in transformers: a longer caption may have a better score.
        """
        settings = self.settings
        is_long = settings.early_stopping == "never" and settings.length_penalty > 0
        length = (self.running.shape[-1] if is_long else self.length) - self.prompt_length
        best = self.running_scores[:, :1] / np.float32(length**settings.length_penalty)
        worst = np.where(self.has_ended, self.ended_scores.min(axis=1, keepdims=True), NEVER)
        self.can_improve &= (best > worst).any(axis=1)

    def best(self, row: int) -> list[int]:
        """Return the best caption of a picture."""
        end = self.prompt_length + self.ended_lengths[row, 0]
        return self.ended[row, 0, self.prompt_length : end].tolist()

    def select(self, rows: np.ndarray) -> None:
        """Keep these pictures."""
        for name in (
            "running",
            "ended",
            "running_scores",
            "ended_scores",
            "ended_lengths",
            "has_ended",
            "can_improve",
        ):
            setattr(self, name, getattr(self, name)[rows])


def beam_search(
    state: DecodingState, logits: np.ndarray, prompts: np.ndarray, settings: DecodingSettings
) -> list[list[int]]:
    """Decode with beams; arguments and result are those of `greedy_search`."""
    width, prompt_length = settings.num_beams, prompts.shape[1]
    found: list[list[int]] = [[] for _ in prompts]
    beams, numbers = _Beams(prompts, settings), np.arange(len(prompts))
    scores = process_scores(prompts, log_softmax(logits), settings, prompt_length)
    scores = np.repeat(scores, width, axis=0)
    rows = np.repeat(np.arange(len(prompts)), width)  # row of the decoder that each beam is
    while True:
        sources, is_done = beams.advance(scores.reshape(len(numbers), width, -1))
        rows = np.take_along_axis(rows.reshape(-1, width), sources, axis=1)
        for row in np.flatnonzero(is_done):
            found[numbers[row]] = beams.best(row)
        if is_done.all():
            return found
        if is_done.any():
            goes_on = np.flatnonzero(~is_done)
            beams.select(goes_on)
            numbers, rows = numbers[goes_on], rows[goes_on]
        state.select(rows.reshape(-1))
        tokens = beams.running[:, :, : beams.length].reshape(-1, beams.length)
        logits = state.step(tokens[:, -1])
        scores = process_scores(tokens, log_softmax(logits), settings, prompt_length)
        rows = np.arange(len(tokens))


def _top(scores: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the highest scores of each row, in order, and their places, both (B, number)."""
    places = np.argpartition(scores, -number, axis=1)[:, -number:] if number < scores.shape[1] else None
    places = np.sort(places, axis=1) if places is not None else np.broadcast_to(np.arange(number), scores.shape)
    values = np.take_along_axis(scores, places, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")  # of equal ones the first
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(places, order, axis=1)


def search_for(settings: DecodingSettings) -> Callable[..., list[list[int]]]:
    """Return `greedy_search` or `beam_search`, by the number of beams."""
    return greedy_search if settings.num_beams == 1 else beam_search


def token_log_probabilities(
    logits: np.ndarray, prompt: Sequence[int], caption: Sequence[int], settings: DecodingSettings
) -> list[float]:
    """Return the log-probability of each token of a caption, after the settings that forbid or disfavour tokens.

    Args:
        logits: (T, V) float32, those that each of the T tokens of the caption was chosen by.
        prompt: tokens before the caption.
        caption: T token ids.
        settings: how captions are decoded.
    """
    tokens = np.array([[*prompt, *caption]])
    values = []
    for place, token in enumerate(caption):
        length = len(prompt) + place
        scores = process_scores(tokens[:, :length], logits[place : place + 1].copy(), settings, len(prompt))
        values.append(float(log_softmax(scores)[0, token]))
    return values
