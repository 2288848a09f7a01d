"""CIDEr-optimised training: the policy that is sampled, its gradient, its reward, and the recipe as a whole."""

from itertools import product

import numpy as np
import pytest
import torch

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.generation.inputs import end_token_id
from hfcap.metrics.ptb_tokenizer import tokenize
from hfcap.training.collators import CaptionCollator
from hfcap.training.rewards import END_WORD, CiderDOfEnded, build_rewards, with_end
from hfcap.training.scst import (
    PictureCollator,
    ScstArguments,
    ScstTrainer,
    advantages,
    cut_at_end,
    log_policy,
    policy_gradient_loss,
)
from refusals import refused
from tiny.native import build_native
from tiny.training import STEPS_ALONE, assert_same_gradients, gradients_of

FAMILIES = ("llava", "encoder_decoder")
PROMPTS = {"llava": "Describe.", "encoder_decoder": None, "git": None}
NUM_SAMPLES = 3
MAX_TOKENS = 8
TEMPERATURE = 0.8


@pytest.fixture
def rewards(scene_rows, monkeypatch):
    monkeypatch.setattr("hfcap.metrics.cider._has_warned", False)
    with pytest.warns(UserWarning, match="document frequencies"):
        return build_rewards(["cider_d"], scene_rows)


# Settings of a checkpoint that change its captions, and are no part of the policy: each alone would show in samples.
HABITS = {
    "no_repeat_ngram_size": 2,
    "repetition_penalty": 3.0,
    "temperature": 0.1,
    "min_p": 0.9,
    "typical_p": 0.1,
    "epsilon_cutoff": 0.1,
    "bad_words_ids": [[7], [8], [9]],
    "sequence_bias": [[[10], 30.0]],
    "begin_suppress_tokens": [11, 12],
    "min_new_tokens": 3,
    "forced_eos_token_id": 13,
}


def make_trainer(tmp_path, build_tiny, rows, rewards, family, batch_size=4, suppressed=None, packing=True):
    # GIT stands for the types whose head runs on all positions, and which cannot be packed.
    model, processor = build_native("git", rows["captions"][0]) if family == "git" else build_tiny(family)
    model.generation_config.update(**HABITS)
    model.generation_config.suppress_tokens = suppressed
    data = CaptionDataset(rows.select(range(8)))
    args = ScstArguments(
        output_dir=str(tmp_path / f"{family}-{batch_size}"),
        num_samples=NUM_SAMPLES,
        sampling_temperature=TEMPERATURE,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=8 // batch_size,
        max_steps=1,
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=1e9,
        logging_steps=1,
        **STEPS_ALONE,
    )
    collator = CaptionCollator(processor, model.config, PROMPTS[family], packing, max_caption_tokens=MAX_TOKENS)
    return ScstTrainer(
        model=model,
        args=args,
        train_dataset=data,
        eval_dataset=data,
        data_collator=collator,
        processing_class=processor,
        rewards=rewards,
    )


def references_as_samples(trainer, monkeypatch):
    """Let "sampling" give the first references of each image, so that a step is a function of its images."""
    of_picture = {}
    for row in (trainer.train_dataset[i] for i in range(len(trainer.train_dataset))):
        pixels = trainer.data_collator.prefix(row).vision["pixel_values"]
        end = end_token_id(trainer.processing_class, trainer.model.config)
        references = trainer.data_collator.targets(row["captions"][:NUM_SAMPLES])  # of which long ones are cut
        targets = [[*ids[: MAX_TOKENS - 1], end] for ids in references]
        targets[0] = targets[0][:3]  # one that reached the limit before its end
        of_picture[pixels.sum().item()] = targets

    def sample(model, prefixes):
        return [ids for prefix in prefixes for ids in of_picture[prefix.vision["pixel_values"].sum().item()]]

    monkeypatch.setattr(trainer, "sample", sample)


@pytest.mark.parametrize(("family", "packing"), [*product(FAMILIES, [True, False]), ("git", False)])
def test_gradient_is_that_of_reinforce_written_by_hand(
    tmp_path, build_tiny, scene_rows, rewards, family, packing, monkeypatch
):
    trainer = make_trainer(tmp_path, build_tiny, scene_rows, rewards, family, packing=packing)
    references_as_samples(trainer, monkeypatch)
    model, processor, collator = trainer.model, trainer.processing_class, trainer.data_collator
    rows = [trainer.train_dataset[i] for i in range(4)]
    trainer.compute_loss(model, PictureCollator(collator, NUM_SAMPLES)(rows)).backward()
    ours = gradients_of(model)
    model.zero_grad()

    loss = 0.0
    for row in rows:
        prefix = collator.prefix(row)
        captions = trainer.sample(model, [prefix])
        texts = processor.tokenizer.batch_decode(captions, skip_special_tokens=True)
        scores = rewards[0].function(texts, [row["image_id"]] * NUM_SAMPLES, ended=[False, True, True])
        for k, ids in enumerate(captions):
            others = np.delete(scores, k).mean()
            tokens = torch.tensor([[*prefix.input_ids, *ids[:-1]]])
            key = "decoder_input_ids" if family == "encoder_decoder" else "input_ids"
            logits = model(**{key: tokens}, **prefix.vision).logits[0, -len(ids) :]
            chosen = (logits / TEMPERATURE).log_softmax(-1)[range(len(ids)), ids]
            loss = loss - (scores[k] - others) * chosen.sum() / (4 * NUM_SAMPLES)
    loss.backward()
    assert_same_gradients(ours, gradients_of(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_size_times_accumulation_does_not_matter(tmp_path, build_tiny, scene_rows, rewards, family, monkeypatch):
    steps = []
    for batch_size in (8, 2):
        trainer = make_trainer(tmp_path, build_tiny, scene_rows, rewards, family, batch_size)
        references_as_samples(trainer, monkeypatch)
        trainer.train()
        steps.append((trainer.state.log_history[0], dict(trainer.model.named_parameters())))
    (whole, weights), (split, split_weights) = steps
    for key in ("loss", "grad_norm", "reward", "sample_tokens"):
        assert split[key] == pytest.approx(whole[key], rel=1e-5), key
    for name, weight in weights.items():
        torch.testing.assert_close(split_weights[name], weight, rtol=1e-5, atol=1e-6, msg=name)


def test_frozen_parts_of_a_stock_model_stay_in_eval(tmp_path, build_tiny, scene_rows, rewards, monkeypatch):
    trainer = make_trainer(tmp_path, build_tiny, scene_rows, rewards, "git", packing=False)
    references_as_samples(trainer, monkeypatch)
    trainer.model.git.image_encoder.requires_grad_(False)
    trainer.model.train()
    assert trainer.model.git.image_encoder.training
    trainer.compute_loss(
        trainer.model, PictureCollator(trainer.data_collator, NUM_SAMPLES)([trainer.train_dataset[0]])
    )
    assert not trainer.model.git.image_encoder.training and trainer.model.git.encoder.training


@pytest.mark.parametrize("family", FAMILIES)
def test_all_captions_of_a_step_are_counted(tmp_path, build_tiny, scene_rows, rewards, family):
    """`Trainer` would leave out the first column of what has the form of labels."""
    trainer = make_trainer(tmp_path, build_tiny, scene_rows, rewards, family)
    batches, count = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, trainer.args.device)
    assert count == len(batches[0]["image_ids"]) * NUM_SAMPLES


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_are_sampled_from_the_policy_whose_log_probabilities_train(
    tmp_path, build_tiny, scene_rows, rewards, family
):
    trainer = make_trainer(tmp_path, build_tiny, scene_rows, rewards, family, suppressed=[5])
    model = trainer.model
    prefix = trainer.data_collator.prefix(trainer.train_dataset[0])
    trainer.args.num_samples = 2000
    torch.manual_seed(0)
    first = torch.tensor([ids[0] for ids in trainer.sample(model, [prefix])])
    key = "input_ids" if family == "llava" else "decoder_input_ids"
    with torch.no_grad():
        logits = model(**{key: torch.tensor([prefix.input_ids])}, **prefix.vision).logits[0, -1:] / TEMPERATURE
    policy = torch.stack(
        [
            -policy_gradient_loss(log_policy(logits, [5]), torch.tensor([i]), torch.ones(1), 1)
            for i in range(logits.shape[1])
        ]
    ).exp()
    assert policy.sum() == pytest.approx(1, abs=1e-5)
    assert policy[5] == 0
    drawn = torch.bincount(first, minlength=len(policy)) / len(first)
    # The vocabulary has some 350 tokens of about equal probability: top-k of 50, the default, would show at once.
    assert (drawn > 0).sum() > 200
    error = (drawn - policy).abs() / (policy * (1 - policy) / len(first)).sqrt().clamp(min=1e-9)
    assert error[policy > 0].max() < 5


@pytest.mark.parametrize("family", [*FAMILIES, "git"])
def test_a_sample_ends_at_any_token_that_ends_a_caption(
    tmp_path, build_tiny, scene_rows, rewards, family, monkeypatch
):
    trainer = make_trainer(tmp_path, build_tiny, scene_rows, rewards, family, packing=family != "git")
    trainer.args.num_samples = 40
    # As Instruct models list them; half of the vocabulary, so that it happens.
    ends = [trainer.model.generation_config.eos_token_id, *range(100, 250)]
    trainer.model.generation_config.eos_token_id = ends
    torch.manual_seed(0)
    samples = trainer.sample(trainer.model, [trainer.data_collator.prefix(trainer.train_dataset[0])])
    assert sum(ids[-1] in range(100, 250) for ids in samples) > 10
    assert not any(token in ends for ids in samples for token in ids[:-1])
    # A caption that ended is one for the reward, whichever token ended it.
    told = []
    monkeypatch.setattr(
        rewards[0], "function", lambda captions, ended, **_: told.extend(ended) or [0.0] * len(captions)
    )
    trainer.score(samples, [scene_rows[0]["image_id"]])
    assert told == [ids[-1] in ends for ids in samples]


def test_the_last_token_is_the_first_end():
    tokens = [[4, 2, 0, 0], [4, 5, 6, 7], [4, 5, 2, 2], [4, 6, 0, 2]]
    assert [cut_at_end(row, {2, 6}) for row in tokens] == [[4, 2], [4, 5, 6], [4, 5, 2], [4, 6]]


def test_the_end_of_a_caption_is_a_word_of_its_own():
    captions = ["A dog runs .", "Two dogs, running.", "a man in a", "It is 5 a.m."]
    for plain, ended in zip(tokenize(captions), tokenize([with_end(c) for c in captions]), strict=True):
        assert ended == f"{plain} {END_WORD}"


def test_a_finished_caption_is_worth_more_than_a_cut_one(scene_rows, rewards):
    reference, image_id = scene_rows["captions"][0][0], scene_rows["image_id"][0]
    words = reference.rstrip(".").split()
    captions = [reference, reference, " ".join(words[:-1])]
    whole, unfinished, cut = rewards[0].function(captions, [image_id] * 3, ended=[True, False, True])
    assert whole > unfinished
    assert whole > cut


def test_one_image_gives_no_reward_and_is_refused():
    with refused(option="number of training images", got=1, wanted="2 or more"):
        CiderDOfEnded({"1": ["a dog runs", "a brown dog"]})


def test_advantage_is_the_reward_minus_the_mean_of_the_others():
    result = advantages(torch.tensor([[1.0, 2.0, 6.0], [3.0, 3.0, 3.0]]))
    torch.testing.assert_close(result, torch.tensor([[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]]))
