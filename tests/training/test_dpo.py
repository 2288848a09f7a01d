"""Preference training: the loss and its gradient, steps that are split in any way, pairs, and what is refused."""

import math
from itertools import product

import pytest
import torch

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.training.arguments import ModelArguments
from hfcap.training.collators import CaptionCollator
from hfcap.training.data_arguments import DataArguments
from hfcap.training.dpo import DpoArguments, DpoTrainer, dpo_loss, why_same
from hfcap.training.starting_model import StartingModel
from hfcap.training.strategies import apply_strategy
from refusals import refused
from tiny.native import build_native
from tiny.training import STEPS_ALONE, KeepGradients, assert_same_gradients, fill_lora, gradients_of

FAMILIES = ("llava", "encoder_decoder")
PROMPTS = {"llava": "Describe.", "encoder_decoder": None, "git": None}
CELLS = [("llava", "full"), ("llava", "lora"), ("encoder_decoder", "full"), ("git", "full")]


def pair_rows(rows, pairs=2, number=8):
    """Rows with columns `chosen` and `rejected`: references, and those of the next picture."""
    rows = rows.select(range(number))
    captions = list(rows["captions"])
    rows = rows.add_column("chosen", [own[:pairs] for own in captions])
    return rows.add_column("rejected", [own[:pairs] for own in captions[1:] + captions[:1]])


def make_trainer(
    tmp_path, build_tiny, rows, family, strategy="full", batch_size=4, packing=True, eval_rows=None, **settings
):
    model, processor = build_native("git", rows["captions"][0]) if family == "git" else build_tiny(family)
    if strategy == "lora":
        torch.manual_seed(1)
        model = apply_strategy(model, "lora", lora_r=4)
        fill_lora(model)
    defaults = {
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": 8 // batch_size,
        "max_steps": 2,
        "learning_rate": 0.1,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1e9,
        "logging_steps": 1,
        "beta": 0.5,
    }
    return DpoTrainer(
        model=model,
        args=DpoArguments(output_dir=str(tmp_path / f"{family}-{batch_size}"), **STEPS_ALONE | defaults | settings),
        train_dataset=CaptionDataset(rows),
        eval_dataset=CaptionDataset(rows if eval_rows is None else eval_rows),
        data_collator=CaptionCollator(processor, model.config, PROMPTS[family], packing),
        processing_class=processor,
        callbacks=[KeepGradients()],
    )


def move_weights(trainer):
    """Move the weights away from those that training began with, so that rewards are not all 0."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)


def log_probability(model, prefix, ids, family):
    """Log-probability of one caption in a row of its own, by the logits at its places."""
    key = "decoder_input_ids" if family == "encoder_decoder" else "input_ids"
    logits = model(**{key: torch.tensor([[*prefix.input_ids, *ids[:-1]]])}, **prefix.vision).logits[0, -len(ids) :]
    return logits.log_softmax(-1)[range(len(ids)), ids].sum()


def test_loss_is_the_formula_of_the_paper():
    """Equation 7 of Rafailov et al. (2023)."""
    policy_chosen, policy_rejected, chosen, rejected = torch.tensor(
        [[-3.0, -9.0], [-4.0, -5.0], [-2.0, -8.0], [-6.0, -1.0]]
    )
    pi_logratios = policy_chosen - policy_rejected
    ref_logratios = chosen - rejected
    expected = -torch.log(torch.sigmoid(0.3 * (pi_logratios - ref_logratios)))
    ratios = torch.stack([policy_chosen - chosen, policy_rejected - rejected], dim=1)
    torch.testing.assert_close(dpo_loss(ratios, 0.3), expected)
    assert dpo_loss(torch.tensor([[1e4, -1e4], [-1e4, 1e4]]), 1.0).tolist() == [0.0, 2e4]  # no overflow


@pytest.mark.parametrize("alpha", [0, 0.7])
@pytest.mark.parametrize(("cell", "packing"), [*product(CELLS[:3], [True, False]), (CELLS[3], False)])
def test_loss_and_gradient_are_those_of_one_row_per_caption(tmp_path, build_tiny, scene_rows, cell, packing, alpha):
    family, strategy = cell
    settings = {"packing": packing, "rpo_alpha": alpha, "eval_caption_images": 4, "per_device_eval_batch_size": 3}
    trainer = make_trainer(tmp_path, build_tiny, pair_rows(scene_rows), family, strategy, **settings)
    model, collator = trainer.model, trainer.data_collator
    if strategy == "full":
        reference = StartingModel(model).copy
        move_weights(trainer)
    rows = [trainer.train_dataset[index] for index in range(4)]
    loss = trainer.compute_loss(model, collator(rows))
    loss.backward()
    ours = gradients_of(model)
    model.zero_grad()

    losses, rewards = [], []
    for row in rows:
        prefix = collator.prefix(row)
        captions = collator.targets(row["captions"])
        assert len(captions) == 4
        policy = torch.stack([log_probability(model, prefix, ids, family) for ids in captions])
        with torch.no_grad():
            if strategy == "lora":
                with model.disable_adapter():
                    start = torch.stack([log_probability(model, prefix, ids, family) for ids in captions])
            else:
                start = torch.stack([log_probability(reference, prefix, ids, family) for ids in captions])
        for chosen, rejected in ((0, 1), (2, 3)):
            margin = (policy[chosen] - start[chosen]) - (policy[rejected] - start[rejected])
            likelihood = alpha * policy[chosen] / len(captions[chosen])
            losses.append(-torch.log(torch.sigmoid(0.5 * margin)) - likelihood)
            rewards.append([0.5 * (policy[which] - start[which]).item() for which in (chosen, rejected)])
    expected = torch.stack(losses).mean()
    expected.backward()
    assert abs(expected.item() - math.log(2)) > 1e-3
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (compared,) = trainer._compared
    in_order = sum(chosen > rejected for chosen, rejected in rewards)
    assert 0 < in_order < len(rewards)
    assert compared.tolist() == pytest.approx([8, *map(sum, zip(*rewards, strict=True)), in_order], rel=1e-4)
    assert_same_gradients(ours, gradients_of(model))
    chosen, rejected = (sum(values) / 8 for values in zip(*rewards, strict=True))
    figures = {"chosen": chosen, "rejected": rejected, "accuracies": in_order / 8, "margins": chosen - rejected}
    found = trainer.preference_metrics(trainer.eval_pairs)
    assert found == pytest.approx({f"rewards/{name}": value for name, value in figures.items()}, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_size_times_accumulation_does_not_matter(tmp_path, build_tiny, scene_rows, family):
    """Pictures have different numbers of pairs, so a mean over micro-batches would differ."""
    rows = pair_rows(scene_rows)
    number = [1 + index % 2 for index in range(8)]
    for name in ("chosen", "rejected"):
        texts = [own[:count] for own, count in zip(rows[name], number, strict=True)]
        rows = rows.remove_columns(name).add_column(name, texts)
    steps = []
    for batch_size in (8, 2):
        trainer = make_trainer(tmp_path, build_tiny, rows, family, batch_size=batch_size)
        trainer.train()
        steps.append((trainer.state.log_history, dict(trainer.model.named_parameters())))
    (whole, weights), (split, split_weights) = steps
    assert whole[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert whole[1]["loss"] < whole[0]["loss"]
    figures = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins")
    for step, key in product((0, 1), ("loss", "grad_norm", *figures)):
        assert split[step][key] == pytest.approx(whole[step][key], rel=1e-4, abs=1e-5), key
    assert whole[1]["rewards/margins"] == pytest.approx(whole[1]["rewards/chosen"] - whole[1]["rewards/rejected"])
    assert whole[1]["rewards/margins"] > 0.01
    for name, weight in weights.items():
        torch.testing.assert_close(split_weights[name], weight, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("strategy", ["frozen_encoder", "lora"])
def test_a_step_widens_the_margin_of_its_pairs(tmp_path, build_tiny, scene_rows, strategy):
    model, processor = build_tiny("llava")
    model = apply_strategy(model, strategy, lora_r=4)
    built = {"build_tiny": lambda family: (model, processor), "batch_size": 8, "learning_rate": 2e-4}
    trainer = make_trainer(tmp_path, rows=pair_rows(scene_rows), family="llava", **built)
    trainer.train()
    first, second = (log for log in trainer.state.log_history if "rewards/margins" in log)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert second["rewards/margins"] > 1e-4
    assert second["loss"] < first["loss"] == pytest.approx(math.log(2), abs=1e-4)


def test_an_evaluation_has_the_rewards_of_pairs_and_training_goes_on(tmp_path, build_tiny, scene_rows):
    every_step = {"eval_strategy": "steps", "eval_steps": 1, "metrics": "bleu", "metric_for_best_model": None}
    runs = [
        make_trainer(tmp_path / name, build_tiny, pair_rows(scene_rows), "llava", max_steps=3, **settings)
        for name, settings in (("evaluated", every_step), ("alone", {}))
    ]
    for trainer in runs:
        trainer.train()
    evaluations = [log for log in runs[0].state.log_history if "eval_loss" in log]
    margins = [log["eval_rewards/margins"] for log in evaluations]
    assert len(set(margins)) == 3 and min(margins) > 1e-3
    assert all(0 <= log["eval_rewards/accuracies"] <= 1 for log in evaluations)
    weights = [dict(trainer.model.named_parameters()) for trainer in runs]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


@pytest.mark.parametrize("rejected", ["column", "corrupted"])
def test_rows_without_pairs_are_evaluated_by_words_exchanged_or_not_at_all(tmp_path, build_tiny, scene_rows, rejected):
    trainer = make_trainer(tmp_path, build_tiny, pair_rows(scene_rows), "llava", rejected=rejected)
    one_picture = CaptionDataset(scene_rows.select([20]))
    model, collator = trainer.model, trainer.data_collator
    args = {"model": model, "args": trainer.args, "data_collator": collator, "processing_class": collator.processor}
    trainer = DpoTrainer(**args, train_dataset=CaptionDataset(pair_rows(scene_rows)), eval_dataset=one_picture)
    if rejected == "column":
        assert trainer.eval_pairs is None
        assert "eval_rewards/chosen" not in trainer.evaluate()
    else:
        (chosen, other, *_) = trainer.eval_pairs[0]["captions"]
        assert chosen in one_picture.rows["captions"][0] and other not in one_picture.rows["captions"][0]
        assert trainer.evaluate()["eval_rewards/accuracies"] == 0  # before training no reward is above another


@pytest.mark.parametrize("empty", [None, "", []])
def test_a_split_whose_column_is_empty_has_no_pairs(tmp_path, build_tiny, scene_rows, empty):
    """Splits of a source have the same columns."""
    rows = scene_rows.map(lambda row: {"rejected": empty if isinstance(empty, list) else [empty]})
    trainer = make_trainer(tmp_path, build_tiny, pair_rows(scene_rows), "llava", eval_rows=rows)
    assert not [name for name in trainer.evaluate() if "rewards" in name]
    with refused(option="rejected"):
        make_trainer(tmp_path, build_tiny, rows, "llava")


def test_rewards_are_those_of_the_rows_that_are_evaluated(tmp_path, build_tiny, scene_rows):
    pairs = pair_rows(scene_rows)
    trainer = make_trainer(tmp_path, build_tiny, pairs, "llava", eval_rows=pairs.select(range(4)))
    move_weights(trainer)
    test_rows = pairs.select(range(4, 8))
    found = trainer.evaluate(CaptionDataset(test_rows), metric_key_prefix="test")
    own = trainer.preference_metrics(trainer.pairs_to_evaluate(CaptionDataset(test_rows)))
    assert found["test_rewards/chosen"] == own["rewards/chosen"]
    assert found["test_rewards/chosen"] != trainer.evaluate()["eval_rewards/chosen"]
    assert "test_rewards/chosen" not in trainer.evaluate(scene_rows, metric_key_prefix="test")
    assert "train_rewards/chosen" in trainer.evaluate(trainer.train_dataset, metric_key_prefix="train")


def test_frozen_parts_of_a_stock_model_stay_in_eval(tmp_path, build_tiny, scene_rows):
    trainer = make_trainer(tmp_path, build_tiny, pair_rows(scene_rows), "git", packing=False)
    trainer.model.git.image_encoder.requires_grad_(False)
    trainer.model.train()
    trainer.compute_loss(trainer.model, trainer.data_collator([trainer.train_dataset[0]]))
    assert not trainer.model.git.image_encoder.training and trainer.model.git.encoder.training


def test_rewards_of_a_resumed_run_are_those_against_the_first_weights(tmp_path, build_tiny, scene_rows):
    """A starting model that was taken from the checkpoint would give rewards of 0."""
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = make_trainer(tmp_path / "whole", build_tiny, pair_rows(scene_rows), "llava", **saving)
    whole.train()
    resumed = make_trainer(tmp_path / "again", build_tiny, pair_rows(scene_rows), "llava", **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "llava-4" / "checkpoint-2"))
    by_step = [{log["step"]: log for log in t.state.log_history if "loss" in log} for t in (whole, resumed)]
    for step, key in product((3, 4), ("loss", "grad_norm", "rewards/chosen", "rewards/margins")):
        assert by_step[1][step][key] == by_step[0][step][key], (step, key)
    assert by_step[0][3]["rewards/margins"] > 1e-3


def test_a_training_without_pairs_is_one_error(tmp_path, build_tiny, scene_rows):
    with refused(option="rejected", says=("captions", "--rejected corrupted")):
        make_trainer(tmp_path, build_tiny, scene_rows, "llava")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("{} but not here", "the same first 5 tokens as the chosen caption (max_caption_tokens=5)"),
        (" {} ", "the chosen caption but for white space"),
    ],
)
def test_a_pair_of_the_same_tokens_is_one_error_that_says_why(tmp_path, build_tiny, scene_rows, change, says):
    rows = pair_rows(scene_rows, pairs=1)
    texts = [[change.format(own[0])] for own in rows["chosen"]]
    rows = rows.remove_columns("rejected").add_column("rejected", texts)
    model, processor = build_tiny("llava")
    collator = CaptionCollator(processor, model.config, "Describe.", max_caption_tokens=5)
    with refused(option="rejected", got=texts[0][0], says=(says, rows["image_id"][0])):
        DpoTrainer(
            model=model,
            args=DpoArguments(output_dir=str(tmp_path), **STEPS_ALONE),
            train_dataset=rows,
            data_collator=collator,
            processing_class=processor,
        )


def test_captions_that_a_tokenizer_does_not_tell_apart_are_named_so():
    assert why_same("A dog", "a dog", [1, 2], [1, 2], 5) == (
        "the same tokens as the chosen caption: the tokenizer does not tell them apart"
    )
    assert why_same("a dog", "a cat", [1, 2], [1, 3], 5) is None
    two_blanks = why_same("a dog", "a  dog", [1, 2], [1, 0, 2], 5)  # a token of byte-level tokenizers
    assert two_blanks == "the chosen caption but for white space"


@pytest.mark.parametrize("beta", [0, -1, math.inf, math.nan])
def test_a_beta_that_compares_nothing_is_refused(beta):
    with refused(option="beta", wanted="a finite number above 0"):
        DpoArguments(use_cpu=True, beta=beta)


@pytest.mark.parametrize(
    ("data", "settings"),
    [
        ({"streaming": True}, {}),
        ({"mirror": True}, {}),
        ({"color_jitter": 0.1}, {}),
        ({}, {"length_tokens": True}),
        ({}, {"label_smoothing_factor": 0.1}),
        ({}, {"max_row_tokens": 300}),
    ],
)
def test_settings_that_pairs_cannot_follow_are_refused(data, settings, tmp_path, build_tiny):
    for part in build_tiny("llava"):
        part.save_pretrained(tmp_path)
    model_args = ModelArguments(model=str(tmp_path))
    DpoArguments(use_cpu=True).check(DataArguments(), model_args)
    ((option, got),) = (data | settings).items()
    with refused(option=option, got=got, fix="remove it"):
        DpoArguments(use_cpu=True, **settings).check(DataArguments(**data), model_args)


def test_preference_training_starts_from_a_captioner():
    with refused(option="model"):
        DpoArguments(use_cpu=True).check(DataArguments(), ModelArguments())


def test_weights_that_an_engine_divides_are_refused(tmp_path, build_tiny, monkeypatch):
    for part in build_tiny("llava"):
        part.save_pretrained(tmp_path)
    monkeypatch.setattr("hfcap.training.dpo.current_backend", lambda: "zero3")
    with refused(option="training engine", got="zero3", wanted="single or ddp"):
        DpoArguments(use_cpu=True).check(DataArguments(), ModelArguments(model=str(tmp_path)))
