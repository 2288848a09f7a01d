"""Text in pictures, read by RapidOCR (extra `ocr`: Apache-2.0, its weights come with the package)."""

import numpy as np

from hfcap.applications.images import image_bytes
from hfcap.data.pictures import load_picture
from hfcap.errors import ConfigError

MIN_SCORE = 0.9  # below it a text is kept for the person who decides, and not quoted
MAX_QUOTES = 3
LONGEST_QUOTE = 60  # characters; what is longer is a page, and not a sign


class TextReader:
    """Reads texts; the engine is loaded once.

    Raises:
        ConfigError: RapidOCR is not installed.
    """

    def __init__(self):
        try:
            from rapidocr import RapidOCR
        except ImportError:
            raise ConfigError("RapidOCR is missing", option="--ocr", fix='pip install "hfcap[ocr]"') from None
        self.engine = RapidOCR(params={"Global.log_level": "error"})

    def read(self, image: str) -> list[dict]:
        """Return `{"text", "score", "quoted"}` for each text in a picture, from the top; a broken picture has none."""
        try:
            pixels = np.asarray(load_picture(image_bytes(image)))[:, :, ::-1]  # (H, W, 3), BGR as OpenCV has it
        except (OSError, ValueError, SyntaxError):
            return []
        found = self.engine(np.ascontiguousarray(pixels))
        texts = zip(found.txts or (), found.scores or (), strict=True)
        return quotable([{"text": text, "score": round(float(score), 4)} for text, score in texts])


def quotable(texts: list[dict]) -> list[dict]:
    """Mark the texts that may be quoted: those that are read surely, are short, and have a letter or digit."""
    left = MAX_QUOTES
    for text in texts:
        sure = text["score"] >= MIN_SCORE and len(text["text"]) <= LONGEST_QUOTE
        text["quoted"] = bool(left and sure and any(map(str.isalnum, text["text"])))
        left -= text["quoted"]
    return texts
