"""Argument dataclasses: their fields are the YAML keys and the command-line options."""

import json
import os
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from transformers import TrainingArguments

from hfcap.errors import ConfigError
from hfcap.metrics import CLIP_MODEL, DEFAULT_METRICS, lower_is_better, value_keys
from hfcap.models.precision import fast_bfloat16
from hfcap.training.argument_checks import (
    TAGGING_FIGURES,
    check_accelerator_config,
    check_average,
    check_best_metric,
    check_followed,
    check_minima,
    check_packages,
    check_report_to,
    check_schedule,
)
from hfcap.training.data_arguments import DataArguments
from hfcap.training.metric_choice import (
    CHAIR_SYNONYMS_HELP,
    CLIP_MODEL_HELP,
    METRICS_HELP,
    check_metrics,
    text_metrics,
)


@dataclass
class EncoderArguments:
    """An image encoder: a pretrained one, or the configuration of one from scratch."""

    encoder: str | None = field(default=None, metadata={"help": "Folder or Hub id of a pretrained image encoder."})
    encoder_config: dict | str | None = field(
        default=None, metadata={"help": "Configuration of an encoder trained from scratch, `model_type` included."}
    )
    image_size: int | None = field(
        default=None, metadata={"min": 1, "help": "Side of the encoder's square input images, in pixels."}
    )

    def __post_init__(self):
        check_minima(self)
        for name in ("encoder_config", "decoder_config", "bridge_config", "image_processor_config"):
            value = getattr(self, name, None)
            if isinstance(value, str):
                try:
                    setattr(self, name, json.loads(value))
                except (ValueError, RecursionError) as error:
                    raise ConfigError(str(error), option=name, got=value, wanted="a mapping") from error


@dataclass
class ModelArguments(EncoderArguments):
    """The captioner: a checkpoint to start from, or an encoder and a decoder to join."""

    model: str | None = field(default=None, metadata={"help": "Run folder, model folder or Hub id to start from."})
    encoder_training: str | None = field(
        default=None,
        metadata={"help": "YAML file of `recipes/train_encoder.py` that trains `encoder` first."},
    )
    family: Literal["llava", "encoder_decoder"] = field(
        default="llava", metadata={"help": "Architecture that joins `encoder` and `decoder`."}
    )
    decoder: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a pretrained text decoder; without it, `decoder_config` defines a new one."
        },
    )
    decoder_config: dict | str | None = field(
        default=None, metadata={"help": "Configuration of a decoder trained from scratch, `model_type` included."}
    )
    bridge_config: dict | str | None = field(
        default=None,
        metadata={"help": "Settings between the two parts (other fields of the captioner's config)."},
    )
    image_processor_config: dict | str | None = field(
        default=None,
        metadata={"help": "Settings of a loaded model's image processor to change (`do_image_splitting: false`)."},
    )
    vocab_size: int = field(
        default=4096,
        metadata={"min": 259, "help": "Vocabulary size of the tokenizer of a decoder from scratch (BPE)."},
    )
    plain_text: bool = field(default=False, metadata={"help": "Make that tokenizer lower-case, without punctuation."})
    chat_template: str | None = field(
        default=None,
        metadata={"help": "Jinja template of the prompt of a new LLaVA-style captioner (default: the decoder's own)."},
    )
    strategy: Literal["full", "frozen_encoder", "projector", "lora", "qlora"] = field(
        default="full",
        metadata={
            "help": "Which parts are trained: all; all but the encoder; the projector; projector and LoRA; "
            "projector and 4-bit LoRA."
        },
    )
    attn_implementation: Literal["sdpa", "flex_attention"] = field(
        default="sdpa",
        metadata={
            "help": "Attention of the language model in training; flex_attention, on a GPU, skips what packed rows "
            "never see."
        },
    )
    compile_layers: bool = field(
        default=False,
        metadata={"help": "torch.compile each layer of encoder and language model: faster on a GPU after a minute."},
    )
    lora_r: int = field(default=16, metadata={"min": 1, "help": "Rank of the LoRA matrices."})
    lora_alpha: int = field(
        default=32, metadata={"min": 1, "help": "The LoRA update is scaled by lora_alpha / lora_r."}
    )
    lora_dropout: float = field(default=0.0, metadata={"min": 0, "help": "Dropout before the LoRA matrices."})
    feature_cache: bool = field(
        default=False, metadata={"help": "Compute a frozen encoder's features once and read them from disk."}
    )
    cache_dir: str = field(default="outputs/features", metadata={"help": "Folder of the feature cache."})


@dataclass
class QLoraArguments(ModelArguments):
    """`ModelArguments` of a run that starts from a base and trains LoRA on its 4-bit language model."""

    strategy: Literal["qlora"] = field(default="qlora", metadata={"help": "Always qlora in this recipe."})
    base_config: str | None = field(
        default=None,
        metadata={"help": "YAML file of `recipes/train.py` that trains the base first, in the folder `model`."},
    )


TOKENIZER_HELP = (
    "What splits captions into words for the metrics (and for the words of train_encoder.py): ptb for English, as in "
    "COCO's figures; intl for any language with spaces between words; zh for Chinese; char, by characters, for "
    "Japanese, Thai and the like."
)


@dataclass
class RunArguments(TrainingArguments):
    """`TrainingArguments` of every recipe.

    Defaults that differ from `TrainingArguments`: `output_dir` is the run folder (checkpoints lie in its
    `checkpoints/`); evaluation and a checkpoint every epoch; two checkpoints are kept, the best one among them
    (`save_total_limit=2`), and a run ends with the best; `remove_unused_columns=False`; `lr_scheduler_type="cosine"`;
    each process reads a stream itself and takes its share (`dispatch_batches=False`): sent from one process, batches
    padded to different lengths cannot be joined. DDP looks for parameters without a gradient with activation
    checkpointing too (`ddp_find_unused_parameters`): LLaVA leaves the last layer of its encoder out. Loader processes
    by the machine (`loader_workers`).
    """

    output_dir: str = field(default="outputs/run", metadata={"help": "Run folder to write."})
    precision: Literal["float32", "bfloat16", "auto"] = field(
        default="float32",
        metadata={"help": "Precision of matrix products in training; auto: bfloat16 on hardware that is fast at it."},
    )
    tokenizer: Literal["ptb", "intl", "zh", "char"] = field(default="ptb", metadata={"help": TOKENIZER_HELP})
    early_stopping_patience: int | None = field(
        default=None, metadata={"min": 1, "help": "Stop after this many evaluations without a better metric."}
    )
    dataloader_num_workers: int | None = field(
        default=None,
        metadata={"help": "Worker processes that decode images ahead (default: none on a CPU, up to 8 with a GPU)."},
    )
    ddp_find_unused_parameters: bool | None = field(
        default=True, metadata={"help": "Let DDP look for parameters without a gradient in each step."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Keep it off: the collator needs all columns."}
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep, including the best one."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Load the best checkpoint at the end."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning-rate schedule."})

    def __post_init__(self):
        check_followed(self)
        for name in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):  # its name before 5.23
            kwargs = getattr(self, name, None)
            if isinstance(kwargs, str):
                kwargs = json.loads(kwargs)
            if (kwargs or {}).get("use_reentrant"):
                raise ConfigError(
                    "reentrant checkpoints pass no gradient to parts whose inputs need none, as with LoRA or a "
                    "frozen encoder",
                    option=f"{name}.use_reentrant",
                    got=True,
                    fix="remove it",
                )
        self.use_cpu = self.use_cpu or not torch.cuda.is_available()
        if self.bf16:  # the Trainer's own name for it
            self.precision = "bfloat16"
        self.bf16 = self.precision == "bfloat16" or (self.precision == "auto" and fast_bfloat16(self.use_cpu))
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = loader_workers(self.use_cpu)
            self.dataloader_persistent_workers = self.dataloader_num_workers > 0
        # An early stop counts on where a run goes on.
        self.restore_callback_states_from_checkpoint |= self.early_stopping_patience is not None
        check_accelerator_config(self.accelerator_config)
        super().__post_init__()
        precision = "bf16" if self.bf16 else "fp16" if self.fp16 else "no"
        if self.mixed_precision != precision:
            raise ConfigError(
                f"accelerate (its launcher or its configuration) is set to mixed_precision {self.mixed_precision!r}",
                option="precision",
                got=self.precision,
                fix="pass --precision bfloat16, or accelerate launch --mixed_precision no",
            )
        check_minima(self)
        check_schedule(self)
        check_report_to(self)
        check_packages(self)
        if self.early_stopping_patience is not None and (
            self.eval_strategy == "no" or self.metric_for_best_model is None
        ):
            raise ConfigError(
                "a run stops early by the metric metric_for_best_model of its evaluations (eval_strategy)",
                option="early_stopping_patience",
                got=self.early_stopping_patience,
                fix="set both, or remove it",
            )
        if self.accelerator_config.dispatch_batches is None:
            self.accelerator_config.dispatch_batches = False


@dataclass
class CaptionTrainingArguments(RunArguments):
    """`RunArguments` of a captioner: best CIDEr kept; `push_to_hub` uploads the finished run, and no checkpoint."""

    learns_references: ClassVar[bool] = True  # captions may then become as long as the references

    packing: Literal["auto", "always", "never"] = field(
        default="auto",
        metadata={
            "help": "Pack all references of an image into one row that shares its image tokens. auto: where the "
            "gradient is exact; always: fail otherwise; never: one row per reference."
        },
    )
    max_row_tokens: int | None = field(
        default=None,
        metadata={
            "min": 1,
            "help": "Pack several images into a row of up to this many tokens; the batch size then counts rows.",
        },
    )
    pad_to_multiple_of: int = field(
        default=1,
        metadata={"min": 1, "help": "Pad rows to a multiple of this many tokens, for fewer different shapes."},
    )
    max_caption_tokens: int = field(
        default=64,
        metadata={"min": 2, "help": "Truncate references to this many tokens; a truncated one gets no end token."},
    )
    length_tokens: bool = field(
        default=False,
        metadata={
            "help": "Start each caption with a special token for its number of words, so that captions of a requested "
            "length can be generated (hfcap caption --length 8)."
        },
    )
    average_checkpoints: int | None = field(
        default=None,
        metadata={
            "min": 2,
            "help": "Average the weights of this many checkpoints, the last ones, at the end of training "
            "(save_total_limit must keep as many).",
        },
    )
    encoder_learning_rate: float | None = field(
        default=None, metadata={"min": 0, "help": "Learning rate of the encoder (default: learning_rate)."}
    )
    projector_learning_rate: float | None = field(
        default=None, metadata={"min": 0, "help": "Learning rate of the projector (default: learning_rate)."}
    )
    eval_caption_images: int = field(
        default=200,
        metadata={"min": 1, "help": "Images to caption in each evaluation during training (the first of the split)."},
    )
    metrics: str = field(default=",".join(DEFAULT_METRICS), metadata={"help": METRICS_HELP})
    clip_model: str = field(default=CLIP_MODEL, metadata={"help": CLIP_MODEL_HELP})
    chair_synonyms: str | None = field(default=None, metadata={"help": CHAIR_SYNONYMS_HELP})
    metric_for_best_model: str | None = field(
        default="cider", metadata={"help": "Metric that selects the best checkpoint."}
    )
    num_beams: int | None = field(
        default=None,
        metadata={
            "min": 1,
            "help": "Beams of beam search (default: the checkpoint's; 3 for a new model).",
        },
    )
    length_penalty: float | None = field(
        default=None,
        metadata={"help": "Length penalty of beam search (default: the checkpoint's; 1.0 for a new model)."},
    )
    no_repeat_ngram_size: int | None = field(
        default=None,
        metadata={
            "min": 0,
            "help": "No n-gram of this size occurs twice (default: the checkpoint's; 0, off, for a new model).",
        },
    )
    max_new_tokens: int | None = field(
        default=None,
        metadata={
            "min": 1,
            "help": "Longest caption in tokens (default: the checkpoint's; a new model: 40 or the longest reference).",
        },
    )
    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Print a tokenized batch, trainable parameters, and estimated time and memory; do not train."
        },
    )
    meta: bool = field(
        default=False, metadata={"help": "With dry_run: describe the run by `model`'s configuration, without weights."}
    )

    def __post_init__(self):
        best = (self.metric_for_best_model or "").removeprefix("eval_")
        if self.greater_is_better is None and lower_is_better(best):
            self.greater_is_better = False  # transformers takes the greater value of all but a loss
        super().__post_init__()
        if self.meta and not self.dry_run:
            raise ConfigError("only a dry run does without weights", option="meta", got=True, fix="add --dry_run")
        check_metrics(self, self.rewards_use_clip)
        check_average(self)
        check_best_metric(self.metric_for_best_model, ("loss", *value_keys(text_metrics(self))))
        if self.eval_caption_images == 1 and self.metric_for_best_model in ("cider", "eval_cider"):
            raise ConfigError(
                "cider, which is metric_for_best_model, is 0 for a single image (it weighs words by how few images "
                "have them)",
                option="eval_caption_images",
                got=1,
                wanted="2 or more",
            )
        if self.push_to_hub and self.hub_model_id is None:
            raise ConfigError(
                "no repository to push to",
                option="push_to_hub",
                got=True,
                fix="pass --hub_model_id USER/NAME",
            )

    @property
    def rewards_use_clip(self) -> bool:
        """Whether training itself needs `clip_model`."""
        return False

    def check(self, data_args: DataArguments, model_args: ModelArguments) -> None:
        """Refuse settings of data and model that this objective cannot follow; cross entropy follows all."""


@dataclass
class EncoderTrainingArguments(RunArguments):
    """`RunArguments` of an encoder that learns the words of captions: best F1 kept."""

    metric_for_best_model: str | None = field(
        default="f1", metadata={"help": "Metric that selects the best checkpoint."}
    )

    def __post_init__(self):
        super().__post_init__()
        check_best_metric(self.metric_for_best_model, TAGGING_FIGURES)
        if self.label_smoothing_factor:
            raise ConfigError(
                "the multi-label loss of an encoder has no label smoothing",
                option="label_smoothing_factor",
                got=self.label_smoothing_factor,
                fix="remove it",
            )
        if self.push_to_hub:
            raise ConfigError(
                "an encoder alone is not published",
                option="push_to_hub",
                got=True,
                fix="remove it, and train a captioner with the encoder",
            )


def loader_workers(on_cpu: bool) -> int:
    """Processes of each training process that read pictures ahead.

    On a CPU none: they would take the cores that train (a picture of 384 pixels is 2 % of its training step). Beside a
    GPU this process's share of the cores, less its own, at most 8.
    """
    if on_cpu:
        return 0
    return max(1, min(8, os.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))
