"""Rewards of self-critical training: what each is worth, their sum, and what is refused; the pull to the start."""

import datasets
import numpy as np
import pytest
import torch

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.scenes import load_scenes
from hfcap.errors import WorkError
from hfcap.metrics.reward import CiderDReward
from hfcap.training import rewards as rewards_module
from hfcap.training import scst
from hfcap.training.arguments import ModelArguments
from hfcap.training.collators import CaptionCollator
from hfcap.training.data_arguments import DataArguments
from hfcap.training.rewards import Bleu4, Invented, LengthBand, Repetition, Reward, build_rewards, weighted_sum
from hfcap.training.scst import PictureCollator, ScstArguments, ScstTrainer, kl_divergence
from hfcap.training.starting_model import frozen_copy
from hfcap.training.strategies import apply_strategy
from hfcap.training.trainer import CaptionTrainer
from refusals import refused
from tiny.native import BUILDERS, PROMPT, build_native
from tiny.training import STEPS_ALONE
from tiny.wordnet import write_jar

pytestmark = pytest.mark.filterwarnings("ignore:CIDEr weighs words")

REFERENCES = {
    "1": ["a brown dog runs on grass", "a dog on the grass"],
    "2": ["a black dog runs on sand", "a dog on a beach"],
    "3": ["two men play chess", "men at a table"],
    "4": ["two women play cards", "women at a table"],
}
ROWS = datasets.Dataset.from_dict({"image_id": list(REFERENCES), "captions": list(REFERENCES.values())})


def score(name, captions, image_ids, ended=None, **options):
    ended = [True] * len(captions) if ended is None else ended
    references = [REFERENCES[image_id] for image_id in image_ids]
    reward = build_rewards([name], ROWS, **options)[0]
    return reward(captions, image_ids=image_ids, references=references, ended=ended)


def test_length_costs_a_word_for_each_word_outside_the_band():
    captions = ["a dog", "a brown dog runs", "a brown dog runs on the wet grass ."]
    assert LengthBand(3, 5)(captions).tolist() == [-1, 0, -3]


def test_repetition_is_the_share_of_bigrams_used_before():
    captions = ["a dog and a dog and a dog", "a brown dog", "dog", ""]
    assert Repetition()(captions) == pytest.approx([-4 / 7, 0, 0, 0])


def test_bleu_is_of_each_caption_alone():
    captions = ["a brown dog runs on grass", "two men play"]
    found = Bleu4()(captions, ["1", "3"], [REFERENCES["1"], REFERENCES["3"]])
    assert found[0] == pytest.approx(1, abs=1e-6)
    assert found[1] < 0.05  # no four words in a row; the original's small constants make it a little more than 0


def test_each_noun_that_no_reference_supports_costs_one(tmp_path, monkeypatch):
    write_jar(tmp_path / "meteor-1.5.jar")
    for module in ("hfcap.metrics.invented", "hfcap.training.rewards"):
        monkeypatch.setattr(f"{module}.find_jar", lambda *_: tmp_path / "meteor-1.5.jar")
    reward = Invented()
    sampled = {"image_ids": ["1", "1", "2"], "references": [["A puppy."], ["A puppy."], ["A man"]]}
    assert reward(["a puppy in a shirt with a man", "An animal!", ""], **sampled).tolist() == [-2, 0, 0]
    with refused(option="tokenizer", got="zh"):
        Invented("zh")


def test_invented_nouns_of_another_language_are_a_warning(tmp_path, monkeypatch):
    write_jar(tmp_path / "meteor-1.5.jar")
    for module in ("hfcap.metrics.invented", "hfcap.training.rewards"):
        monkeypatch.setattr(f"{module}.find_jar", lambda *_: tmp_path / "meteor-1.5.jar")
    rows = datasets.Dataset.from_dict({"image_id": ["1", "2"], "captions": [["ein Hund läuft"], ["ein Mann im Gras"]]})
    with pytest.warns(UserWarning, match="invented knows the words of English only"):
        build_rewards(["invented"], rows)


def test_names_with_commas_say_how_they_are_separated():
    with refused(option="rewards", got="cider_d,length", fix="separate them by spaces"):
        rewards_module.import_reward("cider_d,length")


def test_similar_pictures_have_references_alike():
    similar = CiderDReward(REFERENCES).similar_images(1)
    assert similar == {"1": ["2"], "2": ["1"], "3": ["4"], "4": ["3"]}
    assert {len(ids) for ids in CiderDReward(REFERENCES).similar_images(5).values()} == {3}


def test_similar_pictures_are_those_of_the_whole_matrix_of_cosines():
    rows = load_scenes("train", 60, "caption")
    references = dict(zip(rows["image_id"], rows["captions"], strict=True))
    reward = CiderDReward(references)
    counts = reward._scorer.index.orders[0]
    vectors = np.zeros((60, counts.num_ngrams))
    np.add.at(vectors, (reward._scorer.index.image[counts.caption], counts.ngram), reward._scorer.weights[0][0])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    ids = list(references)
    for row, found in enumerate(reward.similar_images(4).values()):
        places = [ids.index(image_id) for image_id in found]
        assert row not in places
        assert cosines[row, places] == pytest.approx(np.sort(cosines[row])[::-1][:4])


def test_a_caption_that_fits_the_neighbour_is_less_distinctive():
    own, both = score("distinctiveness", ["a brown dog on green grass", "a dog runs on sand"], ["1", "1"])
    assert own > both
    assert own <= 0


def test_cider_d_and_distinctiveness_see_the_end_of_a_caption():
    whole, cut = score("cider_d", ["a brown dog runs on grass"] * 2, ["1", "1"], ended=[True, False])
    assert whole > cut


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_rewards.py").write_text(
        "def brevity(captions, **kwargs):\n    return [-len(caption.split()) for caption in captions]\n"
        "def own_words(captions, references, **kwargs):\n"
        "    return [float(text.split()[0] in refs[0]) for text, refs in zip(captions, references)]\n"
        "def one_number(captions, **kwargs):\n    return 1.0\n"
        "def undefined(captions, **kwargs):\n    return [0.0, float('nan')]\n"
        "def words(captions, **kwargs):\n    return captions\n"
        "def of_captions_alone(captions):\n    return [1.0] * len(captions)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "own_rewards", raising=False)


@pytest.mark.usefixtures("own_module")
def test_own_functions_are_rewards_and_the_sum_is_weighted():
    names = ["own_rewards:brevity", "own_rewards:own_words", "repetition"]
    rewards = build_rewards(names, ROWS, weights=[0.1, 2.0, 1.0])
    captions, ids = ["two men play", "dog a dog a dog"], ["3", "1"]
    total = weighted_sum(rewards, captions, image_ids=ids, ended=[True, True], references=[REFERENCES[i] for i in ids])
    assert total.dtype == torch.float32
    assert total.tolist() == pytest.approx([-0.3 + 2.0, -0.5 + 2.0 - 0.5])
    assert rewards[0].take_figures() == {"rewards/own_rewards:brevity/mean": -4, "rewards/own_rewards:brevity/std": 1}


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("one_number", r"shape \(\) for 2 captions"),
        ("undefined", "nan for the caption 'b'"),
        ("words", "no numbers: .*'a'; return a list"),
    ],
)
def test_a_function_that_gives_no_numbers_is_named(function, message):
    with pytest.raises(WorkError, match=f"reward own_rewards:{function}: .*{message}"):
        score(f"own_rewards:{function}", ["a", "b"], ["1", "2"])


@pytest.mark.parametrize(("value", "weight"), [(1e39, 1.0), (-1e39, 1.0), (3e38, 1e-9), (1e20, 1e20)])
def test_a_finite_value_that_float32_would_not_carry_is_named(value, weight):
    reward = Reward("mine", lambda captions, **_: [0.0, value], weight)
    with pytest.raises(WorkError, match=r"reward mine: it gave .*e.* for the caption 'b'") as error:
        weighted_sum([reward], ["a", "b"])
    assert str(float(value)) in str(error.value) and "above 1e+30" in error.value.fix


def test_the_largest_values_still_give_finite_advantages():
    largest = rewards_module.LARGEST
    reward = Reward("mine", lambda captions, **_: [largest, -largest, largest, -largest])
    total = weighted_sum([reward], ["a"] * 4)
    assert torch.isfinite(scst.advantages(total[None])).all()
    assert all(map(np.isfinite, reward.take_figures().values()))


def test_figures_are_of_all_processes(monkeypatch):
    reward = Reward("mine", lambda captions, **_: [1.0, 2.0])
    reward(["a", "b"])
    monkeypatch.setattr(rewards_module, "gather_object", lambda own: [*own, np.array([6.0])])
    assert reward.take_figures() == {"rewards/mine/mean": 3, "rewards/mine/std": pytest.approx(2.1602, abs=1e-4)}


def test_numbers_of_a_model_are_taken_as_they_are():
    scores = torch.tensor([1.0, -0.5], dtype=torch.bfloat16, requires_grad=True)
    assert Reward("mine", lambda **_: scores)(["a", "b"]).tolist() == [1.0, -0.5]


def test_a_reward_that_never_changes_is_an_error():
    constant = Reward("mine", lambda captions, **_: [2.0] * len(captions))
    constant(["a"] * 999)
    with pytest.raises(WorkError, match="reward mine: it gave 2 for each of 1000 samples"):
        constant(["a"])
    saturated = Reward("mine", lambda captions, **_: [float(text == "b") for text in captions])
    saturated(["b", *["a"] * 999])
    saturated(["a"] * 2000)  # it has taught something


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"rewards": ["cider_d", "cider"]}, "cider"),
        ({"rewards": ["own_rewards:missing"]}, "own_rewards:missing"),
        ({"rewards": ["no_such_module:reward"]}, "no_such_module:reward"),
        ({"rewards": ["own_rewards.py:brevity"]}, "own_rewards.py:brevity"),
        ({"rewards": ["./own_rewards:brevity"]}, "./own_rewards:brevity"),
        ({"rewards": [":brevity"]}, ":brevity"),
        ({"rewards": ["sys:reward"]}, "sys:reward"),
        ({"rewards": ["own_rewards:of_captions_alone"]}, "own_rewards:of_captions_alone"),
        ({"rewards": ["cider_d", "cider_d"]}, "rewards"),
        ({"rewards": []}, "rewards"),
        ({"reward_weights": [1.0, 2.0]}, "reward_weights"),
        ({"reward_weights": [float("inf")]}, "reward_weights"),
        ({"reward_weights": [0.0]}, "reward_weights"),
        ({"rewards": ["length"]}, "rewards"),
        ({"length_band": [8, 12]}, "rewards"),
        ({"rewards": ["length"], "length_band": [12, 8]}, "length_band"),
        ({"rewards": ["length"], "length_band": [12]}, "length_band"),
    ],
)
def test_rewards_that_cannot_be_computed_are_refused(settings, option, tmp_path):
    args = ScstArguments(output_dir=str(tmp_path), **settings)
    option, got = (option, settings.get(option, args.rewards)) if option in vars(args) else ("rewards", option)
    with refused(option=option, got=got):
        args.check(DataArguments(), ModelArguments(model="outputs/run"))


def test_a_clip_model_that_does_not_load_is_refused(tmp_path):
    with refused(option="clip_model", got=str(tmp_path)):
        build_rewards(["clip_score"], ROWS, clip_model=str(tmp_path))


def test_divergence_is_that_of_the_definition():
    policy, reference = torch.randn(2, 5, 7).log_softmax(-1)
    expected = torch.distributions.kl_divergence(
        *(torch.distributions.Categorical(logits=x) for x in (policy, reference))
    )
    torch.testing.assert_close(kl_divergence(policy, reference), expected)
    assert kl_divergence(policy, policy).abs().max() == 0


def make_trainer(tmp_path, model, processor, rows, prompt, **settings):
    args = ScstArguments(
        output_dir=str(tmp_path),
        num_samples=3,
        sampling_temperature=0.8,
        per_device_train_batch_size=2,
        max_steps=2,
        logging_steps=1,
        learning_rate=0.5,
        optim="sgd",
        lr_scheduler_type="constant",
        **STEPS_ALONE,
        **settings,
    )
    data = CaptionDataset(rows.select(range(4)))
    return ScstTrainer(
        model=model,
        args=args,
        train_dataset=data,
        eval_dataset=data,
        data_collator=CaptionCollator(processor, model.config, prompt, max_caption_tokens=6),
        processing_class=processor,
        rewards=build_rewards(["cider_d"], rows),
    )


@pytest.mark.parametrize("model_type", sorted(BUILDERS))
def test_native_types_train_the_policy_that_is_sampled(model_type, scene_rows, tmp_path, monkeypatch):
    """The probabilities that samples are drawn by are those whose logarithms train, token by token."""
    model, processor = build_native(model_type, scene_rows["captions"][0])
    prompt = None if model.config.is_encoder_decoder else PROMPT
    check_policy(make_trainer(tmp_path, model, processor, scene_rows, prompt), monkeypatch)


@pytest.mark.parametrize("strategy", ["lora", "qlora"])
def test_adapters_train_the_policy_that_is_sampled(
    strategy, build_tiny, four_bit_model, scene_rows, tmp_path, monkeypatch
):
    model, processor = four_bit_model if strategy == "qlora" else build_tiny("llava")
    model = apply_strategy(model, strategy, lora_r=4)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # from zero, the adapter would say nothing
    check_policy(make_trainer(tmp_path, model, processor, scene_rows, "Describe."), monkeypatch)


def check_policy(trainer, monkeypatch):
    drawn_by, trained, samples = [], [], []
    multinomial, loss, sample = torch.multinomial, scst.policy_gradient_loss, trainer.sample
    monkeypatch.setattr(torch, "multinomial", lambda p, *a, **k: drawn_by.append(p) or multinomial(p, *a, **k))
    monkeypatch.setattr(scst, "policy_gradient_loss", lambda p, *a: trained.append(p.detach()) or loss(p, *a))
    monkeypatch.setattr(trainer, "sample", lambda *a: samples.extend(sample(*a)) or samples)
    rows = [trainer.train_dataset[index] for index in range(2)]
    trainer.compute_loss(trainer.model.train(), PictureCollator(trainer.data_collator, 3)(rows))
    of_tokens = [drawn_by[t][i].log() for i, tokens in enumerate(samples) for t in range(len(tokens))]
    assert len(samples) == 6
    expected = torch.stack(of_tokens)
    chosen = torch.tensor([token for tokens in samples for token in tokens])[:, None]
    torch.testing.assert_close(trained[0].gather(1, chosen), expected.gather(1, chosen), rtol=1e-4, atol=1e-4)


def test_what_was_learned_may_stay_the_same_when_training_goes_on(build_tiny, scene_rows, tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, *build_tiny("llava"), scene_rows, "Describe.")
    trainer.rewards = [Reward("repetition", lambda captions, **_: [0.0] * len(captions))]
    monkeypatch.setattr(rewards_module, "PROVEN_AFTER", 6)  # the samples of a step
    with pytest.raises(WorkError, match="teaches nothing"):
        trainer.train()
    monkeypatch.setattr(CaptionTrainer, "train", lambda self, *_, **__: self.rewards[0](["a"] * 6))
    trainer.train(resume_from_checkpoint="checkpoint-100")


@pytest.mark.parametrize("kind", ["whole", "lora"])
def test_the_pull_is_the_divergence_from_the_start(kind, build_tiny, scene_rows, tmp_path):
    model, processor = build_tiny("llava")
    if kind == "lora":
        model = apply_strategy(model, "lora", lora_r=4)
    trainer = make_trainer(tmp_path, model, processor, scene_rows, "Describe.", kl_coef=0.1)
    trainer.rewards = [Reward("characters", lambda captions, **_: [len(caption) for caption in captions])]
    trainer.train()
    first, second = (log["kl"] for log in trainer.state.log_history if "kl" in log)
    assert abs(first) < 1e-5
    assert second > 1e-4


@pytest.mark.parametrize("kind", ["whole", "lora"])
def test_the_pull_is_part_of_the_loss(kind, build_tiny, scene_rows, tmp_path):
    model, processor = build_tiny("llava")
    if kind == "lora":
        model = apply_strategy(model, "lora", lora_r=4)
    trainer = make_trainer(tmp_path, model, processor, scene_rows, "Describe.", kl_coef=0.25)
    trainer.rewards = [Reward("constant", lambda captions, **_: [1.0] * len(captions))]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_A" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    batch = PictureCollator(trainer.data_collator, 3)([trainer.train_dataset[index] for index in range(2)])
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    captions, _, _, divergence = trainer._sampled.tolist()
    assert divergence > 0.01
    assert loss.item() == pytest.approx(0.25 * divergence / captions, rel=1e-5)
    assert any(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_parameters_that_are_not_trained_are_not_copied(build_tiny):
    model, _ = build_tiny("llava")
    model = apply_strategy(model, "frozen_encoder")
    copied = dict(frozen_copy(model).named_parameters())
    for name, parameter in model.named_parameters():
        assert (copied[name] is parameter) == (not parameter.requires_grad), name
        assert torch.equal(copied[name], parameter)
