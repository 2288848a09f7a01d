"""CLIPScore and RefCLIPScore with any CLIP-type checkpoint; needs torch and transformers, so it is imported by name.

Hessel et al., "CLIPScore: a reference-free evaluation metric for image captioning", EMNLP 2021; the reference
implementation is https://github.com/jmhessel/clipscore. The figures of papers are those of CLIP ViT-B/32. A SigLIP
checkpoint gives another score, and says so in its keys.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, PreTrainedModel, ProcessorMixin

from hfcap.data.features import hash_preprocessing, hash_weights
from hfcap.data.pictures import load_picture
from hfcap.models.pretrained import load_whole

from .corpus import check_references

PREFIX = "A photo depicts "
WEIGHT = 2.5


class ClipScorer:
    """A CLIP-type model that scores captions of pictures, and remembers the pictures.

    Args:
        model: with `get_image_features` and `get_text_features` (CLIP, SigLIP and their kin); put into eval().
        processor: its processor.
        batch_size: pictures or captions at a time.
        cache_dir: folder for image features, one file a model; None remembers them for this object only. A picture is
            known by its content, so a changed picture is encoded anew.

    Raises:
        TypeError: the model is not of CLIP type.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        batch_size: int = 32,
        cache_dir: str | os.PathLike | None = None,
    ):
        if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
            raise TypeError(
                f"{type(model).__name__} has no get_image_features and get_text_features; CLIPScore wants a CLIP-type "
                "model, such as CLIPModel or SiglipModel"
            )
        self.model = model.eval()
        self.processor = processor
        self.batch_size = batch_size
        self.name = "siglip" if model.config.model_type.startswith("siglip") else "clip"
        self._known: dict[str, np.ndarray] = {}
        self._file = None
        if cache_dir is not None:
            pixels = hash_preprocessing(processor.image_processor)
            key = hashlib.sha256((self.weights_hash + pixels).encode()).hexdigest()[:16]
            self._file = Path(cache_dir) / f"{self.name}-{key}.npz"
            if self._file.exists():
                with np.load(self._file) as stored:
                    self._known = dict(zip(stored["hashes"].tolist(), stored["features"], strict=True))

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 (hex) of the model's weights."""
        return hash_weights(self.model)

    @classmethod
    def from_pretrained(cls, checkpoint: str | os.PathLike, **options) -> "ClipScorer":
        """Load a checkpoint in float32, onto the accelerator where there is one; `options` are those of the class.

        Raises:
            ConfigError: see `load_whole`.
        """
        processor = AutoProcessor.from_pretrained(checkpoint, backend="pil")
        model = load_whole(AutoModel, "clip_model", str(checkpoint))
        return cls(model.to(torch.accelerator.current_accelerator() or "cpu"), processor, **options)

    def score(
        self,
        images: Iterable,
        candidates: Sequence[str],
        references: Sequence[Sequence[str]] | None = None,
    ) -> dict[str, float | list[float]]:
        """Score captions against their pictures, and against references where there are some.

        Args:
            images: N pictures, anything `hfcap.data.pictures.load_picture` takes; read one batch at a time.
            candidates: N captions.
            references: for each image, its reference captions; None leaves the second score out.

        Returns:
            {"clip_score": float, "clip_score_per_image": list} and, with references, "ref_clip_score" likewise;
            corpus values are means. The first is 2.5 times the cosine of picture and caption, at least 0; the second
            the harmonic mean of that with the best cosine of caption and reference. For SigLIP the keys say
            "siglip_score".

        Raises:
            ValueError: no captions, differing numbers, or an image without references.
        """
        if not len(candidates):
            raise ValueError("got 0 candidates; the score needs at least one")
        if references is not None and len(references) != len(candidates):
            raise ValueError(f"got {len(candidates)} candidates and references for {len(references)} images")
        seen = self.encode_images(images)
        if len(seen) != len(candidates):
            raise ValueError(f"got {len(candidates)} candidates and {len(seen)} images; pass one caption per image")
        said = self.encode_texts(candidates)
        per_image = self.agreement(seen, said)
        result = _with_mean(f"{self.name}_score", per_image)
        if references is not None:
            agreement = self._best_of_references(said, references)
            total = per_image + agreement
            harmonic = np.divide(2 * per_image * agreement, total, out=np.zeros_like(total), where=total > 0)
            result |= _with_mean(f"ref_{self.name}_score", harmonic)
        return result

    @staticmethod
    def agreement(seen: np.ndarray, said: np.ndarray) -> np.ndarray:
        """CLIPScore of features of N pictures and N captions, each (N, D) of length 1: (N,), from 0 to 2.5."""
        return WEIGHT * np.maximum((seen * said).sum(axis=1), 0.0)

    def _best_of_references(self, said: np.ndarray, references: Sequence[Sequence[str]]) -> np.ndarray:
        """Give the best cosine of each candidate with one of its references, at least 0: (N,)."""
        for image, captions in enumerate(references):
            check_references(image, captions)
        numbers = np.array([len(captions) for captions in references])
        written = self.encode_texts([caption for captions in references for caption in captions])
        cosines = (written * np.repeat(said, numbers, axis=0)).sum(axis=1)
        return np.maximum(np.maximum.reduceat(cosines, np.cumsum(numbers) - numbers), 0.0)

    def encode_images(self, images: Iterable) -> np.ndarray:
        """Give features of length 1, (N, D), from memory where the picture is known."""
        hashes: list[str] = []
        num_known = len(self._known)
        for batch in _batches(map(load_picture, images), self.batch_size):
            names = [hash_picture(picture) for picture in batch]
            new = {name: picture for name, picture in zip(names, batch, strict=True) if name not in self._known}
            if new:
                inputs = self.processor.image_processor(images=list(new.values()), return_tensors="pt")
                features = self._features(self.model.get_image_features, inputs)
                self._known |= zip(new, features, strict=True)
            hashes += names
        if self._file is not None and len(self._known) > num_known:
            self._save()
        return np.stack([self._known[name] for name in hashes]) if hashes else np.empty((0, 0))

    def encode_texts(self, captions: Sequence[str]) -> np.ndarray:
        """Give features of length 1, (N, D), of captions with the prefix of the paper."""
        options = {
            # SigLIP was trained on texts padded to the full length.
            "padding": "max_length" if self.name == "siglip" else True,
            "truncation": True,
            "max_length": self.model.config.text_config.max_position_embeddings,
            "return_tensors": "pt",
        }
        features = []
        for batch in _batches((PREFIX + caption for caption in captions), self.batch_size):
            features.append(self._features(self.model.get_text_features, self.processor.tokenizer(batch, **options)))
        return np.concatenate(features)

    @torch.no_grad()
    def _features(self, encode: Callable, inputs) -> np.ndarray:
        outputs = encode(**inputs.to(self.model.device))
        features = getattr(outputs, "pooler_output", outputs).double().cpu().numpy()  # (B, D)
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    def _save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(f".{os.getpid()}.partial")
        with open(partial, "wb") as file:
            np.savez(file, hashes=list(self._known), features=np.stack(list(self._known.values())))
        os.replace(partial, self._file)


def hash_picture(picture: Image.Image) -> str:
    """Give the SHA-256 of a picture's size, mode and pixels."""
    header = f"{picture.mode} {picture.size}".encode()
    return hashlib.sha256(header + picture.tobytes()).hexdigest()


def _batches(items: Iterable, size: int) -> Iterator[list]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _with_mean(key: str, per_image: np.ndarray) -> dict[str, float | list[float]]:
    return {key: float(per_image.mean()), f"{key}_per_image": per_image.tolist()}
