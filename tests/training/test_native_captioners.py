"""Every native captioner of the table trains with every strategy it names, and the table's facts about it are true."""

from itertools import chain

import pytest
import torch
from torch.nn.functional import cross_entropy

from hfcap.generation.caption import caption_rows
from hfcap.generation.inputs import caption_prompt, keep_caption_prompt
from hfcap.models.facts import FACTS, facts_of
from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.build import load_captioner
from hfcap.training.collators import CaptionCollator
from hfcap.training.dataset import CaptionDataset
from hfcap.training.merge import merge_adapter
from hfcap.training.strategies import TRAINED_PARTS, apply_strategy, part_of
from hfcap.training.trainer import CaptionTrainer
from native_models import BUILDERS, build_native

PROMPT = "describe the picture"
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
MATRIX = [
    pytest.param(model_type, strategy, marks=[] if (model_type, strategy) in FAST else pytest.mark.slow)
    for model_type in BUILDERS
    for strategy in FACTS[model_type].strategies
]


@pytest.fixture(scope="module")
def rows(scene_rows):
    """Eight pictures, two of them of another shape, with 1 to 7 references of different lengths."""
    chosen = [scene_rows[i] for i in range(8)]
    references = list(chain.from_iterable(scene_rows["captions"]))
    for number, row in enumerate(chosen):
        row["captions"] = references[number * 7 : number * 7 + 1 + number % 7]
        row["captions"] = [" ".join(c.split()[: 3 + i]) if i % 2 else c for i, c in enumerate(row["captions"])]
        if number in (1, 5):
            row["image"] = row["image"].resize((48, 32))
    return scene_rows.from_list(chosen, features=scene_rows.features)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, scene_rows):
    """Folder of the tiny random captioner of a type, as a user would have downloaded it."""
    folders = {}

    def save(model_type, **options):
        key = repr((model_type, options))
        if key not in folders:
            captions = list(chain.from_iterable(scene_rows["captions"])) + [PROMPT] * 9
            model, processor = build_native(model_type, captions, **options)
            folders[key] = tmp_path_factory.mktemp("native")
            model.save_pretrained(folders[key])
            processor.save_pretrained(folders[key])
        return str(folders[key])

    return save


def prompt_of(model_type):
    return None if FACTS[model_type].prompt == "none" else PROMPT


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
    name = "input_ids" if facts_of(model.config).layout == "decoder_only" else "decoder_input_ids"
    for row in rows:
        prefix = collator.prefix(row)
        for target in collator.targets(row["captions"]):
            inputs = {name: torch.tensor([prefix.input_ids + target[:-1]]), **prefix.vision}
            if prefix.token_types is not None:
                types = prefix.token_types + [collator.facts.caption_token_type] * (len(target) - 1)
                inputs[collator.facts.token_types] = torch.tensor([types])
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

    facts = facts_of(model.config)
    for name, parameter in model.named_parameters():
        trains = "lora_" in name or "modules_to_save" in name
        trains = trains if strategy in ("lora", "qlora") else part_of(name, facts) in TRAINED_PARTS[strategy]
        if not trains:
            assert torch.equal(parameter, before[name]), name
    changed = {part_of(name, facts) for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {
        part for part in (*TRAINED_PARTS[strategy], *(["lm"] if "lora" in strategy else [])) if getattr(facts, part)
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
