"""Every native captioner of the table trains with every strategy it names, and the table's facts about it are true."""

from importlib.util import find_spec

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import CONFIG_MAPPING

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.pictures import PictureError
from hfcap.distributed import prepare_fsdp
from hfcap.errors import WorkError
from hfcap.generation.caption import caption_rows, caption_stream
from hfcap.generation.inputs import caption_prompt, keep_caption_prompt
from hfcap.generation.loading import load_captioner
from hfcap.models.model_types import MODEL_TYPES, NOT_SERVED, is_packable, spec_of, spec_of_type
from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.checkpoints import load_weights
from hfcap.training.collators import CaptionCollator
from hfcap.training.merge import merge_adapter
from hfcap.training.settings_checks import choose_packing
from hfcap.training.strategies import TRAINED_PARTS, apply_strategy, part_of
from hfcap.training.trainer import CaptionTrainer
from refusals import refused
from tiny.native import BERT, BUILDERS, LLAMA, NEED_TORCHVISION, PROMPT, QWEN2
from tiny.training import CHECKPOINTING, KeepGradients, fill_lora, loads_whole

# The rest of the matrix is slow; these few touch every branch of the table.
FAST = {
    ("llava", "qlora"),
    ("idefics3", "lora"),
    ("paligemma", "projector"),
    ("blip", "full"),
    ("blip-2", "frozen_encoder"),
    ("git", "full"),
    ("vision-encoder-decoder", "full"),
}
needs_torchvision = pytest.mark.skipif(
    not (find_spec("torchvision") and find_spec("num2words")),
    reason="its processor handles video as well: needs torchvision and num2words",
)


def case(model_type, *values, fast):
    marks = [needs_torchvision] if model_type in NEED_TORCHVISION else []
    return pytest.param(model_type, *values, marks=marks if fast else [*marks, pytest.mark.slow])


TYPES = (*BUILDERS, *NEED_TORCHVISION)
MATRIX = [
    case(model_type, strategy, fast=(model_type, strategy) in FAST)
    for model_type in TYPES
    for strategy in MODEL_TYPES[model_type].strategies
]
VARIANTS = ("plain", "pad is eos", "checkpointing", "lora", "qlora")
PACKED = [
    case(model_type, variant, fast=(model_type, variant) in {("llava", "checkpointing"), ("blip", "plain")})
    for model_type in TYPES
    for variant in VARIANTS
    if MODEL_TYPES[model_type].packable
]


def prompt_of(model_type):
    return None if MODEL_TYPES[model_type].layout == "encoder_decoder" else PROMPT


def make_trainer(model, processor, rows, folder, packing=True, **arguments):
    settings = {
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "eval_caption_images": 4,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "disable_tqdm": True,
        "use_cpu": True,
        **arguments,
    }
    data = CaptionDataset(rows)
    return CaptionTrainer(
        model=model,
        args=CaptionTrainingArguments(output_dir=str(folder), **settings),
        train_dataset=data,
        eval_dataset=data,
        data_collator=CaptionCollator(processor, model.config, caption_prompt(processor), packing),
        processing_class=processor,
    )


@torch.no_grad()
def loss_by_hand(model, collator, rows):
    """One reference at a time and every logit: no mask, no packing, no padding, no trainer."""
    total, count = 0.0, 0
    name = "input_ids" if spec_of(model.config).layout == "decoder_only" else "decoder_input_ids"
    for row in rows:
        prefix = collator.prefix(row)
        for target in collator.targets(row["captions"]):
            inputs = {name: torch.tensor([prefix.input_ids + target[:-1]]), **prefix.vision}
            if prefix.token_types is not None:
                types = prefix.token_types + [collator.spec.caption_token_type] * (len(target) - 1)
                inputs[collator.spec.token_types] = torch.tensor([types])
            logits = model(**inputs).logits[0, -len(target) :]
            total += cross_entropy(logits.float(), torch.tensor(target), reduction="sum").item()
            count += len(target)
    return total / count


@pytest.mark.parametrize(("model_type", "strategy"), MATRIX)
def test_it_trains_judges_saves_and_reloads(model_type, strategy, saved, rows, tmp_path):
    base, four_bit = saved(model_type), strategy == "qlora"
    model, processor = load_captioner(base, load_in_4bit=four_bit)
    if prompt_of(model_type):
        keep_caption_prompt(processor, PROMPT)
    model = apply_strategy(model, strategy, lora_r=4)
    trainer = make_trainer(model, processor, rows, tmp_path / "run", per_device_train_batch_size=8)
    expected = loss_by_hand(model.eval(), trainer.data_collator, rows)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert trainer.state.log_history[1]["loss"] < expected

    spec = spec_of(model.config)
    for name, parameter in model.named_parameters():
        trains = "lora_" in name or "modules_to_save" in name
        trains = trains if strategy in ("lora", "qlora") else part_of(name, spec) in TRAINED_PARTS[strategy]
        if not trains:
            assert torch.equal(parameter, before[name]), name
    changed = {part_of(name, spec) for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {
        part for part in (*TRAINED_PARTS[strategy], *(["lm"] if "lora" in strategy else [])) if getattr(spec, part)
    }

    assert trainer.evaluate()["eval_cider"] >= 0
    captions = [caption for _, caption in trainer.sample_captions]
    loss = trainer.evaluation_loss(trainer.eval_dataset)
    trainer.save_model(str(tmp_path / "saved"))
    reloaded, again = load_captioner(str(tmp_path / "saved"), load_in_4bit=four_bit)
    assert caption_prompt(again) == prompt_of(model_type)
    assert caption_rows(reloaded, again, [rows[i] for i in range(4)], caption_prompt(again)) == captions
    reloaded_trainer = make_trainer(reloaded, again, rows, tmp_path / "again")
    assert reloaded_trainer.evaluation_loss(reloaded_trainer.eval_dataset) == pytest.approx(loss, rel=1e-6)
    if strategy == "lora":
        merge_adapter(base, tmp_path / "saved", tmp_path / "merged")
        merged, again = load_captioner(str(tmp_path / "merged"))
        assert caption_prompt(again) == prompt_of(model_type)
        merged_trainer = make_trainer(merged, again, rows, tmp_path / "again")
        assert merged_trainer.evaluation_loss(merged_trainer.eval_dataset) == pytest.approx(loss, rel=1e-5)


def one_step(folder, rows, tmp_path, variant, packing):
    """Loss and gradients of one optimizer step of the real trainer, two micro-batches of four images."""
    four_bit = variant == "qlora"
    model, processor = load_captioner(folder, load_in_4bit=four_bit)
    if spec_of(model.config).prompt != "none":
        keep_caption_prompt(processor, PROMPT)
    if variant == "pad is eos":
        processor.tokenizer.pad_token = processor.tokenizer.eos_token or processor.tokenizer.sep_token
    torch.manual_seed(0)
    model = apply_strategy(model, variant if variant in ("lora", "qlora") else "full", lora_r=4)
    fill_lora(model)
    keep = KeepGradients()
    arguments = {"max_steps": 1, "gradient_accumulation_steps": 2, "max_grad_norm": 1e9}
    arguments[CHECKPOINTING] = variant == "checkpointing"
    trainer = make_trainer(model, processor, rows, tmp_path / str(packing), packing, **arguments)
    trainer.add_callback(keep)
    trainer.train()
    return trainer.state.log_history[0]["loss"], keep.gradients


def assert_packing_changes_nothing(folder, rows, tmp_path, variant="plain"):
    loss, packed = one_step(folder, rows, tmp_path, variant, packing=True)
    expected, separate = one_step(folder, rows, tmp_path, variant, packing=False)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert packed.keys() == separate.keys()
    # The bias of keys has a gradient of zero, and noise instead: compare that with the others.
    floor = 1e-3 * max(gradient.norm() for gradient in separate.values())
    for name, gradient in separate.items():
        assert (packed[name] - gradient).norm() <= 1e-5 * max(gradient.norm(), floor), name


@pytest.mark.parametrize(("model_type", "variant"), PACKED)
def test_packing_changes_neither_loss_nor_gradient(model_type, variant, saved, rows, tmp_path):
    assert_packing_changes_nothing(saved(model_type), rows, tmp_path, variant)


@pytest.mark.parametrize("language_model", ["mistral", "qwen2", "qwen3"])
def test_packing_is_exact_with_other_language_models(language_model, saved, rows, tmp_path):
    text = (QWEN2 if language_model == "qwen2" else LLAMA) | {"model_type": language_model, "head_dim": 8}
    assert_packing_changes_nothing(saved("llava", text=text), rows, tmp_path)


@needs_torchvision
def test_packing_is_exact_with_ministral_3(saved, rows, tmp_path):
    assert_packing_changes_nothing(saved("mistral3", text="ministral3"), rows, tmp_path)


@needs_torchvision
@torch.no_grad()
def test_gemma_4_that_reads_pictures_both_ways_has_one_row_per_reference(saved, rows, tmp_path):
    """As from 26B on; and the small ones have an encoder of sounds, which is frozen with that of pictures."""
    model, processor = load_captioner(saved("gemma4", audio=True, use_bidirectional_attention="vision"))
    assert not is_packable(model.config)
    trainer = make_trainer(model, processor, rows, tmp_path)
    expected = loss_by_hand(model, trainer.data_collator, rows)
    assert trainer.evaluation_loss(trainer.eval_dataset) == pytest.approx(expected, rel=1e-5)
    model = apply_strategy(model, "projector")
    trained = {name.split(".")[1] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"embed_vision"}


def test_packing_is_exact_with_a_bert_decoder(saved, rows, tmp_path):
    assert_packing_changes_nothing(saved("vision-encoder-decoder", decoder=BERT), rows, tmp_path)


@pytest.mark.parametrize("model_type", [case(model_type, fast=True) for model_type in TYPES])
@torch.no_grad()
def test_a_pair_has_the_loss_that_the_stock_model_gives_it(model_type, saved, rows):
    """Prompt, image and target stand where the model's own loss expects them."""
    model, processor = load_captioner(saved(model_type))
    collator = CaptionCollator(processor, model.config, prompt_of(model_type), packing=False)
    prefix, target = collator.prefix(rows[2]), collator.targets(rows[2]["captions"])[1]
    if collator.spec.layout == "encoder_decoder":
        inputs = {"labels": torch.tensor([target])}
    else:
        inputs = {
            "input_ids": torch.tensor([prefix.input_ids + target]),
            "labels": torch.tensor([[-100] * len(prefix.input_ids) + target]),
        }
    if prefix.token_types is not None:
        types = prefix.token_types + [collator.spec.caption_token_type] * len(target)
        inputs[collator.spec.token_types] = torch.tensor([types])
    stock = model(**inputs, **prefix.vision).loss.item()
    row = {"image": rows[2]["image"], "captions": rows[2]["captions"][1:2]}
    assert loss_by_hand(model, collator, [row]) == pytest.approx(stock, rel=1e-5)


@pytest.mark.parametrize("model_type", [case(t, fast=True) for t in ("llava", "blip", "git", "paligemma", "lfm2_vl")])
def test_a_rows_own_prompt_wins_in_training_and_in_captioning(model_type, saved, rows):
    model, processor = load_captioner(saved(model_type))
    own = [dict(rows[i]) for i in range(4)]
    for row, prompt in zip(own, ["a", "what is in the picture", None, "describe the"], strict=True):
        row["prompt"] = prompt
    collator = CaptionCollator(processor, model.config, PROMPT)
    texts = [processor.tokenizer.decode(collator.prefix(row).input_ids) for row in own]
    for text, row in zip(texts, own, strict=True):
        assert (row["prompt"] or PROMPT) in text
    each = [caption_rows(model, processor, [row], row["prompt"] or PROMPT, max_new_tokens=6)[0] for row in own]
    assert caption_rows(model, processor, own, PROMPT, max_new_tokens=6) == each


def test_an_unknown_type_is_refused_and_the_file_to_extend_named():
    with refused(option="model_type", got="mpt", says="src/hfcap/models/model_types.py"):
        spec_of_type("mpt")


@pytest.mark.parametrize("model_type", NOT_SERVED)
def test_a_type_that_the_facts_cannot_describe_is_refused_with_the_reason(model_type):
    assert model_type in CONFIG_MAPPING  # of transformers, and in no other table
    assert model_type not in MODEL_TYPES
    with refused(option="model_type", got=model_type, fix="choose another model", says=NOT_SERVED[model_type]):
        spec_of_type(model_type)


def test_packing_on_request_is_refused_where_it_is_not_exact(saved, caplog):
    git, _ = load_captioner(saved("git"))
    assert not is_packable(git.config)
    with refused(option="packing", got="always", says=("git with git", "packing: auto")):
        choose_packing("always", git.config)
    with caplog.at_level("INFO"):
        assert not choose_packing("auto", git.config)
    assert "one row per reference" in caplog.text
    blip, _ = load_captioner(saved("blip"))
    assert choose_packing("auto", blip.config)
    assert not choose_packing("never", blip.config)


@pytest.mark.parametrize(
    ("model_type", "layers"),
    [
        ("llava", {"CLIPEncoderLayer", "CLIPVisionEmbeddings", "LlamaDecoderLayer"}),
        ("blip", {"BlipEncoderLayer", "BlipTextEmbeddings"}),
        ("git", set()),
    ],
)
def test_fsdp_divides_the_layers_that_a_captioner_holds(model_type, layers, saved):
    model, _ = load_captioner(saved(model_type))
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="TRANSFORMER_BASED_WRAP")
    prepare_fsdp(plugin, model)
    plugin.set_auto_wrap_policy(model)  # without prepare_fsdp: "Could not find the transformer layer class CLIPText…"
    assert {layer.__name__ for layer in plugin.auto_wrap_policy.keywords["transformer_layer_cls"]} == layers


@pytest.mark.parametrize("model_type", [case(model_type, fast=True) for model_type in TYPES])
def test_a_checkpoint_is_loaded_whole_whatever_its_tensors_are_called(model_type, saved, tmp_path):
    model, _ = load_captioner(saved(model_type))
    model.save_pretrained(tmp_path)
    assert loads_whole(model, tmp_path)

    tensors = load_file(tmp_path / "model.safetensors")
    save_file(dict(list(tensors.items())[1:]), tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WorkError, match="missing or of another shape"):
        load_weights(model, tmp_path)


def test_the_best_model_of_a_native_run_is_the_one_that_is_kept(saved, rows, tmp_path):
    model, processor = load_captioner(saved("llava"))
    keep_caption_prompt(processor, PROMPT)
    trainer = make_trainer(
        *(model, processor, rows, tmp_path),
        learning_rate=1.0,  # the first step is bad, all others are worse
        max_steps=3,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=1,
        save_steps=1,
        save_total_limit=3,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
    )
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert min(losses) < losses[-1]
    assert trainer.evaluate()["eval_loss"] == min(losses)


@needs_torchvision
def test_a_picture_of_one_token_is_not_for_mistral_3(saved):
    """It failed with the error of a tensor, unless there was another picture in the batch."""
    model, processor = load_captioner(saved("mistral3"))
    small, wide = Image.new("RGB", (1, 1)), Image.new("RGB", (40, 20))
    bad = {}
    assert [
        row
        for row, _ in caption_stream(
            model, processor, [{"image": small}, {"image": wide}], PROMPT, on_bad_row=bad.__setitem__
        )
    ] == [1]
    assert list(bad) == [0]
    with refused(PictureError, option="a", says=("1 x 1 pixels", "fewer than 2 image tokens")):
        CaptionCollator(processor, model.config, PROMPT).prefix({"image": small, "image_id": "a"})
