"""The two ways of training that `train_throughput.py` compares: models, data, collators and trainers of each."""

import tempfile
from dataclasses import dataclass, field

import native_ways
import numpy as np
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
    ProcessorMixin,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    SiglipVisionConfig,
    Trainer,
    TrainingArguments,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessorPil,
)

from hfcap.data.caption_dataset import CaptionDataset
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
from hfcap.models.model_types import spec_of, spec_of_type
from hfcap.models.vision_features import accept_cached_features
from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments, loader_workers
from hfcap.training.build import choose_kernels
from hfcap.training.collators import CaptionCollator
from hfcap.training.strategies import part_of
from hfcap.training.trainer import CaptionTrainer

PATCH = 16
PROMPT = "w0 w1 w2 w3"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
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
    text_width: int = 256
    text_layers: int = 6
    text_heads: int = 4
    text_kv_heads: int = field(default=4, metadata={"help": "of LLaVA-style captioners, as is the next one"})
    text_mlp: int = 688
    steps: int = field(default=3, metadata={"help": "optimizer steps a round"})
    untimed: int = field(default=1, metadata={"help": "of them, the first ones, which are not timed"})
    rounds: int = 3
    frozen_encoder: bool = field(default=False, metadata={"help": "and, in hfcap's way, the feature cache"})
    no_cache: bool = field(
        default=False, metadata={"help": "hfcap's way runs the frozen encoder in each step as well"}
    )
    native: str = field(
        default="no",
        metadata={
            "nargs": "?",
            "const": "stock",
            "choices": ("no", "stock", "qwen3_vl", "gemma3"),
            "help": "hfcap's way trains the stock model class of the family as well, or both ways train another one",
        },
    )
    precision: str = field(default="float32", metadata={"choices": ("float32", "bfloat16")})
    attn_implementation: str = field(
        default="sdpa", metadata={"choices": ("sdpa", "flex_attention"), "help": "hfcap's way; on a GPU"}
    )
    compile_layers: bool = field(default=False, metadata={"help": "hfcap's way"})
    images_a_row: int = field(default=1, metadata={"help": "hfcap's way: pictures that share a packed row"})
    pad_to_multiple_of: int = field(default=1, metadata={"help": "hfcap's way"})

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
    def llama(self) -> dict[str, int]:
        """Sizes of a LLaVA-style captioner's language model."""
        return {
            "hidden_size": self.text_width,
            "num_hidden_layers": self.text_layers,
            "num_attention_heads": self.text_heads,
            "num_key_value_heads": self.text_kv_heads,
            "intermediate_size": self.text_mlp,
        }

    @property
    def gpt2(self) -> dict[str, int | float]:
        """Sizes of an encoder-decoder's decoder."""
        sizes = {"n_embd": self.text_width, "n_layer": self.text_layers, "n_head": self.text_heads}
        return sizes | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)

    @property
    def image_size(self) -> int:
        """Side of the pictures in pixels; Qwen3-VL makes a token of 2 x 2 patches."""
        return PATCH * int(self.image_tokens**0.5) * (2 if self.native == "qwen3_vl" else 1)

    @property
    def is_other_type(self) -> bool:
        """Whether both ways train a type of `native_ways`."""
        return self.native in native_ways.BUILDERS


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
    """Pictures of the embedded data set, the same in every step, with captions of random words."""
    num_images = settings.images * settings.steps
    rows = load_scenes("train", settings.images, "caption", image_size=settings.image_size)
    rows = rows.select([*range(settings.images)] * settings.steps)
    draw = np.random.default_rng(0)
    shape = (num_images, settings.references)
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
    text = LlamaConfig(**settings.llama, vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2)
    model = HfcapLlavaForConditionalGeneration.from_parts(
        AutoModel.from_config(vision), AutoModelForCausalLM.from_config(text), image_token_id
    )
    images = build_image_processor(settings)
    processor = HfcapLlavaProcessor(images, tokenizer, image_seq_length=settings.image_tokens)
    model.model.vision_tower.requires_grad_(not settings.frozen_encoder)
    if way == "hfcap" and settings.native == "no":
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
    config = GPT2Config(
        **settings.gpt2, **ids, vocab_size=settings.vocab_size, is_decoder=True, add_cross_attention=True
    )
    decoder = AutoModelForCausalLM.from_config(config)
    model = HfcapEncoderDecoderModel.from_parts(encoder, decoder, decoder_start_token_id=1, **ids)
    processor = HfcapEncoderDecoderProcessor(build_image_processor(settings), tokenizer)
    if way == "stock" or settings.native == "stock":
        stock = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
        stock.enc_to_dec_proj = model.enc_to_dec_proj
        stock.config.pad_token_id, stock.config.decoder_start_token_id = 0, 1
        model = stock
    model.encoder.requires_grad_(not settings.frozen_encoder)
    return model, processor


def build_other_type(settings: Settings, way: str):
    """Model and processor of a type of `native_ways`; both ways train the same class."""
    model, processor = native_ways.build_native(settings, build_tokenizer(settings.vocab_size))
    spec = spec_of(model.config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not (settings.frozen_encoder and part_of(name, spec) == "encoder"))
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


def chat_pair_collator(processor: ProcessorMixin):
    """Padded rows of image, prompt, caption and EOS; the caption and EOS are learned."""
    prompt = prompt_text(processor, spec_of_type("llava"), PROMPT)

    def collate(pairs: list[dict]) -> dict[str, torch.Tensor]:
        texts = [f"{prompt}{pair['caption']}<eos>" for pair in pairs]
        batch = processor(images=[[pair["image"]] for pair in pairs], text=texts, padding=True, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        prompt_length = len(processor(images=[[pairs[0]["image"]]], text=[prompt])["input_ids"][0])
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


def keys_in_order(num_images: int, images_a_row: int) -> list[tuple[int, tuple[int, ...]]]:
    """Keys of `CaptionDataset` that take pictures in its order, as the stock way does, so many a packed row."""
    starts = range(0, num_images, images_a_row)
    return [(0, tuple(range(start, min(start + images_a_row, num_images)))) for start in starts]


def common_arguments(settings: Settings, rows_a_step: int, accumulation: int) -> dict:
    """Arguments that both ways share."""
    return {
        "per_device_train_batch_size": rows_a_step // accumulation,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": 1,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": loader_workers(on_cpu=DEVICE == "cpu"),
        "remove_unused_columns": False,
        "output_dir": tempfile.mkdtemp(),
    }


def stock_trainer(settings: Settings, model: PreTrainedModel, processor, rows) -> Trainer:
    """The stock way."""
    encoder_decoder = settings.family == "encoder_decoder"
    trainer_class = Seq2SeqTrainer if encoder_decoder else Trainer
    arguments_class = Seq2SeqTrainingArguments if encoder_decoder else TrainingArguments
    collator = (encoder_decoder_pair_collator if encoder_decoder else chat_pair_collator)(processor)
    rows_a_step = settings.images * settings.references
    args = arguments_class(
        **common_arguments(settings, rows_a_step, settings.stock_accumulation),
        train_sampling_strategy="sequential",
        use_cpu=DEVICE == "cpu",
        bf16=settings.precision == "bfloat16",
    )
    return trainer_class(model=model, args=args, train_dataset=Pairs(rows), data_collator=collator)


def hfcap_trainer(settings: Settings, model: PreTrainedModel, processor, rows, features) -> CaptionTrainer:
    """Our way, as `recipes/train.py` sets it up."""
    args = CaptionTrainingArguments(
        **common_arguments(settings, settings.images // settings.images_a_row, settings.hfcap_accumulation),
        precision=settings.precision,
        load_best_model_at_end=False,
        metric_for_best_model=None,
    )
    data = CaptionDataset(rows, features)
    kernels = {"attn_implementation": settings.attn_implementation, "compile_layers": settings.compile_layers}
    choose_kernels(model, ModelArguments(**kernels))
    prompt = PROMPT if settings.family == "llava" else None
    trainer = CaptionTrainer(
        model=model,
        args=args,
        train_dataset=data,
        eval_dataset=data,
        data_collator=CaptionCollator(processor, model.config, prompt, pad_to_multiple_of=settings.pad_to_multiple_of),
        processing_class=processor,
    )
    trainer.train_sampler = keys_in_order(len(rows), settings.images_a_row)
    return trainer


def trainer_of(way: str, settings: Settings, folder: str) -> Trainer:
    """Build one way anew: model, data, trainer."""
    build = build_llava if settings.family == "llava" else build_encoder_decoder
    if settings.is_other_type:
        build = build_other_type
    with torch.device(DEVICE):
        model, processor = build(settings, way)
    rows = build_rows(settings)
    if way == "stock":
        return stock_trainer(settings, model, processor, rows)
    features = None
    if settings.frozen_encoder and not settings.no_cache:
        features = cache_features(model, processor.image_processor, rows, folder)
        accept_cached_features(model)
    return hfcap_trainer(settings, model, processor, rows, features)


def needed_flops(settings: Settings, prefix_tokens: int) -> float:
    """Floating-point operations that learning from a picture takes, LLaVA-style, counted by hand.

    Two for each weight and token forward, and twice that backward where the weights train; of attention what packed
    rows see and no more; the head on targets alone. Recomputation, padding and what is masked are not needed.

    Args:
        settings: what is trained.
        prefix_tokens: image tokens and prompt.
    """
    width, tokens, layers = settings.encoder_width, settings.image_tokens, settings.encoder_layers
    encoder = tokens * (2 * 3 * PATCH**2 * width + layers * (2 * 12 * width**2 + 4 * tokens * width))
    inner, kv = settings.text_width, settings.text_width // settings.text_heads * settings.text_kv_heads
    projector = 2 * tokens * (width * inner + inner**2)
    targets = settings.references * settings.caption_tokens
    seen = prefix_tokens**2 / 2 + settings.references * (
        settings.caption_tokens * prefix_tokens + settings.caption_tokens**2 / 2
    )
    matrices = 2 * inner**2 + 2 * inner * kv + 3 * inner * settings.text_mlp
    text = settings.text_layers * (2 * matrices * (prefix_tokens + targets) + 4 * inner * seen)
    head = 2 * settings.vocab_size * inner * targets
    cached = settings.frozen_encoder and not settings.no_cache
    return (0 if cached else 1 if settings.frozen_encoder else 3) * encoder + 3 * (projector + text + head)
