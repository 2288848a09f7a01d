"""Argument dataclasses of `recipes/train_tagger.py`, and the checks of its settings against each other."""

from dataclasses import dataclass, field
from typing import Literal

from hfcap.errors import ConfigError
from hfcap.training.argument_checks import check_best_metric, refuse_settings
from hfcap.training.arguments import EncoderArguments, RunArguments
from hfcap.training.config_checks import check_keys, config_class_of
from hfcap.training.data_arguments import DataArguments, check_cached_views
from hfcap.training.support import Backend

TAGGER_FIGURES = ("loss", "map", "log_loss")
TAGGER_BACKENDS = ("single", "ddp", "zero1", "zero2")  # each with a test in tests/training/test_tagger_backends.py


@dataclass
class TaggerArguments(EncoderArguments):
    """The tagger: the policy that names its tags, the encoder they are seen by, and which of its parts train."""

    policy: str | None = field(default=None, metadata={"help": "YAML file of the tags (docs/moderation.md)."})
    model: str | None = field(
        default=None, metadata={"help": "Captioner whose encoder is taken: run folder, model folder or Hub id."}
    )
    strategy: Literal["frozen_encoder", "full"] = field(
        default="frozen_encoder", metadata={"help": "Which parts are trained: the head, or all."}
    )
    feature_cache: bool = field(
        default=False, metadata={"help": "Compute a frozen encoder's features once and read them from disk."}
    )
    cache_dir: str = field(default="outputs/features", metadata={"help": "Folder of the feature cache."})


@dataclass
class TaggerTrainingArguments(RunArguments):
    """`RunArguments` of a tagger: best mean average precision kept; `hfcap push` uploads the finished run."""

    metric_for_best_model: str | None = field(
        default="map", metadata={"help": "Metric that selects the best checkpoint."}
    )
    tag_loss: Literal["plain", "weighted", "focal"] = field(
        default="plain",
        metadata={
            "help": "plain: binary cross entropy; weighted: positives count as much as negatives; focal: focal loss."
        },
    )
    focal_gamma: float = field(default=2.0, metadata={"min": 0, "help": "Exponent of the focal loss."})
    calibration_share: float = field(
        default=0.2,
        metadata={"min": 0, "help": "Share of the training images that calibrate the probabilities and do not train."},
    )

    def __post_init__(self):
        super().__post_init__()
        check_best_metric(self.metric_for_best_model, TAGGER_FIGURES)
        if self.label_smoothing_factor:
            raise ConfigError(
                "a tagger is calibrated instead",
                option="label_smoothing_factor",
                got=self.label_smoothing_factor,
                fix="remove it",
            )
        if not 0 <= self.calibration_share <= 0.5:
            raise ConfigError(option="calibration_share", got=self.calibration_share, wanted="0 (none) to 0.5")
        if self.push_to_hub:
            raise ConfigError(
                "a tagger is published by hand, after a look at its card",
                option="push_to_hub",
                got=True,
                fix="remove it, and run `hfcap push` afterwards",
            )


def check_tagger(
    data_args: DataArguments, tagger_args: TaggerArguments, args: TaggerTrainingArguments, backend: Backend
) -> None:
    """Check the settings of a tagger against each other and the engine.

    Raises:
        ConfigError: an engine that is not tested with taggers; no policy; not one encoder; a stream, or a setting of
            captioners; cached features of an encoder that trains, or of pictures that change.
    """
    if backend not in TAGGER_BACKENDS:
        raise ConfigError(
            "not supported for taggers (docs/compatibility.md)",
            option="training engine",
            got=backend,
            wanted=f"one of {', '.join(TAGGER_BACKENDS)}",
        )
    if tagger_args.policy is None:
        raise ConfigError("no tags to learn", option="policy", fix="pass a file such as configs/policy/example.yaml")
    _check_encoder(tagger_args)
    refused = {
        "streaming": (data_args.streaming, "the labels of all images are counted before training"),
        "references": (data_args.references, "a tagger is labeled by all captions of an image"),
        "prompt": (data_args.prompt, "a tagger takes no prompt"),
    }
    refuse_settings(refused)
    check_cached_views(data_args, tagger_args.feature_cache)
    if tagger_args.feature_cache and tagger_args.strategy != "frozen_encoder":
        raise ConfigError(
            f"features are cached for a frozen encoder, and strategy {tagger_args.strategy!r} trains it",
            option="feature_cache",
            got=True,
            fix="set strategy: frozen_encoder, or feature_cache: false",
        )


def _check_encoder(args: TaggerArguments) -> None:
    given = [name for name in ("encoder", "encoder_config", "model") if getattr(args, name) is not None]
    if len(given) != 1:
        raise ConfigError(
            f"{' and '.join(given)} are set" if given else "neither encoder, encoder_config nor model is set",
            option="encoder",
            fix="set one: a pretrained encoder or classifier, one from scratch, or a captioner whose encoder is taken",
        )
    if args.model is not None and args.image_size is not None:
        raise ConfigError(
            "a captioner's encoder keeps its image processor",
            option="image_size",
            got=args.image_size,
            fix="remove it",
        )
    if args.encoder_config is None:
        return
    check_keys("encoder_config", args.encoder_config, config_class_of("encoder_config", args.encoder_config))
    if args.image_size is None:
        raise ConfigError("an encoder needs the side of its images in pixels", option="image_size", fix="set it")
    if args.strategy != "full":
        raise ConfigError(
            "an encoder from scratch knows nothing until it is trained",
            option="strategy",
            got=args.strategy,
            fix="set strategy: full",
        )
