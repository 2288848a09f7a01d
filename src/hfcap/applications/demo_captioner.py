"""The captioner behind `hfcap demo`: one photo at a time, in the words of `caption --describe` and `suggest`."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import NoReturn

from PIL import Image

from hfcap import runs
from hfcap.applications.describe import description
from hfcap.applications.doubt import unsure_words
from hfcap.applications.suggest_captions import is_cider_optimised, suggestion_stream
from hfcap.data.reading import PictureRows, loads_of
from hfcap.errors import WorkError
from hfcap.generation.captioners import load_for_command
from hfcap.generation.photo_files import Photo
from hfcap.generation.photos import why_unreadable

LARGEST = 50 * 2**20  # bytes of a photo's file
NO_PHOTO = "There is no photo yet: choose one first."


class Captioner:
    """A captioner on its device, used by one request at a time.

    Args:
        args: options of `hfcap demo`.

    Attributes:
        is_cider_optimised: its suggestions will be much alike (`hfcap.applications.suggest_captions.OPTIMISED`).

    Raises:
        ConfigError: a model that is wrong, or `--ocr` without RapidOCR.
    """

    def __init__(self, args: Namespace):
        self.args = args
        self.reader = None
        if args.ocr:
            from hfcap.applications.ocr import TextReader

            self.reader = TextReader()
        self.captioner = load_for_command(args, runs.resolve_model(args.model).path)
        self.is_cider_optimised = is_cider_optimised(args.model)
        self._one_at_a_time = Lock()

    def describe(self, path: str | None) -> list[str]:
        """Return the lines of `hfcap caption PHOTO --describe`.

        Raises:
            WorkError: no photo, or one that cannot be read; the message is for the page.
        """
        refuse = _refusal_of(path)
        with self._one_at_a_time:
            loads = loads_of(PictureRows([path]))
            ((_, sample),) = self.captioner.scored_stream(loads, self.args.prompt or None, 1, refuse)
            texts = self.reader.read(path) if self.reader else []
        quotes = [text["text"] for text in texts if text["quoted"]]
        return description(sample.caption, self.args.people, quotes, unsure_words(self.captioner.tokenizer, sample))

    def suggest(self, path: str | None, number: int, length: str | None) -> list[str]:
        """Return the captions of `hfcap suggest PHOTO --n NUMBER --length LENGTH`, the safest first.

        Raises:
            WorkError: no photo, or one that cannot be read; the message is for the page.
        """
        refuse = _refusal_of(path)
        args = Namespace(n=number, length=length, prompt=self.args.prompt, seed=0, batch_size=1)
        photos = [Photo("photo", Path(path))]
        with self._one_at_a_time:
            loads = loads_of(PictureRows([path]))
            ((_, found),) = suggestion_stream(args, self.captioner, photos, loads, refuse, avoid=[])
        return [suggestion.caption for suggestion in found]


def _refusal_of(path: str | None) -> Callable[[int, Exception], NoReturn]:
    """Return what is called when a photo cannot be read. Raises WorkError where there is none, or a file too large."""
    if not path:
        raise WorkError(NO_PHOTO)
    size = Path(path).stat().st_size
    if size > LARGEST:
        limit = f"{size / 2**20:,.0f} MB, and {LARGEST // 2**20} MB are the most"
        raise WorkError(f"This photo is too large: {limit}. Make it smaller, or choose another one.")

    def refuse(_index: int, error: Exception) -> NoReturn:
        is_large = isinstance(error, Image.DecompressionBombError)
        why = "it has too many pixels" if is_large else why_unreadable(error)
        raise WorkError(f"This photo cannot be read: {why}. Choose another one.") from error

    return refuse
