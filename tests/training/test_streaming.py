"""Training from a stream: its order is a function of (seed, epoch), and a resumed run goes on with the next row."""

import json
from itertools import chain, islice
from pathlib import Path

import pytest
from datasets import IterableDataset
from PIL import Image
from torch.utils.data import DataLoader

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.caption_stream import CaptionStream
from hfcap.data.scenes import load_scenes
from hfcap.data.shards import read_shard
from hfcap.data.sources import load_captions
from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments
from hfcap.training.checkpoints import last_complete_checkpoint
from hfcap.training.collators import CaptionCollator
from hfcap.training.data_arguments import DataArguments
from hfcap.training.parsing import parse_arguments
from hfcap.training.prompts import save_prompt_of_rows
from hfcap.training.reference_lengths import measure_references
from hfcap.training.run_folder import begin_or_resume
from hfcap.training.run_rows import load_splits, tokenizer_texts
from hfcap.training.settings_checks import check_data
from hfcap.training.trainer import CaptionTrainer
from hfcap.training.trainer_inputs import caption_collator
from refusals import refused
from tiny.training import STEPS_ALONE

NUM_IMAGES = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten pictures in `train.jsonl`, and one that is broken; two in `validation.jsonl`."""
    folder = tmp_path_factory.mktemp("stream")
    rows = load_scenes("train", NUM_IMAGES + 2, "caption", image_size=32)
    lines = []
    for number, row in enumerate(rows):
        row["image"].save(folder / f"{number}.png")
        entry = {"image": f"{number}.png", "captions": row["captions"]}
        lines.append(json.dumps(entry | {"prompt": "say it"} if number % 2 else entry) + "\n")
    (folder / "broken.png").write_bytes(b"no picture")
    lines.insert(3, json.dumps({"image": "broken.png", "caption": "never seen"}) + "\n")
    (folder / "train.jsonl").write_text("".join(lines[: NUM_IMAGES + 1]))
    (folder / "validation.jsonl").write_text("".join(lines[NUM_IMAGES + 1 :]))
    return folder


def stream_of(folder, **views):
    with pytest.warns(UserWarning, match="skipped"):
        rows = load_captions(str(folder), "train", streaming=True, on_bad_image="skip")
        list(rows.take(4))
    return CaptionStream(rows, **views)


def first_ids(stream, count):
    ids = []
    for item in stream:
        ids.append(item["image_id"])
        if len(ids) == count:
            return ids


@pytest.mark.filterwarnings("ignore:skipped")
def test_each_epoch_has_every_image_once_in_an_order_of_its_own(folder):
    stream = stream_of(folder, seed=3)
    ids = first_ids(stream, 3 * NUM_IMAGES)
    epochs = [ids[start : start + NUM_IMAGES] for start in range(0, len(ids), NUM_IMAGES)]
    assert all(sorted(epoch) == sorted(map(str, range(NUM_IMAGES))) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert first_ids(stream, 3 * NUM_IMAGES) == ids == first_ids(stream_of(folder, seed=3), 3 * NUM_IMAGES)
    assert first_ids(stream_of(folder, seed=4), 3 * NUM_IMAGES) != ids


@pytest.mark.filterwarnings("ignore:skipped")
def test_items_are_those_of_the_rows_read_whole(folder):
    with pytest.warns(UserWarning, match="skipped"):
        whole = CaptionDataset(load_captions(str(folder), "train", on_bad_image="skip"), references=2, mirror=True)
    wanted = {whole.rows[row]["image_id"]: row for row in range(len(whole))}
    for number, item in enumerate(stream_of(folder, references=2, mirror=True)):
        if number == 2 * NUM_IMAGES:
            break
        same = whole[(number // NUM_IMAGES, wanted[item["image_id"]])]
        assert item["captions"] == same["captions"] and item["image"].tobytes() == same["image"].tobytes()
        assert item.get("prompt") == same.get("prompt") == ("say it" if int(item["image_id"]) % 2 else None)


@pytest.mark.filterwarnings("ignore:skipped")
def test_a_resumed_run_from_a_stream_is_the_uninterrupted_one(folder, build_tiny, tmp_path):
    def train(output_dir):
        model, processor = build_tiny("llava")
        trainer = CaptionTrainer(
            model=model,
            args=CaptionTrainingArguments(
                output_dir=str(output_dir),
                max_steps=6,
                per_device_train_batch_size=4,
                learning_rate=1e-2,
                logging_steps=1,
                **STEPS_ALONE | {"save_strategy": "steps", "save_steps": 4},
            ),
            train_dataset=stream_of(folder, references=2, mirror=True, crop=0.8),
            eval_dataset=None,
            data_collator=CaptionCollator(processor, model.config, "caption"),
            processing_class=processor,
        )
        trainer.train(resume_from_checkpoint=last_complete_checkpoint(output_dir))
        return {log["step"]: log["loss"] for log in trainer.state.log_history if "loss" in log}

    whole = train(tmp_path / "whole")
    assert list(whole) == [1, 2, 3, 4, 5, 6]  # 24 rows: into the third epoch
    (tmp_path / "cut").mkdir()
    (tmp_path / "whole" / "checkpoint-4").rename(tmp_path / "cut" / "checkpoint-4")
    assert train(tmp_path / "cut") == whole


def read_by_workers(num_images, workers, count):
    """`image_id`s of a stream of two shards, read by so many loader processes, two at a time."""
    rows = load_scenes("train", num_images, "caption", image_size=32)
    stream = CaptionStream(rows.to_iterable_dataset(num_shards=2))
    batches = iter(DataLoader(stream, batch_size=2, num_workers=workers, collate_fn=list))
    return [row["image_id"] for row in islice(chain.from_iterable(batches), count)]


@pytest.mark.slow
def test_worker_processes_do_not_disturb_each_other():
    """By chance: where they share the number of the epoch, two of three runs differ within some hundred epochs."""
    orders = [read_by_workers(6, 2, 2000) for _ in range(4)]
    assert all(order == orders[0] for order in orders)


def test_a_run_does_not_go_on_with_other_readers_of_its_stream(tmp_path):
    rows = load_scenes("train", NUM_IMAGES, "caption", image_size=32)
    orders = {workers: read_by_workers(NUM_IMAGES, workers, NUM_IMAGES) for workers in range(4)}
    assert orders[0] == orders[1] != orders[2] == orders[3]  # a third has no shard to read

    stream = rows.to_iterable_dataset(num_shards=2)

    def start(train, workers, batch_size):
        args = CaptionTrainingArguments(
            output_dir=str(tmp_path),
            max_steps=9,
            dataloader_num_workers=workers,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=8 // batch_size,
            use_cpu=True,
        )
        return begin_or_resume(
            tmp_path / str(train is rows), (DataArguments(streaming=train is not rows), args), (train, rows)
        )

    for workers in (2, 3):
        assert not start(stream, workers, 4)
    for workers, batch_size in ((0, 4), (2, 2)):
        says = "stream_readers was 'dataloader_num_workers=2, 4 images in turn, 2 sh"
        with refused(option="output_dir", says=says):
            start(stream, workers, batch_size)
    for workers, batch_size in ((2, 4), (0, 4), (2, 2)):
        assert not start(rows, workers, batch_size)  # read whole: the sampler's order is everybody's


def test_warnings_of_a_stream_are_not_put_down_to_datasets(tmp_path):
    """Which calls the functions that warn: its file and line would stand before what they say."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    lines = [{"image": "a.png", "captions": ["a dog", ""]}, {"image": "b.png", "captions": ["a cat"]}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.warns(UserWarning) as said:
        list(load_captions(str(tmp_path), "train", streaming=True, on_bad_image="skip"))
    assert {str(one.message).split()[0] for one in said} == {"skipped", "dropped"}
    assert {Path(one.filename).name for one in said} == {"rows.py"}


def test_what_was_left_out_is_listed_once(folder, tmp_path):
    args = DataArguments(data=str(folder), on_bad_image="skip", streaming=True)
    with pytest.warns(UserWarning, match="skipped"):
        train, evaluation = load_splits(args, tmp_path)
        assert isinstance(train, IterableDataset) and len(evaluation) == 2
        for _ in range(2):
            assert len(list(train)) == NUM_IMAGES
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    place = f"{folder}/train.jsonl, line 4, picture {folder}/broken.png"
    reason = "not a picture (the file begins with b'no picture')"
    assert lines == [{"split": "train", "image_id": "broken", "where": place, "reason": reason}]
    with pytest.warns(UserWarning, match="skipped"):
        load_splits(DataArguments(data=str(folder), on_bad_image="skip"), tmp_path)
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("data", "model", "training", "says"),
    [
        ({"streaming": True}, {}, {}, "max_steps"),
        ({"streaming": True}, {"feature_cache": True}, {"max_steps": 1}, "feature_cache"),
        ({"crop": 0.9}, {"feature_cache": True}, {}, "feature_cache"),
        ({"color_jitter": 0.1}, {"feature_cache": True}, {}, "feature_cache"),
    ],
)
def test_what_does_not_go_together_is_refused(data, model, training, says):
    ((option, got),) = data.items()
    with refused(option=option, got=got, says=says):
        check_data(DataArguments(**data), ModelArguments(**model), CaptionTrainingArguments(use_cpu=True, **training))


@pytest.mark.parametrize(
    ("option", "got", "wanted"),
    [
        ("crop", 0.2, "0.5 to 1 (no crop)"),
        ("crop", 1.5, "0.5 to 1 (no crop)"),
        ("color_jitter", 0.9, "0 (none) to 0.5"),
    ],
)
def test_augmentation_that_may_make_captions_false_is_refused(option, got, wanted):
    with refused(option=option, got=got, wanted=wanted):
        DataArguments(**{option: got})


def test_lengths_of_a_stream_are_not_known_beforehand(build_tiny, folder, tmp_path):
    model, processor = build_tiny("llava")
    args = CaptionTrainingArguments(output_dir=str(tmp_path), max_steps=1, max_row_tokens=400, **STEPS_ALONE)
    stream = load_captions(str(folder), "train", streaming=True, on_bad_image="skip")
    with refused(option="max_row_tokens", got=400, says="stream"):
        CaptionTrainer(model, args, stream, processing_class=processor)


@pytest.mark.filterwarnings("ignore:skipped")
def test_the_first_rows_are_read_once_for_each_purpose_before_training(folder, build_tiny, tmp_path, monkeypatch):
    """For the fingerprint, with their pictures; for a new tokenizer; and for prompts and lengths together."""
    opened = []

    def counted(shard):
        opened.append(shard.name)
        return read_shard(shard)

    monkeypatch.setattr("hfcap.data.sources.read_shard", counted)
    options = ["--data", str(folder), "--streaming", "true", "--on_bad_image", "skip", "--max_steps", "1"]
    options += ["--use_cpu", "true", "--output_dir", str(tmp_path)]
    arguments = parse_arguments(DataArguments, ModelArguments, CaptionTrainingArguments, argv=options)
    rows = load_splits(arguments[0], tmp_path)
    opened.clear()  # the evaluation split, which is held in memory
    begin_or_resume(tmp_path, arguments, rows)
    assert len(opened) == 1
    assert tokenizer_texts(arguments[0], rows[0])
    assert len(opened) == 2
    model, processor = build_tiny("llava")
    save_prompt_of_rows(processor, rows, None)
    data = CaptionStream(rows[0])
    collator = caption_collator(model, processor, (data, None), arguments[-1])
    measure_references(data, collator)  # a dry run shows them once more
    assert len(opened) == 3
