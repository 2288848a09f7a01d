import pytest

from hfcap.data.augmentation import View
from hfcap.data.features import ComputedFeatures, cache_features
from hfcap.recipes import train
from hfcap.training.collators import CaptionCollator
from hfcap.training.dry_run import describe_run, describe_sample
from hfcap.training.packing import IGNORE_INDEX
from hfcap.training.strategies import apply_strategy
from tiny.training import make_trainer


def test_the_sample_shows_what_is_read_and_what_is_learned(build_tiny, scene_rows):
    model, processor = build_tiny("llava")
    batch = CaptionCollator(processor, model.config, "caption")(
        [{"image": r["image"], "captions": r["captions"]} for r in scene_rows]
    )
    text = describe_sample(batch, processor.tokenizer)
    first = scene_rows[0]["captions"][0]
    assert "not learned: '<image> (x " in text
    assert f"learns ' {first}<eos>'" in text
    assert text.count("reference ") == len(scene_rows[0]["captions"])


def test_a_dry_run_counts_steps_and_parameters_and_leaves_no_gradient(build_tiny, scene_rows, tmp_path):
    model, processor = build_tiny("llava")
    model = apply_strategy(model, "projector")
    collator = CaptionCollator(processor, model.config, "caption")
    settings = {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 2, "num_train_epochs": 3}
    text = describe_run(make_trainer(model, collator, scene_rows, tmp_path, **settings))
    # 24 images in batches of 5 are 5 batches, 3 optimizer steps an epoch.
    assert "9 optimizer steps" in text
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert text.split("\nall ")[1].split()[1] == f"{trained:,}"
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("max_row_tokens", [None, 400])
def test_a_dry_run_shows_what_the_trainer_takes(build_tiny, scene_rows, tmp_path, max_row_tokens):
    """Its batch and its steps are the trainer's own, with several images in a row as well."""
    model, processor = build_tiny("llava")
    collator = CaptionCollator(processor, model.config, "caption")
    settings = {"per_device_train_batch_size": 5, "num_train_epochs": 1.5, "max_row_tokens": max_row_tokens, "seed": 3}
    trainer = make_trainer(model, collator, scene_rows, tmp_path, **settings)
    text = describe_run(trainer)

    batch = next(iter(trainer.get_train_dataloader()))
    sample = describe_sample(batch, processor.tokenizer)
    assert text.startswith(sample + "\n\n")
    shown = [line for line in text.splitlines() if line.startswith("batch: ")]
    rows, length = batch["segment_ids"].shape
    targets = int((batch["shift_labels"] != IGNORE_INDEX).sum())
    assert shown[0].startswith(
        f"batch: {rows} rows of {length} tokens, {len(batch['pixel_values'])} images, {targets:,} targets"
    )
    if max_row_tokens is None:
        assert "image 1 of" not in sample
    else:
        in_first_row = int(batch["image_ids"][0].max()) + 1
        assert in_first_row > 1 and sample.count("not learned: '<image>") == in_first_row
        assert sample.count("learns ") == 5 * in_first_row
        assert f"an epoch: 24 images in {len(trainer.train_sampler)} rows" in text
        assert length <= max_row_tokens
    trainer.train()
    assert f"\n{trainer.state.global_step} optimizer steps" in text


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("family", ["llava", "encoder_decoder"])
def test_a_dry_run_leaves_no_file(build_tiny, scene_rows, tmp_path, capsys, family):
    """Neither a list of unreadable pictures nor features, of which it computes those that it shows."""
    for part in build_tiny(family):
        part.save_pretrained(tmp_path / "base")
    for split in ("train", "validation"):
        (tmp_path / "photos" / split).mkdir(parents=True)
        for row in scene_rows.select(range(8)):
            row["image"].save(tmp_path / "photos" / split / f"{row['image_id'].replace('/', '_')}.png")
            (tmp_path / "photos" / split / f"{row['image_id'].replace('/', '_')}.txt").write_text(row["captions"][0])
        next((tmp_path / "photos" / split).glob("*.png")).write_bytes(b"no picture")
    options = {
        "model": tmp_path / "base",
        "data": tmp_path / "photos",
        "on_bad_image": "skip",
        "strategy": "frozen_encoder",
        "feature_cache": "true",
        "mirror": "true",
        "crop": 0.7,
        "cached_crops": 3,
        "cache_dir": tmp_path / "features",
        "output_dir": tmp_path / "run",
        "use_cpu": "true",
    }
    before = files_below(tmp_path)
    train.main([*(f"--{name}={value}" for name, value in options.items()), "--dry_run"])
    assert files_below(tmp_path) == before
    printed = capsys.readouterr().out
    assert "optimizer steps" in printed
    assert "feature cache: 0 MB for 5 views of 7 training images" in printed


def test_features_computed_on_demand_are_those_of_a_cache(build_tiny, scene_rows, tmp_path):
    model, processor = build_tiny("llava")
    rows = scene_rows.select(range(3))
    computed = ComputedFeatures(model, processor.image_processor, rows)
    views = [View(), View(flipped=True), View(crop=0.7, number=1)]
    cached = cache_features(
        model, processor.image_processor, rows, tmp_path, batch_size=1, views=views, dtype="float32"
    )
    assert len(computed) == len(cached) == 3
    for view in views:
        assert all(computed.read(row, view).equal(cached.read(row, view)) for row in range(3))
