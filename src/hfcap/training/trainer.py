"""`CaptionTrainer`: the HF Trainer with exact token loss, packed rows, and evaluation by generation."""

import logging
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path

import datasets
import torch
from peft import PeftModel
from torch.utils.data import Subset
from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.caption_stream import CaptionStream
from hfcap.distributed import all_processes_join, prepare_fsdp
from hfcap.errors import ConfigError, WorkError, as_config_error
from hfcap.generation.sharded import caption_sharded
from hfcap.metrics import compute_metrics
from hfcap.models.attention import eager_sdpa, uses_packed_sdpa
from hfcap.models.model_utils import full_precision, keep_frozen_in_eval
from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.callbacks import SampleCaptions, run_callbacks
from hfcap.training.checkpoints import (
    atomic_folder,
    checkpoint_step,
    complete_checkpoints,
    fill_optimizer_state,
    load_mean,
    load_weights,
)
from hfcap.training.collators import CaptionCollator
from hfcap.training.flops import needed_flops
from hfcap.training.loss import token_loss
from hfcap.training.metric_choice import metric_options, text_metrics
from hfcap.training.model_inputs import model_inputs
from hfcap.training.packing import IGNORE_INDEX
from hfcap.training.plan import describe_references, train_sampler
from hfcap.training.strategies import parameter_groups
from hfcap.training.stream_trainer import StreamTrainer
from hfcap.training.throughput import (
    Throughput,
    Work,
    evaluating,
    fitting_batch,
    is_out_of_memory,
    measure_matmul,
    memory_error,
)
from hfcap.training.trainer_inputs import (
    as_evaluation_data,
    as_training_data,
    caption_collator,
    check_arguments,
    load_trained,
)

logger = logging.getLogger(__name__)

# How long a process that is out of memory waits for the others to be so too: longer than a step takes.
JOIN_TIME = timedelta(minutes=2)


class _StepEnd(TrainerCallback):
    """Tell the throughput that an optimizer step is over."""

    def __init__(self, throughput: Throughput):
        self.throughput = throughput

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.throughput.end_step()


class CaptionTrainer(StreamTrainer):
    """HF Trainer for captioning models.

    Differences from `Trainer`: the loss is `token_loss` over packed rows; the order of an epoch depends on (seed,
    epoch) only; encoder, projector and language model may have learning rates of their own; `evaluate` also captions a
    fixed subset of the evaluation images, so that `metric_for_best_model="cider"` works. A loss or gradient norm that
    is not finite ends the run (`FiniteTrainer`). A stream is resumed where it stopped (`StreamTrainer`).

    Args:
        model: captioner of any type in `hfcap.models.model_types`, wrapped by PEFT or not; or the folder or Hub id of
            one, which is loaded in float32.
        args: `CaptionTrainingArguments`.
        train_dataset: `CaptionDataset` or `CaptionStream`, or the rows of `load_captions`.
        eval_dataset: `CaptionDataset`, or the rows of `load_captions`; all references of each image.
        processing_class: the captioner's processor, loaded with it if `model` is a folder or a Hub id.
        data_collator: `CaptionCollator`; by default `caption_collator` makes it.
        callbacks: besides those of `run_callbacks` and the sample captions.
        prompt: instruction for rows without their own, which the processor keeps; by default what it keeps already, or
            the one prompt that the rows have. A `data_collator` of one's own brings its own.
        kwargs: further arguments of `Trainer`.

    Raises:
        ConfigError: the captioner cannot be loaded, data, prompt or settings do not fit it, or its language model has
            too few positions; `train` of a dry run, or without a parameter that trains.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel | str,
        args: CaptionTrainingArguments,
        train_dataset: CaptionDataset | CaptionStream | datasets.Dataset | datasets.IterableDataset,
        eval_dataset: CaptionDataset | datasets.Dataset | None = None,
        processing_class: ProcessorMixin | None = None,
        data_collator: CaptionCollator | None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        prompt: str | None = None,
        **kwargs,
    ):
        check_arguments(args)
        train_dataset, eval_dataset = as_training_data(train_dataset, args.seed), as_evaluation_data(eval_dataset)
        model, processing_class = load_trained(model, processing_class)
        if data_collator is None:
            data = (train_dataset, eval_dataset)
            data_collator = caption_collator(model, processing_class, data, args, prompt)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=data_collator,
            callbacks=[*run_callbacks(args), SampleCaptions(self), *(callbacks or ())],
            compute_loss_func=partial(token_loss, label_smoothing=args.label_smoothing_factor),
            **kwargs,
        )
        # `Trainer` would hand the number of targets to models that do not know what it is.
        self.model_accepts_loss_kwargs = False
        if self.is_fsdp_enabled:
            prepare_fsdp(self.accelerator.state.fsdp_plugin, self.model)
        self.sample_captions: list[tuple[str, str]] = []
        self._checkpoints: set[str] = set()  # names of those of this training; others may lie in its folder
        self.throughput, self.throughput_summary = Throughput(), {}
        self.add_callback(_StepEnd(self.throughput))
        # For auto_find_batch_size: rows of a process in an optimizer step, and the largest batch that may still fit.
        self.rows_a_step = self._train_batch_size * args.gradient_accumulation_steps
        self.largest_batch: int | None = None
        self.out_of_memory: torch.distributed.ProcessGroup | None = None
        if args.auto_find_batch_size and args.world_size > 1:
            self.out_of_memory = torch.distributed.new_group(timeout=JOIN_TIME, backend="gloo")
        if args.process_index == 0:
            logger.info(describe_references(train_dataset.augmentation.references, self.data_collator.packing))
        self.train_sampler = train_sampler(train_dataset, self.data_collator, args)

    def get_eval_dataloader(self, eval_dataset=None) -> torch.utils.data.DataLoader:
        """As `Trainer` does, of the rows of `load_captions` too."""
        return super().get_eval_dataloader(as_evaluation_data(eval_dataset))

    def _get_train_sampler(self, train_dataset=None) -> torch.utils.data.Sampler:
        return self.train_sampler

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Take the micro-batches of an optimizer step, and count them."""
        asked = time.perf_counter()
        batches, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            self.throughput.start_step([batch for batch in batches if "segment_ids" in batch], asked)
        return batches, num_items_in_batch

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Run forward and backward; of the first batch also what it needs, for the MFU."""
        if self.throughput.matmul_flops is None and "segment_ids" in inputs:
            self._measure_flops(inputs)
        return super().training_step(model, inputs, num_items_in_batch)

    def _measure_flops(self, batch: dict[str, torch.Tensor]) -> None:
        def forward():
            inputs = model_inputs(self._prepare_inputs(batch), self.model)
            del inputs["labels"]
            with as_config_error("forward pass"):  # files of a model that do not fit each other
                self.model(**inputs)

        # Padding is not needed: it is left out as if all positions cost the same.
        self.throughput.flops_a_token = needed_flops(self.model, forward) / batch["segment_ids"].numel()
        dtype = torch.bfloat16 if self.args.bf16 else self.model.dtype
        self.throughput.matmul_flops = measure_matmul(self.args.device, dtype)

    def log(self, logs, start_time=None):
        """Log as `Trainer` does, with the throughput since the last time beside the loss."""
        if "loss" in logs:
            logs |= self.throughput.rates(self._of_all(self.throughput.take()), self.args.world_size)
        super().log(logs, start_time)

    def train(self, *args, **kwargs):
        """Train as `Trainer` does; afterwards `throughput_summary` holds the figures of the whole training."""
        if self.args.dry_run:
            raise ConfigError(
                "a dry run trains nothing",
                option="dry_run",
                got=True,
                fix="print(hfcap.training.dry_run.describe_run(trainer)), or remove it",
            )
        with nullcontext() if self.args.torch_compile else uses_packed_sdpa(self.model):
            output = super().train(*args, **kwargs)
        if self.args.average_checkpoints:
            self._average_checkpoints()
        self.throughput.take()
        total, num_processes = self._of_all(self.throughput.total), self.args.world_size
        seconds = round(total.seconds / num_processes, 1)
        self.throughput_summary = {"seconds": seconds, **self.throughput.rates(total, num_processes)}
        return output

    def _average_checkpoints(self) -> None:
        asked = self.args.average_checkpoints
        own = [path for path in complete_checkpoints(self.args.output_dir) if path.name in self._checkpoints]
        last = own[-asked:]
        if last:
            load_mean(self.model, last, self._load_from_checkpoint)
            logger.info("weights: the mean of %s", ", ".join(path.name for path in last))
        else:
            logger.warning("no checkpoint was saved: weights are those of step %d", self.state.global_step)
        if len(last) < asked:
            logger.warning("%d checkpoints, fewer than average_checkpoints asks for (%d)", len(last), asked)

    def _of_all(self, work: Work) -> Work:
        """Sum up what all processes did."""
        summed = torch.tensor(list(vars(work).values()), dtype=torch.float64, device=self.args.device)
        return Work(*self.accelerator.reduce(summed, "sum").tolist())

    def _init_training_state(
        self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
    ):
        """Begin or go on; of the checkpoints that are there those up to this step are of this training."""
        started = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if self.args.average_checkpoints:
            there, step = complete_checkpoints(self.args.output_dir), self.state.global_step
            self._checkpoints = {path.name for path in there if checkpoint_step(path) <= step}
        return started

    def _inner_training_loop(self, *args, **kwargs):
        try:
            return super()._inner_training_loop(*args, **kwargs)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, WorkError) or not is_out_of_memory(error):
                raise
            if not self.args.auto_find_batch_size or self._train_batch_size == 1:
                raise memory_error(self.args, self._train_batch_size) from error
            if self.out_of_memory is not None and not all_processes_join(self.out_of_memory):
                # The others wait for this process in a collective; when it ends, the launcher ends them.
                raise memory_error(self.args, self._train_batch_size, alone=True) from error
            self.largest_batch = self._train_batch_size - 1
            raise RuntimeError("CUDA out of memory.") from error  # the words accelerate looks for

    def _update_auto_batch_size(self, batch_size):
        """Try the largest batch that accumulates to the same optimizer steps; `Trainer` would make these smaller."""
        most = batch_size if self.largest_batch is None else min(batch_size, self.largest_batch)
        batch_size = fitting_batch(self.rows_a_step, most)
        self.args.gradient_accumulation_steps = self.rows_a_step // batch_size
        if self.largest_batch is not None:
            accumulation = self.args.gradient_accumulation_steps
            logger.warning("out of memory: going on with batches of %d x accumulation %d", batch_size, accumulation)
        super()._update_auto_batch_size(batch_size)

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Build the optimizer with one learning rate for each part of the captioner."""
        if self.optimizer is None:
            model = self.model if model is None else model
            default = self.args.learning_rate
            own = {"encoder": self.args.encoder_learning_rate, "projector": self.args.projector_learning_rate}
            rates = {part: default if rate is None else rate for part, rate in own.items()} | {"lm": default}
            decay = set(self.get_decay_parameter_names(model))
            groups = parameter_groups(model, decay, self.args.weight_decay, rates)
            if not groups:
                raise ConfigError(
                    "none of its parameters trains (requires_grad)",
                    option="model",
                    fix="load an adapter with is_trainable=True, or pass a model that is not frozen",
                )
            optimizer_class, optimizer_kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(groups, **optimizer_kwargs)
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute `token_loss` of a collated batch."""
        if self.model.training:
            keep_frozen_in_eval(self.model)  # stock models do not do it in their train()
        inputs = model_inputs(inputs, self.model)
        with as_config_error("forward pass"):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager:
        """Autocast a training step under FSDP, where accelerate does not do it in the model's forward."""
        if self.is_fsdp_enabled:
            return self.accelerator.autocast()
        return super().autocast_smart_context_manager(cache_enabled)

    @torch.inference_mode()
    def evaluation_loss(self, dataset: CaptionDataset) -> float:
        """Mean token loss over all targets of `dataset`, in nats, without label smoothing; all processes call it."""
        self.model.eval()
        mine = range(self.args.process_index, len(dataset), self.args.world_size)
        size = self.args.per_device_eval_batch_size
        totals = torch.zeros(2, dtype=torch.float64, device=self.args.device)  # summed loss, number of targets
        # ZeRO-3 and FSDP gather weights in every forward pass, so all processes run as many as the one with most rows.
        most_rows = math.ceil(len(dataset) / self.args.world_size)
        for start in range(0, most_rows, size):
            indices = mine[start : start + size]
            batch = self.data_collator([dataset[i] for i in indices or range(1)])
            with full_precision(self.model), eager_sdpa(self.model):
                inputs = model_inputs(self._prepare_inputs(batch), self.model)
                labels = inputs.pop("labels")
                loss = token_loss(self.model(**inputs), labels, num_items_in_batch=1)
            targets = (labels != IGNORE_INDEX).sum()
            if indices:
                totals += torch.tensor([loss, targets], dtype=torch.float64, device=self.args.device)
        summed, targets = self.accelerator.reduce(totals, "sum").tolist()
        if not math.isfinite(summed):
            self.check_weights()  # names them
            raise WorkError(
                f"not finite after step {self.state.global_step}, though all weights are",
                option="evaluation loss",
                got=summed,
                fix="lower learning_rate, or check the data of the evaluation split (`hfcap data check`)",
            )
        return summed / targets

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Token-exact loss over the whole data set, and caption metrics on its first `eval_caption_images` images."""
        with evaluating(self.args):
            metrics = {f"{metric_key_prefix}_loss": self.evaluation_loss(dataloader.dataset)}
            for key, value in self.caption_metrics(dataloader.dataset).items():
                metrics[f"{metric_key_prefix}_{key}"] = value
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=len(dataloader.dataset))

    def caption_metrics(self, dataset: CaptionDataset) -> dict[str, float]:
        """Caption the first images of `dataset` and compare with all their references."""
        count = min(self.args.eval_caption_images, len(dataset))
        captions = caption_sharded(
            self.accelerator.unwrap_model(self.model),
            self.processing_class,
            Subset(dataset, range(count)),
            prompt=self.data_collator.prompt,
            batch_size=self.args.per_device_eval_batch_size,
        )
        rows = dataset.rows.select(range(count))
        self.sample_captions = list(zip(rows["image_id"], captions, strict=True))
        names = text_metrics(self.args)
        if not names:
            return {}
        options = metric_options(self.args) | {"metrics": names}
        scores = compute_metrics(captions, list(rows["captions"]), **options)
        return {key: value for key, value in scores.items() if not key.endswith("_per_image")}

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        """Go on from a checkpoint's weights: all of them, or not at all."""
        if self._loads_plain_weights:
            load_weights(self.model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self._loads_plain_weights:
            load_weights(self.model, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    @property
    def _loads_plain_weights(self) -> bool:
        """Whether weights lie in a checkpoint as `save_pretrained` writes a model, not an adapter or an engine."""
        by_engine = self.is_deepspeed_enabled or self.is_fsdp_enabled
        return isinstance(self.model, PreTrainedModel) and not by_engine

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_fsdp_enabled:
            fill_optimizer_state(self.optimizer)
        super()._save_optimizer_and_scheduler(output_dir)

    def _save_rng_state(self, output_dir: str) -> None:
        """Wait for all processes: `trainer_state.json`, written next, marks a checkpoint that all have finished."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _save_checkpoint(self, model, trial) -> None:
        """Save a checkpoint whole or not at all; older ones are deleted after that only."""
        checkpoints, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
        if self.args.average_checkpoints:  # `Trainer` would keep the best one in place of one of the last
            self.state.best_global_step = self.state.best_model_checkpoint = None
        with atomic_folder(checkpoints / name, checkpoints):
            super()._save_checkpoint(model, trial)
        self._checkpoints.add(name)
