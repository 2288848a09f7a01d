"""D4: the same 16 samples give the same loss and gradient, however an optimizer step splits them."""

import pytest
import torch

from hfcap.training.collators import CaptionCollator
from tiny.training import CHECKPOINTING, make_trainer

FAMILIES = ("llava", "encoder_decoder")


def train_one_step(
    tmp_path,
    build_tiny,
    rows,
    family,
    batch_size,
    packing=True,
    pad_is_eos=False,
    checkpointing=False,
    max_row_tokens=None,
    num_rows=16,
    pad_to_multiple_of=1,
):
    """Train one optimizer step on the same 16 images; return its loss, gradient norm and the new weights."""
    model, processor = build_tiny(family, pad_is_eos)
    prompt = "Describe." if family == "llava" else None
    collator = CaptionCollator(processor, model.config, prompt, packing, pad_to_multiple_of=pad_to_multiple_of)
    trainer = make_trainer(
        model,
        collator,
        rows.select(range(16)),
        tmp_path / f"{family}-{batch_size}-{packing}",
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=num_rows // batch_size,
        max_row_tokens=max_row_tokens,
        max_steps=1,
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=1e9,
        logging_steps=1,
        **{CHECKPOINTING: checkpointing},
    )
    assert len(trainer.train_sampler) == num_rows
    trainer.train()
    log = trainer.state.log_history[0]
    return log["loss"], log["grad_norm"], {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same_step(first, second):
    assert second[0] == pytest.approx(first[0], rel=1e-5)
    assert second[1] == pytest.approx(first[1], rel=1e-5)
    for name, weight in first[2].items():
        torch.testing.assert_close(second[2][name], weight, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [4, 1])
def test_batch_size_times_accumulation_does_not_matter(tmp_path, build_tiny, scene_rows, family, batch_size):
    whole = train_one_step(tmp_path, build_tiny, scene_rows, family, 16)
    assert_same_step(whole, train_one_step(tmp_path, build_tiny, scene_rows, family, batch_size))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_packing_does_not_matter(tmp_path, build_tiny, scene_rows, family, pad_is_eos):
    packed = train_one_step(tmp_path, build_tiny, scene_rows, family, 8, packing=True, pad_is_eos=pad_is_eos)
    rows = train_one_step(tmp_path, build_tiny, scene_rows, family, 8, packing=False, pad_is_eos=pad_is_eos)
    assert_same_step(packed, rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_matter(tmp_path, build_tiny, scene_rows, family):
    plain = train_one_step(tmp_path, build_tiny, scene_rows, family, 16)
    assert_same_step(plain, train_one_step(tmp_path, build_tiny, scene_rows, family, 16, pad_to_multiple_of=64))


@pytest.mark.parametrize("family", FAMILIES)
def test_activation_checkpointing_does_not_matter(tmp_path, build_tiny, scene_rows, family):
    plain = train_one_step(tmp_path, build_tiny, scene_rows, family, 16)
    assert_same_step(plain, train_one_step(tmp_path, build_tiny, scene_rows, family, 16, checkpointing=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_mean_over_all_targets(tmp_path, build_tiny, scene_rows, family):
    """Against a loss computed by hand: one reference at a time, without masks, packing or trainer."""
    loss, _, _ = train_one_step(tmp_path, build_tiny, scene_rows, family, 4)
    model, processor = build_tiny(family)
    collator = CaptionCollator(processor, model.config, "Describe." if family == "llava" else None)
    total, count = 0.0, 0
    for row in scene_rows.select(range(16)):
        pixel_values = processor.image_processor([row["image"]], return_tensors="pt")["pixel_values"]
        for target in collator.targets(row["captions"]):
            ids = torch.tensor([collator.prefix(row).input_ids + target[:-1]])
            name = "input_ids" if family == "llava" else "decoder_input_ids"
            with torch.no_grad():
                logits = model.eval()(pixel_values=pixel_values, **{name: ids}).logits[0, -len(target) :]
            total += torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="sum").item()
            count += len(target)
    assert loss == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_caption_and_its_end_are_learned(build_tiny, scene_rows, family):
    model, processor = build_tiny(family, pad_is_eos=True)
    collator = CaptionCollator(processor, model.config, "Describe." if family == "llava" else None)
    rows = [{"image": row["image"], "captions": row["captions"]} for row in scene_rows.select(range(3))]
    batch = collator(rows)
    eos = processor.tokenizer.eos_token_id
    for labels, row in zip(batch["shift_labels"], rows, strict=True):
        learned = labels[labels != -100]
        assert (learned == eos).sum() == len(row["captions"])  # each reference's end, though padding has the same id
        text = processor.tokenizer.decode(learned, skip_special_tokens=True)
        assert text.split() == " ".join(row["captions"]).split()


@pytest.fixture(scope="module")
def uneven_rows(scene_rows):
    """The same pictures with one to seven references of 2 to 40 words."""
    captions = [
        [" ".join((row["captions"] * 4)[i % 5 : i % 5 + 1 + (i * number) % 4]) for i in range(1 + number % 7)]
        for number, row in enumerate(scene_rows)
    ]
    return scene_rows.remove_columns("captions").add_column("captions", captions)


@pytest.mark.parametrize(
    ("family", "pad_is_eos", "checkpointing"),
    [("llava", False, False), ("llava", True, True), ("encoder_decoder", True, False)],
)
def test_any_number_of_references_of_any_length(tmp_path, build_tiny, uneven_rows, family, pad_is_eos, checkpointing):
    options = {"pad_is_eos": pad_is_eos, "checkpointing": checkpointing}
    separate = train_one_step(tmp_path, build_tiny, uneven_rows, family, 8, packing=False, **options)
    assert_same_step(separate, train_one_step(tmp_path, build_tiny, uneven_rows, family, 8, **options))
    if family == "llava":  # 16 images in 8 rows, some of them alone
        options |= {"max_row_tokens": 360, "num_rows": 8}
        assert_same_step(separate, train_one_step(tmp_path, build_tiny, uneven_rows, family, 2, **options))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_trained_in_bfloat16_is_judged_as_it_will_be_loaded(tmp_path, build_tiny, scene_rows, family):
    def trainer_of(model, precision):
        collator = CaptionCollator(processor, model.config, "Describe." if family == "llava" else None)
        rows = scene_rows.select(range(16))
        return make_trainer(model, collator, rows, tmp_path / family, precision=precision, max_steps=1)

    model, processor = build_tiny(family)
    trainer = trainer_of(model, "bfloat16")
    trainer.train()
    reloaded = type(model)(model.config)
    reloaded.load_state_dict(model.state_dict())
    expected = trainer_of(reloaded, "float32").evaluation_loss(trainer.eval_dataset)
    assert trainer.evaluation_loss(trainer.eval_dataset) == pytest.approx(expected, rel=1e-7)
    # The next training step is under autocast again; what is rounded differs by 7e-7 and more.
    batch = trainer.data_collator([trainer.eval_dataset[i] for i in range(4)])
    rounded = trainer.compute_loss(model.eval(), dict(batch)).item()
    assert rounded != pytest.approx(
        trainer_of(reloaded, "float32").compute_loss(reloaded.eval(), batch).item(), rel=1e-7
    )
