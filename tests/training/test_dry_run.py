from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.collators import CaptionCollator
from hfcap.training.dataset import CaptionDataset
from hfcap.training.dry_run import describe_run, describe_sample
from hfcap.training.strategies import apply_strategy


def test_the_sample_shows_what_is_read_and_what_is_learned(build_tiny, scene_rows):
    model, processor = build_tiny("llava")
    batch = CaptionCollator(processor, model.config, "caption")(
        [{"image": r["image"], "captions": r["captions"]} for r in scene_rows]
    )
    text = describe_sample(batch, processor.tokenizer)
    first = scene_rows[0]["captions"][0]
    assert "not learned: '<image>" in text
    assert f"learns ' {first}<eos>'" in text
    assert text.count("reference ") == len(scene_rows[0]["captions"])


def test_a_dry_run_counts_steps_and_parameters_and_leaves_no_gradient(build_tiny, scene_rows, tmp_path):
    model, processor = build_tiny("llava")
    model = apply_strategy(model, "projector")
    args = CaptionTrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=5, gradient_accumulation_steps=2, num_train_epochs=3
    )
    text = describe_run(model, CaptionCollator(processor, model.config, "caption"), CaptionDataset(scene_rows), args)
    # 24 images in batches of 5 are 5 batches, 3 optimizer steps an epoch.
    assert "9 optimizer steps" in text
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert text.split("all ")[1].split()[1] == f"{trained:,}"
    assert all(p.grad is None for p in model.parameters())
