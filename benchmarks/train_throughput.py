"""Time training against the stock way, one padded row for each pair of image and caption; alternating.

    python benchmarks/train_throughput.py --image_tokens 576 --vocab_size 49152
    python benchmarks/train_throughput.py --image_tokens 576 --vocab_size 49152 --memory
    python benchmarks/train_throughput.py --family encoder_decoder --frozen_encoder
    python benchmarks/train_throughput.py --frozen_encoder --native

Both ways start from the same weights and take the same optimizer steps over the same pictures and captions in float32,
so their losses must agree, step by step; the benchmark stops where they do not. The models are small and random
(SigLIP-type encoder 192 x 4 layers, Llama 256 x 6; for encoder-decoders ViT 192 x 4 and GPT-2 256 x 6). Seconds are
medians over the optimizer steps of all rounds, the first step of each round left out. The ratio of CPU seconds, of all
threads, is for machines that others use at the same time.

--memory runs one step of each way in a process of its own: the peak resident size less what the built model takes.
The last line is JSON.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, fields

import numpy as np
import psutil
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    SiglipVisionConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessorPil,
    logging,
)

from hfcap.data.features import cache_features
from hfcap.data.scenes import load_scenes
from hfcap.generation.inputs import prompt_text
from hfcap.models import (
    HfcapEncoderDecoderModel,
    HfcapEncoderDecoderProcessor,
    HfcapLlavaForConditionalGeneration,
    HfcapLlavaProcessor,
    add_image_token,
)
from hfcap.models.facts import facts_of_type
from hfcap.models.vision_features import take_features
from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.collators import CaptionCollator
from hfcap.training.dataset import CaptionDataset
from hfcap.training.preparation import use_all_cores
from hfcap.training.trainer import CaptionTrainer

PATCH = 16
PROMPT = "w0 w1 w2 w3"
LLAMA = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 688}
GPT2 = {"n_embd": 256, "n_layer": 6, "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
WAYS = ("stock", "hfcap")


@dataclass
class Settings:
    """What is compared."""

    family: str = field(default="llava", metadata={"choices": ("llava", "encoder_decoder")})
    image_tokens: int = field(default=576, metadata={"help": "patches of a picture, a square number"})
    vocab_size: int = 8192
    references: int = field(default=5, metadata={"help": "captions of a picture"})
    caption_tokens: int = field(default=14, metadata={"help": "of a caption, its end included, on average"})
    length_spread: int = field(
        default=5, metadata={"help": "captions are shorter or longer by at most so many tokens"}
    )
    images: int = field(default=8, metadata={"help": "pictures an optimizer step"})
    stock_accumulation: int = field(default=1, metadata={"help": "micro-batches an optimizer step, the stock way"})
    hfcap_accumulation: int = field(default=1, metadata={"help": "the same, our way"})
    encoder_width: int = 192
    encoder_layers: int = 4
    steps: int = field(default=3, metadata={"help": "optimizer steps a round, the first one not timed"})
    rounds: int = 3
    frozen_encoder: bool = field(default=False, metadata={"help": "and, in hfcap's way, the feature cache"})
    native: bool = field(default=False, metadata={"help": "hfcap's way trains the stock model class as well"})

    @property
    def encoder(self) -> dict[str, int]:
        """Sizes of the encoder, and of its patches."""
        width = self.encoder_width
        sizes = {"hidden_size": width, "num_attention_heads": width // 64, "intermediate_size": 4 * width}
        return sizes | {
            "num_hidden_layers": self.encoder_layers,
            "image_size": self.image_size,
            "patch_size": PATCH,
        }

    @property
    def image_size(self) -> int:
        """Side of the pictures in pixels."""
        return PATCH * int(self.image_tokens**0.5)


def build_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """One token a word, "w0" to the last, so that lengths are what they are said to be."""
    words = ["<pad>", "<bos>", "<eos>", "\n"]
    words += [f"w{i}" for i in range(vocab_size - len(words) - 1)]  # the image token makes it `vocab_size`
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
    split = [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", padding_side="right"
    )


def build_rows(settings: Settings):
    """Pictures of the embedded data set with captions of random words."""
    rows = load_scenes("train", settings.images, "caption", image_size=settings.image_size)
    draw = np.random.default_rng(0)
    shape = (settings.images, settings.references)
    lengths = draw.integers(-settings.length_spread, settings.length_spread + 1, shape) + settings.caption_tokens - 1
    words = [[draw.integers(4, settings.vocab_size - 8, length) for length in image] for image in lengths]
    captions = [[" ".join(f"w{w}" for w in caption) for caption in image] for image in words]
    return rows.select_columns(["image_id", "image"]).add_column("captions", captions)


def build_image_processor(settings: Settings) -> ViTImageProcessorPil:
    """Resize to the encoder's size and scale to [-1, 1]."""
    side = {"height": settings.image_size, "width": settings.image_size}
    return ViTImageProcessorPil(size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def build_llava(settings: Settings, way: str):
    """Model and processor of one way; the weights are the same for both."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(settings.vocab_size)
    image_token_id = add_image_token(tokenizer)
    vision = SiglipVisionConfig(**settings.encoder, vision_use_head=False)
    text = LlamaConfig(**LLAMA, vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2)
    model = HfcapLlavaForConditionalGeneration.from_parts(
        AutoModel.from_config(vision), AutoModelForCausalLM.from_config(text), image_token_id
    )
    images = build_image_processor(settings)
    processor = HfcapLlavaProcessor(images, tokenizer, image_seq_length=settings.image_tokens)
    model.model.vision_tower.requires_grad_(not settings.frozen_encoder)
    if way == "hfcap" and not settings.native:
        return model, processor
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token_id,
        image_seq_length=settings.image_tokens,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    stock = LlavaForConditionalGeneration(config)
    stock.load_state_dict(model.state_dict())
    stock.model.vision_tower.requires_grad_(not settings.frozen_encoder)
    return stock, LlavaProcessor(
        images, tokenizer, PATCH, "full", chat_template=processor.chat_template, num_additional_image_tokens=0
    )


def build_encoder_decoder(settings: Settings, way: str):
    """Model and processor of one way; the weights are the same for both."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(settings.vocab_size)
    encoder = AutoModel.from_config(ViTConfig(**settings.encoder))
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = GPT2Config(**GPT2, **ids, vocab_size=settings.vocab_size, is_decoder=True, add_cross_attention=True)
    decoder = AutoModelForCausalLM.from_config(config)
    model = HfcapEncoderDecoderModel.from_parts(encoder, decoder, decoder_start_token_id=1, **ids)
    processor = HfcapEncoderDecoderProcessor(build_image_processor(settings), tokenizer)
    if way == "stock" or settings.native:
        stock = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
        stock.enc_to_dec_proj = model.enc_to_dec_proj
        stock.config.pad_token_id, stock.config.decoder_start_token_id = 0, 1
        model = stock
    model.encoder.requires_grad_(not settings.frozen_encoder)
    return model, processor


class Pairs(torch.utils.data.Dataset):
    """Each picture once for each of its captions, as stock trainers want them."""

    def __init__(self, rows):
        self.rows = rows
        self.pairs = [(i, caption) for i, captions in enumerate(rows["captions"]) for caption in captions]

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        """Decode the picture and give it with one caption."""
        row, caption = self.pairs[index]
        return {"image": self.rows[row]["image"], "caption": caption}


def llava_pair_collator(processor: LlavaProcessor):
    """Padded rows of image, prompt, caption and EOS; the caption and EOS are learned."""
    prompt = prompt_text(processor, facts_of_type("llava"), PROMPT)

    def collate(pairs: list[dict]) -> dict[str, torch.Tensor]:
        texts = [f"{prompt}{pair['caption']}<eos>" for pair in pairs]
        batch = processor(images=[pair["image"] for pair in pairs], text=texts, padding=True, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        prompt_length = len(processor(images=pairs[0]["image"], text=prompt)["input_ids"][0])
        labels[:, :prompt_length] = -100
        return {**batch, "labels": labels}

    return collate


def encoder_decoder_pair_collator(processor: HfcapEncoderDecoderProcessor):
    """Pictures and padded labels; the model makes its decoder's input from these."""

    def collate(pairs: list[dict]) -> dict[str, torch.Tensor]:
        pixels = processor.image_processor([pair["image"] for pair in pairs], return_tensors="pt")["pixel_values"]
        texts = [f"{pair['caption']}<eos>" for pair in pairs]
        encoded = processor.tokenizer(texts, padding=True, return_tensors="pt")
        return {
            "pixel_values": pixels,
            "labels": encoded["input_ids"].masked_fill(encoded["attention_mask"] == 0, -100),
        }

    return collate


class StepTimes(TrainerCallback):
    """Seconds of each optimizer step from the end of the one before: loading, forward, backward, update, logging."""

    def __init__(self):
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock."""
        self.last, self.last_cpu = time.perf_counter(), time.process_time()

    def on_step_end(self, args, state, control, **kwargs):
        """Read the clock."""
        now, now_cpu = time.perf_counter(), time.process_time()
        self.seconds.append(now - self.last)
        self.cpu_seconds.append(now_cpu - self.last_cpu)
        self.last, self.last_cpu = now, now_cpu


def common_arguments(settings: Settings, rows_a_step: int, accumulation: int) -> dict:
    """Arguments that both ways share."""
    return {
        "per_device_train_batch_size": rows_a_step // accumulation,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": settings.steps,  # an epoch is one step, so both ways see the same data in every step
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "remove_unused_columns": False,
        "output_dir": tempfile.mkdtemp(),
    }


def stock_trainer(settings: Settings, model: PreTrainedModel, processor, rows) -> Trainer:
    """The stock way."""
    encoder_decoder = settings.family == "encoder_decoder"
    trainer_class = Seq2SeqTrainer if encoder_decoder else Trainer
    arguments_class = Seq2SeqTrainingArguments if encoder_decoder else TrainingArguments
    collator = (encoder_decoder_pair_collator if encoder_decoder else llava_pair_collator)(processor)
    rows_a_step = settings.images * settings.references
    args = arguments_class(**common_arguments(settings, rows_a_step, settings.stock_accumulation))
    return trainer_class(model=model, args=args, train_dataset=Pairs(rows), data_collator=collator)


def hfcap_trainer(settings: Settings, model: PreTrainedModel, processor, rows, features) -> CaptionTrainer:
    """Our way, as `recipes/train.py` sets it up."""
    args = CaptionTrainingArguments(
        **common_arguments(settings, settings.images, settings.hfcap_accumulation),
        load_best_model_at_end=False,
        metric_for_best_model=None,
    )
    data = CaptionDataset(rows, features)
    return CaptionTrainer(
        model=model,
        args=args,
        train_dataset=data,
        eval_dataset=data,
        data_collator=CaptionCollator(processor, model.config, PROMPT if settings.family == "llava" else None),
        processing_class=processor,
    )


def trainer_of(way: str, settings: Settings, folder: str) -> Trainer:
    """Build one way anew: model, data, trainer."""
    build = build_llava if settings.family == "llava" else build_encoder_decoder
    model, processor = build(settings, way)
    rows = build_rows(settings)
    if way == "stock":
        return stock_trainer(settings, model, processor, rows)
    features = None
    if settings.frozen_encoder:
        features = cache_features(model, processor.image_processor, rows, folder)
        take_features(model)
    return hfcap_trainer(settings, model, processor, rows, features)


def train_once(way: str, settings: Settings, folder: str) -> tuple[StepTimes, list[float]]:
    """Train from the first weights; the times of the steps, and their losses."""
    trainer, times = trainer_of(way, settings, folder), StepTimes()
    trainer.add_callback(times)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    return times, losses


def compare_speed(settings: Settings) -> dict:
    """Alternate the two ways; medians over steps, ratio of captions a second."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    cpu_seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    tolerance = 1e-3 if settings.frozen_encoder else 1e-4  # the feature cache holds float16
    with tempfile.TemporaryDirectory() as folder:
        for number in range(settings.rounds):
            losses = {}
            for way in WAYS:
                times, losses[way] = train_once(way, settings, folder)
                seconds[way] += times.seconds[1:]
                cpu_seconds[way] += times.cpu_seconds[1:]
                print(f"round {number + 1} {way}: {statistics.median(times.seconds[1:]):.3f} s a step, {losses[way]}")
            if not np.allclose(losses["stock"], losses["hfcap"], rtol=tolerance):
                raise SystemExit(f"the losses differ, so the two ways do not do the same: {losses}")
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    cpu = {way: statistics.median(values) for way, values in cpu_seconds.items()}
    captions = settings.images * settings.references
    return {
        "seconds_a_step": {way: round(value, 4) for way, value in medians.items()},
        "captions_per_second": {way: round(captions / value, 2) for way, value in medians.items()},
        "speedup": round(medians["stock"] / medians["hfcap"], 2),
        "cpu_seconds_ratio": round(cpu["stock"] / cpu["hfcap"], 2),
        "largest_loss_difference": max(abs(a - b) for a, b in zip(losses["stock"], losses["hfcap"], strict=True)),
    }


def peak_memory(way: str, settings: Settings) -> dict:
    """Peak resident MB of a few steps over what the process takes once the model is built."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(way, settings, folder)
        base = psutil.Process().memory_info().rss
        trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"base_mb": base / 1e6, "peak_over_base_mb": (peak - base) / 1e6}


def compare_memory(settings: Settings) -> dict:
    """Run each way in a process of its own."""
    found = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--memory_of", way]
        for name, value in asdict(settings).items():
            command += ([f"--{name}"] if value else []) if isinstance(value, bool) else [f"--{name}", str(value)]
        output = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout
        found[way] = json.loads(output.splitlines()[-1])
    ratio = found["hfcap"]["peak_over_base_mb"] / found["stock"]["peak_over_base_mb"]
    return {"peak_memory": found, "memory_share": round(ratio, 3)}


def parse() -> tuple[Settings, argparse.Namespace]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for f in fields(Settings):
        kind = {"action": "store_true"} if f.type is bool else {"type": f.type, "default": f.default}
        parser.add_argument(f"--{f.name}", **kind, **f.metadata)
    parser.add_argument("--memory", action="store_true", help="compare peak memory instead of time")
    parser.add_argument("--memory_of", choices=WAYS, help="measure one way in this process")
    options = parser.parse_args()
    return Settings(**{f.name: getattr(options, f.name) for f in fields(Settings)}), options


def main() -> None:
    """Compare, and print one JSON line last."""
    settings, options = parse()
    logging.set_verbosity_error()
    use_all_cores()
    if options.memory_of:
        print(json.dumps(peak_memory(options.memory_of, settings)))
        return
    result = compare_memory(settings) if options.memory else compare_speed(settings)
    print(
        json.dumps({"benchmark": "train_throughput", **asdict(settings), "threads": torch.get_num_threads(), **result})
    )


if __name__ == "__main__":
    main()
