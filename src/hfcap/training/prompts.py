"""Prompt of a captioner: taken from the training rows and saved with the processor."""

import logging
from collections import Counter
from functools import partial

import datasets

from hfcap.counts import counted
from hfcap.data.caption_stream import FIRST_OF_STREAM, CaptionStream, first_texts
from hfcap.errors import ConfigError
from hfcap.generation.inputs import caption_prompt, keep_caption_prompt

logger = logging.getLogger(__name__)

MAX_SHOWN = 3


def save_prompt_of_rows(
    processor,
    rows: tuple[datasets.Dataset | datasets.IterableDataset, datasets.Dataset],
    given: str | None,
) -> None:
    """Let `processor` remember the prompt of a training, so that whoever captions asks as the training did.

    A row's own prompt wins over `given`, and that over what the processor of a loaded captioner remembers.

    Args:
        processor: of the captioner that trains.
        rows: training rows (of a stream the first ones are read) and evaluation rows, with a column `prompt` or not.
        given: the prompt of the run (`--prompt`).

    Raises:
        ConfigError: rows have different prompts and `given` does not choose one, or chooses one that no row has.
    """
    own = own_prompts(rows[0])
    asked = Counter({prompt: number for prompt, number in own.items() if prompt is not None})
    default = caption_prompt(processor) if given is None else given
    if not asked:
        kept = given
    else:
        if None in own and default is not None:
            asked[default] += own[None]
        if given is not None and given not in asked:
            raise ConfigError(
                f"no training row uses it, as the rows' own prompts take precedence: {_shown(asked)}",
                option="prompt",
                got=given,
                fix="remove --prompt, or pass one of these",
            )
        if given is None and len(asked) > 1:
            raise ConfigError(
                f"training rows have {len(asked)} prompts ({_shown(asked)}), and one of them is saved for captioning",
                option="prompt",
                fix="choose it with --prompt, or `prompt` in Python (rows keep their own)",
            )
        kept = next(iter(asked)) if given is None else given
    if kept is not None:
        keep_caption_prompt(processor, kept)
    others = Counter({prompt: n for prompt, n in own_prompts(rows[1]).items() if prompt not in (None, kept)})
    if others:
        logger.warning(
            "prompt: %s with another prompt than %r, which is saved (%s): `hfcap caption` gives other "
            "captions than those evaluated",
            counted(others.total(), "evaluation row"),
            kept,
            _shown(others),
        )


def choose_prompt_if_missing(processor, data: tuple, given: str | None) -> None:
    """Let `processor` keep the prompt of the data of a trainer, unless it keeps one of theirs already.

    Args:
        processor: of the captioner that trains.
        data: training and evaluation data, `CaptionDataset` or `CaptionStream`; others have no prompts of their own.
        given: the prompt that was chosen, None for none.

    Raises:
        ConfigError: see `save_prompt_of_rows`; for a stream later rows as well, while training.
    """
    train, evaluation = (
        part.source if isinstance(part, CaptionStream) else getattr(part, "rows", None) for part in data
    )
    known = caption_prompt(processor)
    if train is None:
        if given is not None:
            keep_caption_prompt(processor, given)
        return
    if given is None and known is not None and known in {prompt or known for prompt in own_prompts(train)}:
        return  # a recipe, or whoever made the processor, has chosen
    save_prompt_of_rows(processor, (train, train if evaluation is None else evaluation), given)
    if given is None and isinstance(data[0], CaptionStream) and data[0].check is None:
        data[0].check = partial(check_later_prompt, known=caption_prompt(processor))


def own_prompts(rows: datasets.Dataset | datasets.IterableDataset) -> Counter[str | None]:
    """Count the rows that have each prompt of their own, and under None those without; of a stream the first rows."""
    if isinstance(rows, datasets.IterableDataset):
        return Counter(row.get("prompt") or None for row in first_texts(rows, FIRST_OF_STREAM))
    if "prompt" not in rows.column_names:
        return Counter({None: len(rows)})
    return Counter(prompt or None for prompt in rows["prompt"])


def check_later_prompt(row: dict, known: str | None) -> None:
    """Check that a row of a stream is asked with the prompt that the first rows had.

    Raises:
        ConfigError: it has another.
    """
    if row.get("prompt") and row["prompt"] != known:
        raise ConfigError(
            f"{row['image_id']} has the prompt {row['prompt']!r}, and the first {FIRST_OF_STREAM:,} rows of the "
            f"stream had {'none' if known is None else repr(known)}, which is saved for captioning",
            option="prompt",
            fix="choose the one to save with --prompt (rows keep their own)",
        )


def _shown(prompts: Counter[str]) -> str:
    shown = [f"{prompt!r} in {counted(number, 'row')}" for prompt, number in prompts.most_common(MAX_SHOWN)]
    return ", ".join(shown) + (f" and {len(prompts) - MAX_SHOWN} more" if len(prompts) > MAX_SHOWN else "")
