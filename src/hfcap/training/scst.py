"""Self-critical sequence training: captions sampled from the model, CIDEr-D as their reward.

Rennie et al., "Self-critical sequence training for image captioning", CVPR 2017 (REINFORCE with a baseline). The
baseline of a sample is the mean reward of the image's other samples (Luo, "A better variant of self-critical sequence
training", 2020), so nothing but the samples is decoded. Rewards see the end of a caption as a word, or captions learn
to stop after "in a": this is what the authors' implementation does too (https://github.com/ruotianluo/self-critical.pytorch).

The samples of an image are packed behind it like its references, so their log-probabilities are one forward pass over
target positions. The policy is the model's own distribution at `sampling_temperature`: sampling takes none of its
decoding settings but the suppressed tokens, and those are left out of the log-probabilities as well. Samples are drawn
without dropout, as captions are; the log-probabilities that train see the dropout of any training.

After training with label smoothing, sample below temperature 1. Smoothing of 0.1 puts a tenth of each step's
probability on words that do not belong there, so two samples in three of a dozen words have one, and the shorter a
caption, the better its chance to have none: what the policy would learn first is to stop early.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from hfcap.errors import ConfigError
from hfcap.generation.caption import generate_tokens
from hfcap.generation.inputs import CaptionPrefix
from hfcap.generation.settings import end_token_ids, fresh_settings
from hfcap.metrics.reward import CiderDReward
from hfcap.models.model_utils import keep_frozen_in_eval
from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments
from hfcap.training.collators import CaptionCollator
from hfcap.training.data_arguments import DataArguments
from hfcap.training.engine import current_backend
from hfcap.training.model_inputs import model_inputs
from hfcap.training.packing import IGNORE_INDEX
from hfcap.training.settings_checks import check_model
from hfcap.training.trainer import CaptionTrainer

# No caption holds it, so it is worth points only as the end of one.
END_WORD = "endofcaption"
END_CHARACTER = "\ue000"  # the same for rewards by characters: a private one, so a single token too
PLAIN_SAMPLING = {"do_sample": True, "top_k": 0}  # 50 where nobody sets it


@dataclass
class ScstArguments(CaptionTrainingArguments):
    """`CaptionTrainingArguments` of CIDEr-optimised training.

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
    learning_rate: float = field(default=2e-5, metadata={"min": 0, "help": "AdamW's learning rate."})
    lr_scheduler_type: str = field(default="constant_with_warmup", metadata={"help": "Learning-rate schedule."})
    num_train_epochs: float = field(default=5, metadata={"help": "Passes over the images."})

    learns_references: ClassVar[bool] = False

    def check(self, data_args: DataArguments, model_args: ModelArguments) -> None:
        """Refuse what samples cannot follow.

        Raises:
            ConfigError: no captioner to start from, an engine that divides weights, a stream, or a setting for
                training on references.
        """
        check_model(model_args)
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
            "label_smoothing_factor": (self.label_smoothing_factor, "samples are learned by their reward"),
            "max_row_tokens": (self.max_row_tokens, "samples are drawn in each step, so no length is known before"),
        }
        for name, (value, reason) in refused.items():
            if value:
                raise ConfigError(reason, option=name, got=value, fix="remove it")


def with_end(caption: str, tokenizer: str = "ptb") -> str:
    """Put the end of a caption into its text, as a token of its own for the reward."""
    return f"{caption} {END_CHARACTER if tokenizer == 'char' else END_WORD}"


def caption_reward(references: Mapping[str, Sequence[str]], tokenizer: str = "ptb") -> CiderDReward:
    """CIDEr-D against `references`, ends included, with their own document frequencies.

    Raises:
        ConfigError: references of one image, which give every sample the reward 0.
    """
    if len(references) < 2:
        raise ConfigError(
            "CIDEr-D weighs words by how few images have them, so every reward would be 0",
            option="number of training images",
            got=len(references),
            wanted="2 or more",
            fix="raise max_train_images, or use more data",
        )
    ended = {image_id: [with_end(text, tokenizer) for text in texts] for image_id, texts in references.items()}
    return CiderDReward(ended, tokenizer=tokenizer)


def advantages(rewards: torch.Tensor) -> torch.Tensor:
    """Subtract from each sample's reward the mean of the other samples of its image, both (B, K) with K >= 2."""
    num_samples = rewards.shape[1]
    return (rewards - rewards.mean(dim=1, keepdim=True)) * num_samples / (num_samples - 1)


def policy_gradient_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    token_advantages: torch.Tensor,
    num_captions: torch.Tensor | int,
    suppressed: Sequence[int] = (),
) -> torch.Tensor:
    """REINFORCE: minus the log-probability of each caption times its advantage, summed, over the number of captions.

    Divided by captions, not by tokens: the mean over sampled tokens would weigh short captions more.

    Args:
        logits: (N, vocabulary), one row for each sampled token, over the temperature.
        labels: (N,) int64, the sampled tokens.
        token_advantages: (N,) float32, the advantage of the caption that each token belongs to.
        num_captions: captions in the optimizer step, over all micro-batches and processes.
        suppressed: token ids that sampling could not choose.
    """
    logits = logits.float()
    suppressed = [token_id for token_id in suppressed if token_id < logits.shape[1]]  # others have no logit
    if suppressed:
        logits = logits.index_fill(1, torch.tensor(suppressed, device=logits.device), -torch.inf)
    log_probabilities = -F.cross_entropy(logits, labels, reduction="none")
    return -(token_advantages * log_probabilities).sum() / num_captions


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
    """`CaptionTrainer` that samples captions and raises the probability of those that the reward prefers.

    Its evaluation is that of `CaptionTrainer`. What it logs besides the loss: `reward` (mean CIDEr-D of the samples,
    end included, from 0 to 10) and `sample_tokens` (their mean length), since the last log.

    Args:
        reward: of the training images.
        kwargs: arguments of `CaptionTrainer`; `args` are `ScstArguments`.
    """

    # `policy_gradient_loss` divides by the captions of the whole step.
    loss_is_scaled_for_ga = True

    def __init__(self, *, reward: CiderDReward, **kwargs):
        super().__init__(**kwargs)
        self.reward = reward
        self._sampled = torch.zeros(3, dtype=torch.float64)  # captions, their rewards, their tokens

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """Load pictures only: references are inside the reward."""
        collator = self.data_collator
        self.data_collator = PictureCollator(collator, self.args.num_samples)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = collator

    def sample(self, model: PreTrainedModel, prefixes: Sequence[CaptionPrefix]) -> list[list[int]]:
        """Sample captions from the model's distribution: token ids, (B * num_samples) lists, EOS last if reached."""
        settings = fresh_settings(
            model,
            **PLAIN_SAMPLING,
            temperature=self.args.sampling_temperature,
            num_return_sequences=self.args.num_samples,
            max_new_tokens=self.data_collator.max_caption_tokens,
        )
        was_training = model.training
        model.eval()
        with torch.no_grad():
            tokens = generate_tokens(model, self.data_collator.processor, prefixes, settings)
        model.train(was_training)
        if was_training:
            keep_frozen_in_eval(model)  # stock models do not do it in their train()
        end_ids = end_token_ids(settings)
        return [cut_at_end(row, end_ids) for row in tokens]

    def score(self, captions: list[list[int]], image_ids: list[str]) -> torch.Tensor:
        """Reward of sampled captions, (B, num_samples) float32."""
        end_ids = end_token_ids(self.accelerator.unwrap_model(self.model).generation_config)
        tokenizer = self.processing_class.tokenizer
        texts = tokenizer.batch_decode(captions, skip_special_tokens=True)
        ended = [with_end(text, self.args.tokenizer) for text in texts]
        texts = [end if ids[-1] in end_ids else text for text, end, ids in zip(texts, ended, captions, strict=True)]
        each = [image_id for image_id in image_ids for _ in range(self.args.num_samples)]
        return torch.from_numpy(self.reward.score(texts, each)).view(len(image_ids), self.args.num_samples)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Sample, score, and compute `policy_gradient_loss` of a batch of pictures."""
        image_ids, labels, prefixes = (inputs.pop(name) for name in ("image_ids", "shift_labels", "prefixes"))
        self.check_weights()  # of NaN nothing can be sampled, and CUDA would say so in words of its own
        own_model = self.accelerator.unwrap_model(model)
        captions = self.sample(own_model, prefixes)
        rewards = self.score(captions, image_ids)
        lengths = torch.tensor([len(ids) for ids in captions])
        self._sampled += torch.tensor([len(captions), rewards.sum(), lengths.sum()], dtype=torch.float64)

        each = self.args.num_samples
        per_image = [captions[start : start + each] for start in range(0, len(captions), each)]
        batch = self._prepare_inputs(self.data_collator.collate(prefixes, per_image))
        batch = model_inputs(batch, own_model)
        sampled_tokens = batch.pop("labels")
        outputs = model(**batch)
        logits = outputs.logits
        if sampled_tokens.ndim == 2:  # (B, L): the head of this type runs on all positions
            is_target = sampled_tokens != IGNORE_INDEX
            logits, sampled_tokens = logits[is_target], sampled_tokens[is_target]
        loss = policy_gradient_loss(
            logits / self.args.sampling_temperature,
            sampled_tokens,
            advantages(rewards).flatten().repeat_interleave(lengths).to(sampled_tokens.device),
            labels.numel() if num_items_in_batch is None else num_items_in_batch,
            own_model.generation_config.suppress_tokens or (),
        )
        # Gradients are averaged over processes, and the loss is divided by the captions of all of them.
        loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Add what the samples since the last log were worth."""
        captions, rewards, tokens = self._sampled.tolist()
        if captions and "loss" in logs:
            logs |= {"reward": round(rewards / captions, 4), "sample_tokens": round(tokens / captions, 2)}
            self._sampled.zero_()
        super().log(logs, *args, **kwargs)
