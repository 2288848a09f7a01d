"""Self-critical sequence training: captions sampled from the model, CIDEr-D or any sum of rewards to compare them.

Rennie et al., "Self-critical sequence training for image captioning", CVPR 2017 (REINFORCE with a baseline). The
baseline of a sample is the mean reward of the image's other samples (Luo, "A better variant of self-critical sequence
training", 2020), so nothing but the samples is decoded. Rewards see the end of a caption as a word, or captions learn
to stop after "in a": this is what the authors' implementation does too (https://github.com/ruotianluo/self-critical.pytorch).

The samples of an image are packed behind it like its references, so their log-probabilities are one forward pass over
target positions. The policy is the model's own distribution at `sampling_temperature`: sampling takes none of its
decoding settings but the suppressed tokens, and those are left out of the log-probabilities as well. Samples are drawn
without dropout, as captions are; the log-probabilities that train see the dropout of any training.

Rewards are those of `hfcap.training.rewards`. A divergence from the model that training began with (`kl_coef`) may be
added to the loss, so that wording stays that of the references: the exact KL of the two distributions at each sampled
token, with that model's weights kept beside (for LoRA, the base without its adapter).

After training with label smoothing, sample below temperature 1. Smoothing of 0.1 puts a tenth of each step's
probability on words that do not belong there, so two samples in three of a dozen words have one, and the shorter a
caption, the better its chance to have none: what the policy would learn first is to stop early.
"""

import math
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from transformers import PreTrainedModel

from hfcap.errors import ConfigError
from hfcap.generation.caption import generate_tokens
from hfcap.generation.inputs import CaptionPrefix
from hfcap.generation.settings import end_token_ids, fresh_settings
from hfcap.models.model_utils import in_eval, keep_frozen_in_eval
from hfcap.training.argument_checks import refuse_settings
from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments
from hfcap.training.collators import CaptionCollator
from hfcap.training.data_arguments import DataArguments
from hfcap.training.engine import current_backend
from hfcap.training.model_inputs import model_inputs
from hfcap.training.packing import IGNORE_INDEX
from hfcap.training.part_checks import check_model
from hfcap.training.rewards import REWARDS, Reward, import_reward, weighted_sum
from hfcap.training.starting_model import StartingModel
from hfcap.training.trainer import CaptionTrainer

NEVER = -1e9  # as a logit: a probability of exactly 0
PLAIN_SAMPLING = {"do_sample": True, "top_k": 0}  # 50 where nobody sets it


@dataclass
class ScstArguments(CaptionTrainingArguments):
    """`CaptionTrainingArguments` of training by rewards: CIDEr-D, unless told otherwise.

    Further defaults that differ: `learning_rate=2e-5`, constant; `num_train_epochs=5`.
    """

    num_samples: int = field(
        default=5, metadata={"min": 2, "help": "Captions sampled per image and step, at least two."}
    )
    sampling_temperature: float = field(
        default=1.0,
        metadata={
            "min": 0.01,
            "help": "The policy is softmax(logits / this); below 1 after training with label smoothing.",
        },
    )
    rewards: list[str] = field(
        default_factory=lambda: ["cider_d"],
        metadata={
            "help": f"Reward functions, summed by reward_weights: some of {', '.join(REWARDS)}, or your own as "
            "MODULE:FUNCTION (docs/rewards.md)."
        },
    )
    reward_weights: list[float] | None = field(
        default=None, metadata={"help": "Weights of the rewards, in the same order (default: 1 each)."}
    )
    length_band: list[int] | None = field(
        default=None,
        metadata={"help": "Fewest and most words per caption, for the reward length: minus 1 per word outside."},
    )
    kl_coef: float = field(
        default=0.0,
        metadata={
            "min": 0,
            "help": "Weight of the KL divergence from the starting model, summed over the tokens of a caption.",
        },
    )
    learning_rate: float = field(default=2e-5, metadata={"min": 0, "help": "AdamW's learning rate."})
    lr_scheduler_type: str = field(default="constant_with_warmup", metadata={"help": "Learning-rate schedule."})
    num_train_epochs: float = field(default=5, metadata={"help": "Passes over the images."})

    learns_references: ClassVar[bool] = False

    @property
    def rewards_use_clip(self) -> bool:
        """Whether a reward needs `clip_model`."""
        return "clip_score" in self.rewards

    def check(self, data_args: DataArguments, model_args: ModelArguments) -> None:
        """Refuse what samples cannot follow.

        Raises:
            ConfigError: no captioner to start from, an engine that divides weights, a stream, a setting for training
                on references, or rewards that cannot be computed.
        """
        check_model(model_args)
        self._check_rewards()
        if current_backend() not in ("single", "ddp"):
            raise ConfigError(
                "self-critical training samples in every step, which is not supported on engines that divide weights",
                option="training engine",
                got=current_backend(),
                wanted="single or ddp",
                fix="use DDP",
            )
        refused = {
            "streaming": (data_args.streaming, "the reward needs the references of all images in memory"),
            "references": (data_args.references, "the reward compares each sample with all references of its image"),
            "length_tokens": (self.length_tokens, "samples teach no new tokens: set it in the training before"),
            "label_smoothing_factor": (self.label_smoothing_factor, "samples are learned by their reward"),
            "meta": (self.meta, "samples are drawn with weights"),
            "max_row_tokens": (self.max_row_tokens, "samples are drawn in each step, so no length is known before"),
        }
        refuse_settings(refused)

    def _check_rewards(self) -> None:
        for name in self.rewards:
            if name not in REWARDS:
                import_reward(name)
        if len(set(self.rewards)) < len(self.rewards) or not self.rewards:
            raise ConfigError(option="rewards", got=self.rewards, wanted="one or more names, each once")
        if self.reward_weights is not None and len(self.reward_weights) != len(self.rewards):
            wanted = f"{len(self.rewards)} numbers, one for each of {' '.join(self.rewards)}"
            raise ConfigError(option="reward_weights", got=self.reward_weights, wanted=wanted)
        if self.reward_weights and not (all(map(math.isfinite, self.reward_weights)) and any(self.reward_weights)):
            wanted = "finite numbers, not all 0"
            raise ConfigError(option="reward_weights", got=self.reward_weights, wanted=wanted)
        band = self.length_band
        if ("length" in self.rewards) != (band is not None):
            raise ConfigError(
                "the reward length and length_band belong together",
                option="rewards",
                got=self.rewards,
                fix="set both, such as length_band: [10, 14], or neither",
            )
        if band is not None and not (len(band) == 2 and 0 < band[0] <= band[1]):
            raise ConfigError(option="length_band", got=band, wanted="two numbers of words, the fewest first")


def advantages(rewards: torch.Tensor) -> torch.Tensor:
    """Subtract from each sample's reward the mean of the other samples of its image, both (B, K) with K >= 2."""
    num_samples = rewards.shape[1]
    return (rewards - rewards.mean(dim=1, keepdim=True)) * num_samples / (num_samples - 1)


def log_policy(logits: torch.Tensor, suppressed: Sequence[int] = ()) -> torch.Tensor:
    """Log-probabilities of the policy.

    Args:
        logits: (N, vocabulary), one row for each sampled token, over the temperature.
        suppressed: token ids that sampling could not choose; they get the probability 0.

    Returns:
        (N, vocabulary) float32; finite, so that a probability of 0 times it is 0.
    """
    logits = logits.float()
    suppressed = [token_id for token_id in suppressed if token_id < logits.shape[1]]  # others have no logit
    if suppressed:
        logits = logits.index_fill(1, torch.tensor(suppressed, device=logits.device), NEVER)
    return logits.log_softmax(dim=-1)


def policy_gradient_loss(
    log_probabilities: torch.Tensor,
    labels: torch.Tensor,
    token_advantages: torch.Tensor,
    num_captions: torch.Tensor | int,
) -> torch.Tensor:
    """REINFORCE: minus the log-probability of each caption times its advantage, summed, over the number of captions.

    Divided by captions, not by tokens: the mean over sampled tokens would weigh short captions more.

    Args:
        log_probabilities: (N, vocabulary) float32, one row for each sampled token.
        labels: (N,) int64, the sampled tokens.
        token_advantages: (N,) float32, the advantage of the caption that each token belongs to.
        num_captions: captions in the optimizer step, over all micro-batches and processes.
    """
    chosen = log_probabilities.gather(1, labels[:, None])[:, 0]
    return -(token_advantages * chosen).sum() / num_captions


def kl_divergence(log_probabilities: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """KL(policy || reference) of each row of log-probabilities, (N, vocabulary) float32: (N,), at least 0."""
    return (log_probabilities.exp() * (log_probabilities - reference)).sum(dim=-1)


def cut_at_end(tokens: list[int], end_ids: Collection[int]) -> list[int]:
    """Cut sampled tokens after the first that ends a caption; without one they stay whole."""
    end = next((place for place, token in enumerate(tokens) if token in end_ids), len(tokens))
    return tokens[: end + 1]


@dataclass
class PictureCollator:
    """Collate rows `{image_id, image | vision_features}` into pictures to sample captions for.

    The batch has `prefixes`, the pictures with their prompts, `image_ids` (B strings), and `labels`, zeros
    (B, num_samples) int64: `Trainer` counts what is not -100 in them, and so knows the number of captions in an
    optimizer step. They are there as `shift_labels` too, since of `labels` alone it leaves out the first column.
    """

    collator: CaptionCollator
    num_samples: int

    def __call__(self, rows: Sequence[dict]) -> dict:
        """Collate `rows`."""
        labels = torch.zeros(len(rows), self.num_samples, dtype=torch.int64)
        prefixes = [self.collator.prefix(row) for row in rows]
        image_ids = [row["image_id"] for row in rows]
        return {"image_ids": image_ids, "labels": labels, "shift_labels": labels, "prefixes": prefixes}


class ScstTrainer(CaptionTrainer):
    """`CaptionTrainer` that samples captions and raises the probability of those that the rewards prefer.

    Its evaluation is that of `CaptionTrainer`. What it logs besides the loss, of the samples of all processes since
    the last log: `reward` (mean of the weighted sum), `rewards/NAME/mean` and `rewards/NAME/std` (of each, without its
    weight), `sample_tokens` (mean length) and, with `kl_coef`, `kl` (mean of a caption, as the loss sees it, so with
    dropout).

    Args:
        rewards: see `hfcap.training.rewards.build_rewards`; of the training images.
        kwargs: arguments of `CaptionTrainer`; `args` are `ScstArguments`.
    """

    # `policy_gradient_loss` divides by the captions of the whole step.
    loss_is_scaled_for_ga = True

    def __init__(self, *, rewards: Sequence[Reward], **kwargs):
        super().__init__(**kwargs)
        self.rewards = rewards
        references = self.train_dataset.rows.select_columns(["image_id", "captions"])
        self._references = dict(zip(references["image_id"], references["captions"], strict=True))
        self._sampled = torch.zeros(4, dtype=torch.float64)  # captions, their rewards, their tokens, their divergence
        self._start = StartingModel(self.model) if self.args.kl_coef else None

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """Load pictures only: references are inside the reward."""
        collator = self.data_collator
        self.data_collator = PictureCollator(collator, self.args.num_samples)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = collator

    def train(self, resume_from_checkpoint=None, **kwargs):
        """Train as `CaptionTrainer` does; the model that it began with attends as the one that trains."""
        if resume_from_checkpoint:
            for reward in self.rewards:
                reward.trust()
        with nullcontext() if self._start is None else self._start.attends_packed(self.args.torch_compile):
            return super().train(resume_from_checkpoint, **kwargs)

    def sample(self, model: PreTrainedModel, prefixes: Sequence[CaptionPrefix]) -> list[list[int]]:
        """Sample captions from the model's distribution: token ids, (B * num_samples) lists, EOS last if reached."""
        settings = fresh_settings(
            model,
            **PLAIN_SAMPLING,
            temperature=self.args.sampling_temperature,
            num_return_sequences=self.args.num_samples,
            max_new_tokens=self.data_collator.max_caption_tokens,
        )
        with in_eval(model), torch.no_grad():
            tokens = generate_tokens(model, self.data_collator.processor, prefixes, settings)
        end_ids = end_token_ids(settings)
        return [cut_at_end(row, end_ids) for row in tokens]

    def score(self, captions: list[list[int]], image_ids: list[str]) -> torch.Tensor:
        """Weighted sum of the rewards of sampled captions, (B, num_samples) float32."""
        end_ids = end_token_ids(self.accelerator.unwrap_model(self.model).generation_config)
        each = [image_id for image_id in image_ids for _ in range(self.args.num_samples)]
        total = weighted_sum(
            self.rewards,
            captions=self.processing_class.tokenizer.batch_decode(captions, skip_special_tokens=True),
            ended=[ids[-1] in end_ids for ids in captions],
            image_ids=each,
            references=[self._references[image_id] for image_id in each],
        )
        return total.view(len(image_ids), self.args.num_samples)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Sample, score, and compute the loss of a batch of pictures: `policy_gradient_loss` and the divergence."""
        if self.model.training:
            keep_frozen_in_eval(self.model)
        image_ids, labels, prefixes = (inputs.pop(name) for name in ("image_ids", "shift_labels", "prefixes"))
        self.check_weights()  # of NaN nothing can be sampled, and CUDA would say so in words of its own
        own_model = self.accelerator.unwrap_model(model)
        captions = self.sample(own_model, prefixes)
        rewards = self.score(captions, image_ids)
        lengths = torch.tensor([len(ids) for ids in captions])

        each = self.args.num_samples
        per_image = [captions[start : start + each] for start in range(0, len(captions), each)]
        batch = self._prepare_inputs(self.data_collator.collate(prefixes, per_image))
        batch = model_inputs(batch, own_model)
        sampled_tokens = batch.pop("labels")
        outputs = model(**batch)
        log_probabilities = self._log_policy(outputs.logits, sampled_tokens, own_model)
        num_captions = labels.numel() if num_items_in_batch is None else num_items_in_batch
        loss = policy_gradient_loss(
            log_probabilities,
            sampled_tokens[sampled_tokens != IGNORE_INDEX],
            advantages(rewards).flatten().repeat_interleave(lengths).to(sampled_tokens.device),
            num_captions,
        )
        divergence = torch.zeros(())
        if self.args.kl_coef:
            with self._start.without_gradient(own_model) as start, self.accelerator.autocast():
                reference = self._log_policy(start(**batch).logits, sampled_tokens, own_model)
            divergence = kl_divergence(log_probabilities, reference).sum()
            loss = loss + self.args.kl_coef * divergence / num_captions
        self._sampled += torch.tensor([len(captions), rewards.sum(), lengths.sum(), divergence.detach()])
        # Gradients are averaged over processes, and the loss is divided by the captions of all of them.
        loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _log_policy(
        self, logits: torch.Tensor, sampled_tokens: torch.Tensor, own_model: PreTrainedModel
    ) -> torch.Tensor:
        """Log-probabilities at the sampled tokens, (N, vocabulary)."""
        if sampled_tokens.ndim == 2:  # (B, L): the head of this type runs on all positions
            logits = logits[sampled_tokens != IGNORE_INDEX]
        suppressed = own_model.generation_config.suppress_tokens or ()
        return log_policy(logits / self.args.sampling_temperature, suppressed)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Add what the samples since the last log were worth, those of all processes."""
        if self._sampled[0] and "loss" in logs:
            sampled = self.accelerator.reduce(self._sampled.to(self.args.device), "sum")
            captions, rewards, tokens, divergence = sampled.tolist()
            logs |= {"reward": round(rewards / captions, 4)}
            for reward in self.rewards:
                logs |= reward.take_figures()
            logs["sample_tokens"] = round(tokens / captions, 2)
            if self.args.kl_coef:
                logs["kl"] = round(divergence / captions, 4)
            self._sampled.zero_()
        super().log(logs, *args, **kwargs)
