"""Direct preference optimization: chosen captions above rejected ones, without a reward model and without sampling.

Rafailov et al., "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", NeurIPS 2023. The
reward of a caption is `beta` times the logarithm of how much likelier it is than it was when training began, and the
loss of a pair is -log sigmoid of the difference of its two rewards. Names of settings and figures are those of TRL.

Chosen and rejected captions of an image are packed behind it like its references, so a step is one forward pass of
the model that trains and one of the model that training began with (`StartingModel`; for LoRA the base without its
adapter), each encoding the image once.

The loss of preferences sees differences alone. With pairs that differ in a word the probability of both captions can
fall until captions break, so `rpo_alpha` adds the cross entropy of the chosen ones, over their length (Pang et al.,
"Iterative Reasoning Preference Optimization", NeurIPS 2024).

Unlike in TRL, the log-probabilities that train see the dropout of any training.
"""

import copy
import logging
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import ModelOutput

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.preferences import Preferences, WordExchange, check_pairs, has_pairs, same_pair, texts_of_pairs
from hfcap.errors import ConfigError
from hfcap.models.attention import eager_sdpa
from hfcap.models.model_utils import full_precision, in_eval, keep_frozen_in_eval
from hfcap.training.argument_checks import refuse_settings
from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments
from hfcap.training.collators import CaptionCollator
from hfcap.training.data_arguments import DataArguments
from hfcap.training.engine import current_backend
from hfcap.training.model_inputs import model_inputs
from hfcap.training.packing import IGNORE_INDEX
from hfcap.training.part_checks import check_model
from hfcap.training.starting_model import StartingModel
from hfcap.training.throughput import evaluating
from hfcap.training.trainer import CaptionTrainer

logger = logging.getLogger(__name__)


@dataclass
class DpoArguments(CaptionTrainingArguments):
    """`CaptionTrainingArguments` of training by preferences.

    Further defaults that differ: `learning_rate=1e-5`, constant after a warm-up; `num_train_epochs=1`.
    """

    beta: float = field(
        default=0.1,
        metadata={"help": "Scale of the rewards; the larger, the closer captions stay to the starting model's."},
    )
    rpo_alpha: float = field(
        default=0.0,
        metadata={
            "min": 0,
            "help": "Weight of the cross entropy of chosen captions (per token) beside the loss of preferences.",
        },
    )
    rejected: Literal["column", "corrupted"] = field(
        default="column",
        metadata={
            "help": "Where rejected captions come from: the column rejected, beside chosen (or the captions); or "
            "references with one content word exchanged (docs/preferences.md)."
        },
    )
    learning_rate: float = field(default=1e-5, metadata={"min": 0, "help": "AdamW's learning rate."})
    lr_scheduler_type: str = field(default="constant_with_warmup", metadata={"help": "Learning-rate schedule."})
    num_train_epochs: float = field(default=1, metadata={"help": "Passes over the images."})

    learns_references: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.beta < float("inf"):
            raise ConfigError(option="beta", got=self.beta, wanted="a finite number above 0")

    def check(self, data_args: DataArguments, model_args: ModelArguments) -> None:
        """Refuse what pairs of captions cannot follow.

        Raises:
            ConfigError: no captioner to start from, an engine that divides weights, a stream, or a setting that would
                make a rejected caption right or leave a pair out.
        """
        check_model(model_args)
        if current_backend() not in ("single", "ddp"):
            raise ConfigError(
                "preference training keeps the starting model whole, which is not supported on engines that divide "
                "weights",
                option="training engine",
                got=current_backend(),
                wanted="single or ddp",
                fix="use DDP",
            )
        refused = {
            "streaming": (data_args.streaming, "a stream has captions alone, and no pairs"),
            "mirror": (data_args.mirror, "a flipped picture may show what the rejected caption says"),
            "color_jitter": (data_args.color_jitter, "other colours may be those that the rejected caption names"),
            "length_tokens": (self.length_tokens, "pairs teach no new tokens: set it in the training before"),
            "label_smoothing_factor": (self.label_smoothing_factor, "a pair is learned by its difference"),
            "meta": (self.meta, "the starting model is run with weights"),
            "max_row_tokens": (self.max_row_tokens, "rows are planned by the references, and these are pairs"),
        }
        refuse_settings(refused)


def dpo_loss(log_ratios: torch.Tensor, beta: float) -> torch.Tensor:
    """Loss of each pair, (P,) float32.

    Args:
        log_ratios: (P, 2) float32, log-probability of the chosen and the rejected caption, each minus the starting
            model's.
        beta: scale of the rewards.
    """
    return -F.logsigmoid(beta * (log_ratios[:, 0] - log_ratios[:, 1]))


def number_captions(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Number the captions of a collated batch from 0: (N,) int64, the caption of each target, in the batch's order."""
    is_target = batch["shift_labels"] != IGNORE_INDEX
    rows = torch.arange(len(is_target), device=is_target.device)[:, None].expand_as(is_target)
    places = torch.stack([rows, batch["image_ids"], batch["segment_ids"]], dim=-1)[is_target]  # (N, 3)
    return torch.unique_consecutive(places, dim=0, return_inverse=True)[1]


def caption_log_probabilities(logits: torch.Tensor, labels: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
    """Log-probability of each caption, the sum over its targets: (C,) float32.

    Args:
        logits: (N, vocabulary), one row for each target, or (B, L, vocabulary).
        labels: (N,) or (B, L) int64, -100 for nothing.
        captions: (N,) int64, which caption each target belongs to; see `number_captions`.
    """
    if labels.ndim == 2:  # the head of this type runs on all positions
        logits, labels = logits[labels != IGNORE_INDEX], labels[labels != IGNORE_INDEX]
    tokens = -F.cross_entropy(logits.float(), labels, reduction="none")
    return tokens.new_zeros(int(captions[-1]) + 1).index_add(0, captions, tokens)


class DpoTrainer(CaptionTrainer):
    """`CaptionTrainer` that raises the probability of chosen captions over that of rejected ones.

    What it logs besides the loss, of the pairs since the last log: `rewards/chosen` and `rewards/rejected` (means),
    `rewards/margins` (their difference) and `rewards/accuracies` (share of pairs whose chosen caption has the higher
    reward). Evaluations have these figures too, of the pairs of the images that they caption.

    Args:
        kwargs: arguments of `CaptionTrainer`; `args` are `DpoArguments`, and the rows of `train_dataset` have a column
            `rejected` unless `args.rejected` is "corrupted"; those of `eval_dataset` may have it.

    Raises:
        ConfigError: as of `CaptionTrainer`; see `check_pairs` and `WordExchange`; a pair without a difference that
            `max_caption_tokens` and the tokenizer leave.
    """

    # `compute_loss` divides by the pairs of the whole step.
    loss_is_scaled_for_ga = True

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(self.train_dataset, CaptionDataset):
            name = type(self.train_dataset).__name__
            raise ConfigError(f"a {name}", option="train_dataset", wanted="rows that are read whole")
        exchange = word_exchange(self.train_dataset) if self.args.rejected == "corrupted" else None
        self.train_dataset = pairs_of(self.train_dataset, exchange, self.data_collator)
        self._exchange = exchange
        self.eval_pairs = None if self.eval_dataset is None else self.pairs_to_evaluate(self.eval_dataset)
        self._start = StartingModel(self.model)
        self._compared: list[torch.Tensor] = []  # (4,) each, of the batches since the last log: see `_sums`

    def train(self, *args, **kwargs):
        """Train as `CaptionTrainer` does; the model that it began with attends as the one that trains."""
        with self._start.attends_packed(self.args.torch_compile):
            return super().train(*args, **kwargs)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Take the micro-batches of an optimizer step, and count the pairs of all processes in them."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        captions = sum(number_captions(batch)[-1] + 1 for batch in batches)
        return batches, self.accelerator.reduce(captions.to(device) // 2, "sum")

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute the mean loss of a collated batch of pairs; `num_items_in_batch` is that of the pairs."""
        if self.model.training:
            keep_frozen_in_eval(self.model)
        captions = number_captions(inputs)
        with self.accelerator.autocast():
            log_probabilities, log_ratios, outputs = self._compare(model, inputs, captions)
        losses = dpo_loss(log_ratios, self.args.beta)
        if self.args.rpo_alpha:
            per_token = log_probabilities / captions.bincount().view(-1, 2)
            losses = losses - self.args.rpo_alpha * per_token[:, 0]
        self._compared.append(self._sums(log_ratios))
        # Gradients are averaged over processes, and the loss is divided by the pairs of all of them.
        number = len(losses) if num_items_in_batch is None else num_items_in_batch / self.accelerator.num_processes
        loss = losses.sum() / number
        return (loss, outputs) if return_outputs else loss

    def _compare(self, model, inputs, captions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, ModelOutput]:
        """Log-probabilities of P pairs, (P, 2), the same minus the starting model's, and what `model` gave."""
        own_model = self.accelerator.unwrap_model(model)
        batch = model_inputs(inputs, own_model)
        labels = batch.pop("labels")
        with self._start.without_gradient(own_model) as start:
            reference = caption_log_probabilities(start(**batch).logits, labels, captions)
        outputs = model(**batch)
        log_probabilities = caption_log_probabilities(outputs.logits, labels, captions)
        return log_probabilities.view(-1, 2), (log_probabilities - reference).view(-1, 2), outputs

    def _sums(self, log_ratios: torch.Tensor) -> torch.Tensor:
        """Number of pairs, their rewards as chosen and as rejected, and how many are in the right order: (4,)."""
        chosen, rejected = self.args.beta * log_ratios.detach().T
        return torch.stack([torch.ones_like(chosen), chosen, rejected, chosen > rejected]).double().sum(dim=1)

    def _figures(self, sums: torch.Tensor) -> dict[str, float]:
        """What is logged of the pairs of all processes, by the sums of each."""
        pairs, chosen, rejected, in_order = self.accelerator.reduce(sums, "sum").tolist()
        return {
            "rewards/chosen": chosen / pairs,
            "rewards/rejected": rejected / pairs,
            "rewards/accuracies": in_order / pairs,
            "rewards/margins": (chosen - rejected) / pairs,
        }

    def pairs_to_evaluate(self, data: CaptionDataset) -> CaptionDataset | None:
        """Give the pairs of `data`, made as those of training are; None where it has none.

        Raises:
            ConfigError: see `pairs_of`.
        """
        if self._exchange is None and not has_pairs(data.rows):
            return None
        return pairs_of(data, self._exchange, self.data_collator)

    def evaluation_loop(self, dataloader, *args, metric_key_prefix: str = "eval", **kwargs) -> EvalLoopOutput:
        """Evaluate as `CaptionTrainer` does; with pairs their rewards as well."""
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        data = dataloader.dataset
        pairs = self.eval_pairs if data is self.eval_dataset else self.pairs_to_evaluate(data)
        if pairs is not None:
            figures = self.preference_metrics(pairs)
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in figures.items()})
        return output

    @torch.no_grad()
    def preference_metrics(self, pairs: CaptionDataset) -> dict[str, float]:
        """Rewards of the pairs of the first `eval_caption_images` images; all processes call it."""
        args, sums = self.args, torch.zeros(4, dtype=torch.float64, device=self.args.device)
        mine = range(args.process_index, min(args.eval_caption_images, len(pairs)), args.world_size)
        model = self.accelerator.unwrap_model(self.model)
        with evaluating(args), in_eval(model), full_precision(model), eager_sdpa(model):
            for start in range(0, len(mine), args.per_device_eval_batch_size):
                rows = [pairs[index] for index in mine[start : start + args.per_device_eval_batch_size]]
                inputs = self._prepare_inputs(self.data_collator(rows))
                sums += self._sums(self._compare(model, inputs, number_captions(inputs))[1])
        return self._figures(sums)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Add the rewards of the pairs since the last log, of all processes."""
        if self._compared and "loss" in logs:
            logs |= self._figures(torch.stack(self._compared).sum(dim=0))
            self._compared.clear()
        super().log(logs, *args, **kwargs)


def word_exchange(data: CaptionDataset) -> WordExchange:
    """Make rejected captions of the references of `data`, and log how many are one of another picture instead.

    Raises:
        ConfigError: all pictures have the same captions.
    """
    exchange = WordExchange(data.rows["captions"])
    references = [(text, own) for own in data.rows["captions"] for text in own]
    able = sum(bool(exchange.candidates(*reference)) for reference in references)
    logger.info(
        "rejected captions: one word exchanged in %d of %d references, for the others one of another picture",
        able,
        len(references),
    )
    return exchange


def pairs_of(data: CaptionDataset, exchange: WordExchange | None, collator: CaptionCollator) -> CaptionDataset:
    """Give a data set whose items have pairs of captions in place of references; see `Preferences`.

    Raises:
        ConfigError: without `exchange`, see `check_pairs`; a pair without a difference that `max_caption_tokens` and
            the tokenizer leave.
    """
    if exchange is None:
        check_pairs(data.rows)
        for row in data.rows.remove_columns({"image"} & set(data.rows.column_names)):
            chosen, other = texts_of_pairs(row)
            whole = zip(collator.whole_targets(chosen), collator.whole_targets(other), strict=True)
            for better, worse, targets in zip(chosen, other, whole, strict=True):
                if reason := why_same(better, worse, *targets, collator.max_caption_tokens):
                    raise same_pair(row["image_id"], worse, reason)
    paired = copy.copy(data)
    paired.augmentation = Preferences(**vars(data.augmentation) | {"exchange": exchange})
    return paired


def why_same(chosen: str, rejected: str, chosen_ids: list[int], rejected_ids: list[int], limit: int) -> str | None:
    """Return why two captions of these token ids are no pair: the model or a reader sees no difference; else None."""
    if chosen.split() == rejected.split():
        return "the chosen caption but for white space"
    if chosen_ids[:limit] != rejected_ids[:limit]:
        return None
    if chosen_ids != rejected_ids:
        return f"the same first {limit} tokens as the chosen caption (max_caption_tokens={limit})"
    return "the same tokens as the chosen caption: the tokenizer does not tell them apart"
