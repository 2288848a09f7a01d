"""Argument dataclasses of the data: the source, its columns and splits, and how a step uses a row."""

from dataclasses import dataclass, field
from typing import Literal

from hfcap.data.augmentation import LARGEST_JITTER, SMALLEST_CROP
from hfcap.data.picture_checks import MAX_PIXELS
from hfcap.errors import ConfigError
from hfcap.training.argument_checks import check_minima


@dataclass
class SourceArguments:
    """Where the captioned pictures come from, and which of them are evaluated."""

    data: str = field(
        default="scenes",
        metadata={"help": "'scenes' (embedded), a folder or file of captioned pictures (docs/data.md), or a Hub id."},
    )
    image_folder: str | None = field(
        default=None,
        metadata={"help": "Folder of the images that a caption file names (default: found next to it)."},
    )
    image_column: str | None = field(default=None, metadata={"help": "Image column (detected by default)."})
    captions_column: str | None = field(default=None, metadata={"help": "Caption column (detected by default)."})
    eval_split: str = field(default="validation", metadata={"help": "Split to evaluate on."})
    max_eval_images: int | None = field(
        default=None,
        metadata={
            "min": 1,
            "help": "Evaluate on the first images of the split only; with 'scenes', how many to draw.",
        },
    )
    scenes_style: Literal["caption", "alt_text"] = field(
        default="caption", metadata={"help": "Style of the embedded data set's captions."}
    )
    scenes_image_size: int = field(
        default=96, metadata={"min": 1, "help": "Side of the embedded data set's images, in pixels."}
    )
    on_bad_image: Literal["error", "skip"] = field(
        default="error", metadata={"help": "Unreadable images: stop and list all of them, or skip them."}
    )
    max_pixels: int = field(
        default=MAX_PIXELS, metadata={"min": 1, "help": "Reject images with more pixels than this."}
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "Stream the training split (needs max_steps); the evaluation split is held in memory."},
    )
    prompt: str | None = field(
        default=None, metadata={"help": "Instruction before the caption; a `prompt` column overrides it."}
    )

    def __post_init__(self):
        check_minima(self)


@dataclass
class DataArguments(SourceArguments):
    """`SourceArguments` of a training: what it reads as well, and how a step uses it."""

    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    max_train_images: int | None = field(
        default=None,
        metadata={"min": 1, "help": "Train on the first images of the split only; with 'scenes', how many to draw."},
    )
    references: int | None = field(
        default=None,
        metadata={"min": 1, "help": "References per image and step, redrawn each epoch (default: all)."},
    )
    mirror: bool = field(
        default=False, metadata={"help": "Flip pictures at random where no caption names left or right."}
    )
    crop: float = field(
        default=1.0, metadata={"help": "Crop pictures at random, keeping at least this share of their area."}
    )
    cached_crops: int = field(
        default=0, metadata={"min": 0, "help": "With `feature_cache`: how many crops of each picture it keeps."}
    )
    color_jitter: float = field(
        default=0.0,
        metadata={
            "help": "Change brightness, contrast and saturation by up to this, where no caption names a colour."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if not SMALLEST_CROP <= self.crop <= 1:
            raise ConfigError(
                "a smaller part may lack what captions name",
                option="crop",
                got=self.crop,
                wanted=f"{SMALLEST_CROP} to 1 (no crop)",
            )
        if not 0 <= self.color_jitter <= LARGEST_JITTER:
            raise ConfigError(option="color_jitter", got=self.color_jitter, wanted=f"0 (none) to {LARGEST_JITTER}")


def check_cached_views(data_args: DataArguments, feature_cache: bool) -> None:
    """Check that a feature cache can hold what training shows of a picture.

    Raises:
        ConfigError: it cannot, or crops are to be kept that nothing draws.
    """
    if feature_cache and data_args.color_jitter:
        raise ConfigError(
            "cached features are those of a picture in its own colours",
            option="color_jitter",
            got=data_args.color_jitter,
            fix="remove it, or set feature_cache: false",
        )
    if feature_cache and data_args.crop < 1 and not data_args.cached_crops:
        raise ConfigError(
            "a feature cache holds a fixed number of crops of a picture",
            option="crop",
            got=data_args.crop,
            fix="set cached_crops to how many (4, say), or feature_cache: false",
        )
    if data_args.cached_crops and not (feature_cache and data_args.crop < 1):
        raise ConfigError(
            "a feature cache keeps these crops",
            option="cached_crops",
            got=data_args.cached_crops,
            fix="set feature_cache: true and crop below 1 (0.7, say), or remove it",
        )
