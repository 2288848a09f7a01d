"""`hfcap caption --describe`: photos in plain lines, for somebody who cannot see them."""

import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence

from hfcap import runs
from hfcap.applications.doubt import unsure_words
from hfcap.applications.wording import worded
from hfcap.errors import ConfigError, WorkError, printable
from hfcap.generation.photo_files import find_photos
from hfcap.generation.photos import CLI_DECODING, photo_results, say_what_is_odd
from hfcap.ondevice.folder import is_onnx_folder

NOTICE = "Automatic description, may be wrong."
NOTHING = "No description: the model said nothing that could be one."


def check_options(args: Namespace) -> None:
    """Refuse options that `hfcap caption` cannot follow together.

    Raises:
        ConfigError: names the options and the fix.
    """
    if args.describe:
        given = [f"--{name}" for name in ("json", "output", "keep_both") if getattr(args, name)]
        if given:
            raise ConfigError("--describe prints plain text only", option=given[0], fix="remove one of the two")
    else:
        given = [f"--{name}" for name in ("ocr", "people") if getattr(args, name)]
        if given:
            raise ConfigError(
                "it has no effect without --describe", option=given[0], fix="add --describe, or remove it"
            )


def describe_photos(args: Namespace) -> None:
    """Print a description of each photo to stdout; progress goes to stderr, where that is a terminal.

    Raises:
        ConfigError: a path or a model that is wrong, or `--ocr` without RapidOCR.
        WorkError: not one photo could be read.
    """
    photos = find_photos(args.pictures)
    reader = None
    if args.ocr:
        from hfcap.applications.ocr import TextReader

        reader = TextReader()
    source = runs.resolve_model(args.model).path
    if not is_onnx_folder(source):
        _quiet_transformers()

    def stream(captioner, _photos, loads, skip) -> Iterator[tuple[int, tuple[str, list[str]]]]:
        decoding = {name: getattr(args, name) for name in CLI_DECODING}
        for index, sample in captioner.scored_stream(loads, args.prompt or None, args.batch_size, skip, **decoding):
            yield index, (sample.caption, unsure_words(captioner.tokenizer, sample))

    skipped: list[str] = []
    for number, (photo, found) in enumerate(photo_results(args, source, photos, stream, skipped, hidden=None)):
        caption, unsure = found
        texts = reader.read(str(photo.path)) if reader else []
        quotes = [text["text"] for text in texts if text["quoted"]]
        lines = description(caption, args.people or "neutral", quotes, unsure)
        if len(photos) > 1:
            lines = [*([""] if number else []), f"{printable(str(photo.path))}:", *lines]
        print("\n".join(lines), flush=True)
    say_what_is_odd(skipped, [], "")
    if len(skipped) == len(photos):
        raise WorkError("no photo could be read", fix="see the reasons above")


def _quiet_transformers() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()  # advice for developers, which a screen reader would read out
    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def description(
    caption: str, people: str = "neutral", quotes: Sequence[str] = (), unsure: Sequence[str] = ()
) -> list[str]:
    """Return the lines that describe a picture: that a program wrote them, what it shows, its text, what is in doubt.

    Args:
        caption: of the model.
        people: words for people, as for `hfcap.applications.wording.worded`.
        quotes: text in the picture, verbatim.
        unsure: words of the caption that the model is not sure of; only those that the description has are said.
    """
    found = worded(caption, people)
    lines = [NOTICE, (found.extended or found.alt) if found else NOTHING]
    if quotes:
        lines.append(f"Reads: {', '.join(f'“{printable(quote)}”' for quote in quotes)}.")
    said = re.findall(r"\w+", lines[1].lower()) if found else []
    if doubted := [word for word in dict.fromkeys(map(str.lower, unsure)) if word in said]:
        lines.append(f"Unsure of: {', '.join(doubted)}.")
    return lines
