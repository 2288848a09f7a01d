"""Feature cache: features of a frozen encoder, computed once and read from disk in training.

It pays where the encoder is slower than the disk, which a CNN on two CPU cores is by far. On a CPU small batches are
fastest: MobileNetV2 at 224 pixels was at its best with 8, where its maps still fit into the processor's cache.

A cache is found by its key: the encoder's weights and settings, the preprocessing, the view, the pictures in their
order (of crops their ids as well), and what becomes of one test picture, so that code of other versions of the
libraries counts as well. Whatever changes, the key does, and the features go to another folder; nothing is ever
reused by name. Old folders are not deleted: each is safe to remove by hand.
"""

import hashlib
import io
import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from filelock import AcquireReturnProxy, FileLock, Timeout
from PIL import Image
from tqdm.auto import tqdm

from hfcap import __version__
from hfcap.counts import counted
from hfcap.data.augmentation import View
from hfcap.data.feature_store import ArraySpec, is_written, open_array, read_complete, write_array
from hfcap.data.picture_checks import content_hashes
from hfcap.data.pictures import ORIENTATION, load_picture
from hfcap.models.model_utils import in_eval
from hfcap.models.vision_features import encoder_features, find_encoder

logger = logging.getLogger(__name__)

PLAIN = View()
DTYPES = ("float16", "float32")
# Part of each key: raise it when load_picture changes what it gives in a case that the test picture does not show.
FORMAT_VERSION = 1
# Settings of a model that choose which of the encoder's outputs are the features.
FEATURE_SETTINGS = ("vision_feature_layer", "vision_feature_select_strategy")
# Settings that differ between two copies of the same encoder, or change nothing in its features.
IRRELEVANT_SETTINGS = (
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "processor_class",
    "return_dict",
    "transformers_version",
)


class FeatureCache:
    """Encoder features of the images of one data set, memory-mapped.

    Args:
        folders: folder of the features of each view.
        image_ids: of the data set's rows, in order.

    """

    def __init__(self, folders: dict[View, Path], image_ids: Sequence[str]):
        self.folders = folders
        self.image_ids = list(image_ids)
        self._rows = {image_id: row for row, image_id in enumerate(self.image_ids)}
        self._arrays: dict[View, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getstate__(self) -> dict:
        # A pickled memory map is a copy of the whole file; workers open it themselves.
        return {**self.__dict__, "_arrays": {}}

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D) of one image's features."""
        return self._array(next(iter(self.folders))).shape[1:]

    def read(self, image: int | str, view: View = PLAIN) -> torch.Tensor:
        """Return the features (N, D) of an image as a new float32 tensor.

        Args:
            image: row number in the data set, or image_id.
            view: one of the views the cache was built with.

        Raises:
            KeyError: no image has this id.
            IndexError: the row is beyond the end.
            ValueError: the view was not built.

        """
        row = self._rows[image] if isinstance(image, str) else image
        return torch.from_numpy(self._array(view)[row].astype(np.float32))

    def _array(self, view: View) -> np.ndarray:
        if view not in self.folders:
            raise ValueError(f"the feature cache has no view {view}; it has: {', '.join(map(str, self.folders))}")
        if view not in self._arrays:
            self._arrays[view] = open_array(self.folders[view])
        return self._arrays[view]


class ComputedFeatures:
    """Encoder features computed when they are asked for, in the place of a `FeatureCache`; nothing is written.

    Args:
        model: as for `cache_features`, and so are the others.
        image_processor: its image processor.
        dataset: rows of `image_id` and `image`.
    """

    def __init__(self, model: torch.nn.Module, image_processor, dataset: datasets.Dataset):
        self._features_in = partial(
            _feature_function, model, find_encoder(model), image_processor, dataset, batch_size=1
        )
        self._num_images = len(dataset)

    def __len__(self) -> int:
        return self._num_images

    def read(self, image: int, view: View = PLAIN) -> torch.Tensor:
        """Return the features (N, D) float32 of the image in a row of the data set."""
        return torch.from_numpy(self._features_in(view=view)(range(image, image + 1))[0])


def cache_features(
    model: torch.nn.Module,
    image_processor,
    dataset: datasets.Dataset,
    cache_dir: str | Path,
    batch_size: int = 8,
    views: Sequence[View] = (PLAIN,),
    dtype: str = "float16",
) -> FeatureCache:
    """Give the encoder's features of all images, from disk where they are there, else computed and written.

    Several processes may call this at once: one computes, the others wait for it and read. An interrupted run is
    continued by the next one, and damaged files are found (size and CRC-32) and computed again.

    Args:
        model: has `get_vision_features(pixel_values) -> (B, N, D)`, or is a native captioner whose facts name a
            `feature_input`. Its encoder is in eval() meanwhile.
        image_processor: image processor, or a processor that has one as `image_processor`.
        dataset: rows of `image_id` and `image`.
        cache_dir: folder that holds a folder for each key.
        batch_size: images the encoder sees at a time.
        views: of each picture. A view that is there already is kept.
        dtype: on disk. "float16" rounds to 11 significant bits: a relative error of at most 2**-11 = 0.0005 for
            magnitudes from 6.1e-5 to 65504, an absolute one of at most 3e-8 below. "float32" is twice as large.

    Returns:
        `FeatureCache` with one entry per row of `dataset`.

    Raises:
        ValueError: for no view, an unknown dtype, a picture that cannot be read, pictures that give features of
            different shapes, and features that are not finite (in float16: above 65504).
        ConfigError: a native model that features of one shape cannot serve.
        OSError: the disk has less free space than the features need.

    """
    if not views:
        raise ValueError("no view to keep features of")
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}: choose {', '.join(DTYPES)}")
    image_processor = getattr(image_processor, "image_processor", image_processor)
    encoder = find_encoder(model)
    parts = {
        "format": FORMAT_VERSION,
        "weights": hash_weights(encoder),
        "encoder": _settings_of(model, encoder, image_processor),
        "preprocessing": {"class": type(image_processor).__name__, **_plain_dict(image_processor.to_dict())},
        "images": _hash_json(content_hashes(dataset)),
        "dtype": dtype,
    }
    image_ids = dataset.select_columns(["image_id"])["image_id"][:]
    keys = {}
    for view in dict.fromkeys(views):
        view_parts = {**parts, "view": str(view), "test picture": _try_out(model, encoder, image_processor, view)}
        if view.crop < 1:
            view_parts["image ids"] = _hash_json(image_ids)  # they decide where the crops are
        keys[view] = Path(cache_dir) / f"{view}-{_hash_json(view_parts)[:24]}", view_parts
    folders = {view: folder for view, (folder, _) in keys.items()}
    for number, (view, (folder, view_parts)) in enumerate(keys.items()):
        features_of = _feature_function(model, encoder, image_processor, dataset, view, batch_size)
        later = [other for other in list(folders.values())[number + 1 :] if not is_written(other)]
        _build_once(folder, view_parts, len(dataset), features_of, 1 + len(later))
    return FeatureCache(folders, image_ids)


def hash_weights(module: torch.nn.Module) -> str:
    """Return a sha256 (hex) over names, dtypes, shapes and bytes of all parameters and buffers of the state dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # As bytes: NumPy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def hash_preprocessing(image_processor, view: View = PLAIN) -> str:
    """Return a sha256 (hex) of what a view and an image processor make of a test picture.

    Settings alone do not tell: the same class of another version of its library, or of another backend (Pillow or
    torchvision), gives other pixels.
    """
    encoded = image_processor(images=[view(load_picture(_test_picture()), "test picture")], return_tensors="pt")
    digest = hashlib.sha256()
    for name, tensor in sorted(encoded.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def _test_picture() -> bytes:
    """A JPEG, wider than high, that lies on its side by its EXIF: smooth in one channel, with edges in the others."""
    y, x = np.mgrid[:71, :97]
    pixels = np.stack([2 * x + y // 2, 255 * ((x // 7 + y // 5) % 2), (x * y) % 256], axis=-1)
    exif, file = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = 6
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=90, exif=exif)
    return file.getvalue()


def _try_out(model: torch.nn.Module, encoder: torch.nn.Module, image_processor, view: View) -> dict[str, object]:
    """What becomes of the test picture: its pixels exactly, and the shape and size of its features.

    The shape tells whether the class token is among them. The features are rounded, since their last digits differ
    between devices; a rounding that falls to the other side costs a computation, and no wrong features.
    """
    features = _encode(model, encoder, image_processor, [view(load_picture(_test_picture()), "test picture")])
    sizes = (np.abs(features).mean(), np.square(features).mean())  # no sums around zero, which would be noise
    return {
        "pixels": hash_preprocessing(image_processor, view),
        "shape": features.shape[1:],
        "features": [f"{size:.2e}" for size in sizes],
    }


@torch.no_grad()
def _encode(model: torch.nn.Module, encoder: torch.nn.Module, image_processor, pictures: list) -> np.ndarray:
    """Return the features (B, N, D) float32 of loaded pictures."""
    device = next(encoder.parameters()).device
    encoded = image_processor(images=pictures, return_tensors="pt")
    on_device = {name: tensor.to(device) for name, tensor in encoded.items()}
    with in_eval(encoder):
        return encoder_features(model, encoder, on_device).float().cpu().numpy()


def _build_once(
    folder: Path, parts: dict, num_images: int, features_of: Callable[[range], np.ndarray], num_views: int
) -> None:
    """Write the features of a view, the first of `num_views` to be written, unless they are there."""
    key = _hash_json(parts)
    if read_complete(folder, key) is not None:
        logger.info("features of %s found in %s", counted(num_images, "image"), folder)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _acquire(FileLock(f"{folder}.lock")):
        if read_complete(folder, key) is not None:
            return
        # The shape is known only after one picture; a wrong guess from a config would cost the whole file.
        _, num_tokens, width = features_of(range(1)).shape
        spec = ArraySpec(key, num_images, num_tokens, width, parts["dtype"])
        size = f"{spec.total_bytes / 1e6:,.1f} MB"
        in_all = f" ({num_views * spec.total_bytes / 1e6:,.1f} MB for {num_views} views)" if num_views > 1 else ""
        logger.info("writing %s of features of %s to %s%s", size, counted(num_images, "image"), folder, in_all)
        with tqdm(total=num_images, desc=f"features ({parts['view']}, {size})", unit="image") as progress:
            facts = {"key_parts": parts, "versions": _versions()}

            def compute(block: range) -> np.ndarray:
                return _checked(features_of(block), spec, block)

            write_array(folder, spec, compute, facts, progress.update, num_views)


def _acquire(lock: FileLock) -> AcquireReturnProxy:
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another process that computes these features (lock %s)", lock.lock_file)
        return lock.acquire()


def _feature_function(
    model: torch.nn.Module,
    encoder: torch.nn.Module,
    image_processor,
    dataset: datasets.Dataset,
    view: View,
    batch_size: int,
) -> Callable[[range], np.ndarray]:
    """Return the function from consecutive rows to their features (rows, N, D) float32."""
    # Decoding is left to load_picture, so that a picture is treated here as in training.
    images = dataset.select_columns(["image_id", "image"]).cast_column("image", datasets.Image(decode=False))

    def picture_of(number: int) -> Image.Image:
        row = images[number]
        try:
            return view(load_picture(row["image"]), row["image_id"])
        except OSError as error:
            raise ValueError(f"the picture of row {number} cannot be read: {error}; repair or remove it") from error

    def features_of(rows: range) -> np.ndarray:
        batches = []
        for start in range(rows.start, rows.stop, batch_size):
            pictures = [picture_of(row) for row in range(start, min(start + batch_size, rows.stop))]
            batches.append(_encode(model, encoder, image_processor, pictures))
        shapes = {batch.shape[1:] for batch in batches}
        if len(shapes) > 1:
            raise ValueError(f"pictures give features of different shapes {sorted(shapes)}: let them have one size")
        return np.concatenate(batches)

    return features_of


def _checked(features: np.ndarray, spec: ArraySpec, rows: range) -> np.ndarray:
    if features.shape[1:] != spec.shape[1:]:
        raise ValueError(
            f"pictures from row {rows.start} on give features of {features.shape[1:]}, row 0 of {spec.shape[1:]}: "
            "let the image processor bring pictures to one size"
        )
    with np.errstate(over="ignore"):
        stored = features.astype(spec.dtype)
    if not np.isfinite(stored).all():
        raise ValueError(
            f"features of rows {rows.start} to {rows.stop - 1} are not finite as {spec.dtype} (largest magnitude "
            f"{np.abs(features).max():.4g}, float16 ends at 65504): use dtype='float32', or repair the encoder"
        )
    return stored


def _settings_of(model: torch.nn.Module, encoder: torch.nn.Module, image_processor) -> dict:
    encoder_config = encoder.config.to_dict() if hasattr(encoder, "config") else {}
    settings = {"class": type(encoder).__name__, "config": _plain_dict(encoder_config)}
    chosen = {name: getattr(model.config, name, None) for name in FEATURE_SETTINGS}
    # The families name a CNN's last map differently: they share its cache.
    is_last_map = chosen["vision_feature_layer"] in (None, -1) and _gives_map(encoder, image_processor)
    return settings if is_last_map else settings | chosen


@torch.no_grad()
def _gives_map(encoder: torch.nn.Module, image_processor) -> bool:
    """Whether an encoder of pixels alone gives (B, D, H, W), and not (B, N, D)."""
    blank = image_processor(images=[Image.new("RGB", (32, 32))], return_tensors="pt")
    if set(blank) != {"pixel_values"}:
        return False
    like = next(encoder.parameters())
    with in_eval(encoder):
        return encoder(blank["pixel_values"].to(like)).last_hidden_state.ndim == 4


def _plain_dict(settings: dict) -> dict:
    kept = {name: value for name, value in settings.items() if not name.startswith("_")}
    return {name: value for name, value in kept.items() if name not in IRRELEVANT_SETTINGS}


def _hash_json(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _versions() -> dict[str, str]:
    modules = {"torch": torch, "transformers": transformers, "datasets": datasets, "numpy": np}
    return {"hfcap": __version__, **{name: str(module.__version__) for name, module in modules.items()}}
