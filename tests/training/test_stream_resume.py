"""A resumed stream goes on with the very next row, and opens the pictures of a few blocks for it."""

import json
from functools import partial
from itertools import islice

import pytest
import torch
from datasets import Dataset, Features, Image, Value
from test_stream_shards import png, write_tar
from torch.utils.data import DataLoader
from transformers import TrainerCallback, set_seed

from hfcap.data import caption_stream, sources
from hfcap.data.caption_stream import POSITION, CaptionStream, collate_with_position
from hfcap.data.rows import is_readable
from hfcap.data.sources import load_captions
from hfcap.errors import WorkError
from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.collators import CaptionCollator
from hfcap.training.trainer import CaptionTrainer
from refusals import refused
from tiny.captioners import TINY_DECODERS, build_joined
from tiny.training import STEPS_ALONE

SIZES = (7, 1, 12, 5, 9)  # images of each shard
BLOCK, DELAYS = 2, 4
CAPTIONS = ["a red circle", "a green square"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(caption_stream, "BLOCK", BLOCK)
    monkeypatch.setattr(caption_stream, "DELAYS", DELAYS)


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tars")
    for shard, size in enumerate(SIZES):
        members = []
        for number in range(size):
            members += [(f"{shard}-{number}.png", png(9 * shard + number))]
            members += [(f"{shard}-{number}.txt", CAPTIONS[number % 2].encode())]
        if shard == 2:
            members += [("broken.png", b"no picture"), ("broken.txt", b"never seen")]
        write_tar(folder / f"train-{shard}.tar", members)
    return folder


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    features = Features({"image_id": Value("string"), "image": Image(), "captions": [Value("string")]})
    for shard, size in enumerate(SIZES):
        columns = {
            "image_id": [f"{shard}-{number}" for number in range(size)],
            "image": [{"bytes": png(number), "path": None} for number in range(size)],
            "captions": [[CAPTIONS[number % 2]] for number in range(size)],
        }
        Dataset.from_dict(columns, features=features).to_parquet(folder / f"train-{shard}.parquet")
    return folder


def rows_of(form, tars, parquet):
    """Streams of several makes; all of them begin anew each time."""
    load = partial(load_captions, split="train", streaming=True, on_bad_image="skip")
    files = sorted(map(str, parquet.iterdir()))
    made = {
        "tars": lambda: load(str(tars)),
        "first_images": lambda: load(str(tars), num_images=20),
        "parquet": lambda: load(str(parquet)),
        "in_memory": lambda: Dataset.from_parquet(files).to_iterable_dataset(num_shards=4),
    }
    return made[form]()


def ids_of(items):
    return [item["image_id"] for item in items]


@pytest.mark.filterwarnings("ignore:skipped")
@pytest.mark.parametrize("process", [(0, 1), (1, 2), (5, 8)])
@pytest.mark.parametrize("form", ["tars", "first_images", "parquet", "in_memory"])
def test_a_stream_goes_on_with_the_very_next_row(form, process, tars, parquet, caplog):
    def stream():
        made = CaptionStream(rows_of(form, tars, parquet), seed=3)
        made.divide(*process)
        return made

    first = stream()
    num_images = 3 * (20 if form == "first_images" else sum(SIZES)) // process[1]  # about three epochs
    items = list(islice(first, num_images))
    if process == (0, 1):
        epochs = [ids_of(items[start : start + num_images // 3]) for start in range(0, num_images, num_images // 3)]
        assert all(len(set(epoch)) == num_images // 3 and set(epoch) == set(epochs[0]) for epoch in epochs)
        assert epochs[0] != epochs[1] != epochs[2]
    for stop in range(0, num_images, 5):
        state = first.state_dict_after(first.state, [items[stop - 1][POSITION]] if stop else [])
        resumed = stream()
        resumed.load_state_dict(json.loads(json.dumps(state)))
        assert ids_of(islice(resumed, num_images - stop)) == ids_of(items[stop:])
    assert not [record for record in caplog.records if "from the start" in record.getMessage()]


@pytest.mark.filterwarnings("ignore:skipped")
@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_batches_that_loader_processes_have_ready_are_not_lost(workers, tars):
    def loader(state):
        stream = CaptionStream(load_captions(str(tars), "train", streaming=True, on_bad_image="skip"))
        stream.divide(0, 1, workers)
        stream.load_state_dict(state)
        collate = partial(collate_with_position, lambda items: {"ids": ids_of(items)})
        return stream, DataLoader(stream, batch_size=3, num_workers=workers, prefetch_factor=4, collate_fn=collate)

    stream, batches = loader(None)
    whole = list(islice(batches, 24))  # 72 images: into the third epoch
    ids = [batch["ids"] for batch in whole]
    for stop in (1, 5, 14):
        state = stream.state_dict_after(stream.state, [batch[POSITION] for batch in whole[:stop]])
        _, rest = loader(json.loads(json.dumps(state)))
        assert [batch["ids"] for batch in islice(rest, len(ids) - stop)] == ids[stop:]


@pytest.mark.filterwarnings("ignore:skipped")
def test_a_resumed_reader_opens_the_pictures_of_its_last_blocks_alone(tars, monkeypatch):
    opened = []

    def counted(image_id, *args, **kwargs):
        opened.append(image_id)
        return is_readable(image_id, *args, **kwargs)

    monkeypatch.setattr(sources, "is_readable", counted)
    seen, ahead = sum(SIZES) - 1, 3 * len(SIZES)  # `datasets` reads a row or two ahead in each shard

    def stream():
        return CaptionStream(load_captions(str(tars), "train", streaming=True, on_bad_image="skip"))

    first = stream()
    items = list(islice(first, seen))
    assert seen <= len(opened) <= seen + BLOCK * DELAYS + ahead  # all others wait
    opened.clear()
    resumed = stream()
    resumed.load_state_dict(first.state_dict_after(first.state, [items[-1][POSITION]]))
    next(iter(resumed))
    assert len(opened) <= BLOCK * DELAYS + ahead < seen


def test_a_stream_that_was_shuffled_before_is_read_from_the_start_of_its_epoch(parquet, caplog):
    """`datasets` keeps no rows of a shuffle buffer in its state: 29 of 400 rows were once lost so."""

    def stream():
        rows = load_captions(str(parquet), "train", streaming=True)
        return CaptionStream(rows.shuffle(seed=1, buffer_size=9))

    first = stream()
    items = list(islice(first, 50))
    resumed = stream()
    resumed.load_state_dict(first.state_dict_after(first.state, [items[28][POSITION]]))
    assert ids_of(islice(resumed, 21)) == ids_of(items[29:])
    assert "its epoch is read from the start" in caplog.text


def test_other_readers_and_other_data_are_refused(tars, parquet):
    stream = CaptionStream(load_captions(str(parquet), "train", streaming=True))
    position = next(iter(stream))[POSITION]
    state = stream.state_dict_after(stream.state, [position])
    for division, says in (((0, 2, 0), "1 processes, now 2"), ((0, 1, 2), "1 readers, now 2")):
        with refused(WorkError, option="stream state", says=says):
            stream.divide(*division)
            stream.load_state_dict(state)
    changed = CaptionStream(load_captions(str(parquet), "train", streaming=True))
    changed.load_state_dict(state | {"positions": {"0": position | {"digest": "0" * 16}}})
    with refused(WorkError, option="data", says="epoch 0, group"):
        next(iter(changed))


def trainer_of(parquet, output_dir, workers=0, max_steps=6, callbacks=()):
    """Trainer of steps of two batches of three images, with dropout; and the ids of each batch that it collates."""
    set_seed(0)
    decoder = TINY_DECODERS["llava"] | {"attention_dropout": 0.1}
    model, processor = build_joined("llava", CAPTIONS, decoder_config=decoder)
    seen, collate = [], CaptionCollator(processor, model.config, "caption")

    def note(items):
        seen.append(ids_of(items))
        return collate(items)

    trainer = CaptionTrainer(
        model=model,
        args=CaptionTrainingArguments(
            output_dir=str(output_dir),
            max_steps=max_steps,
            per_device_train_batch_size=3,
            gradient_accumulation_steps=2,
            dataloader_num_workers=workers,
            learning_rate=1e-2,
            logging_steps=1,
            **STEPS_ALONE | {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 3},
        ),
        train_dataset=load_captions(str(parquet), "train", streaming=True),
        data_collator=collate,
        processing_class=processor,
        callbacks=list(callbacks),
    )
    if workers == 0:
        trainer.data_collator = note
    return trainer, seen


def logs_of(trainer):
    names = ("step", "epoch", "loss", "grad_norm")
    return [[log[name] for name in names] for log in trainer.state.log_history if "loss" in log]


def train(*args, resume=None, **kwargs):
    trainer, seen = trainer_of(*args, **kwargs)
    trainer.train(resume_from_checkpoint=resume and str(resume))
    return trainer, logs_of(trainer), seen


def assert_same_weights(left, right):
    for name, weight in left.model.state_dict().items():
        assert torch.equal(weight, right.model.state_dict()[name]), name


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_uninterrupted_one_and_reads_nothing_again(workers, parquet, tmp_path):
    whole, logs, seen = train(parquet, tmp_path, workers)
    assert [log[:2] for log in logs] == [[step, pytest.approx(step / 6, abs=1e-4)] for step in range(1, 7)]
    resumed, resumed_logs, rest = train(parquet, tmp_path, workers, resume=tmp_path / "checkpoint-2")
    assert resumed_logs == logs  # the first two are the checkpoint's
    assert rest == seen[4:]
    assert_same_weights(whole, resumed)


def test_a_checkpoint_saved_before_its_batches_are_learned_from_repeats_them(parquet, tmp_path):
    """`enable_jit_checkpoint` saves so when a signal comes."""
    whole, logs, seen = train(parquet, tmp_path / "whole")

    class SaveAndStop(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 3:
                cut._save_checkpoint(cut.model, trial=None)
                control.should_training_stop = True

    cut, _ = trainer_of(parquet, tmp_path / "cut", callbacks=[SaveAndStop()])
    cut.train()
    resumed, resumed_logs, rest = train(parquet, tmp_path / "cut", resume=tmp_path / "cut" / "checkpoint-3")
    assert (resumed_logs, rest) == (logs, seen[6:])
    assert_same_weights(whole, resumed)


def test_a_run_that_has_taken_its_steps_takes_no_further_one(parquet, tmp_path):
    _, logs, _ = train(parquet, tmp_path, max_steps=2)
    done, resumed_logs, rest = train(parquet, tmp_path, max_steps=2, resume=tmp_path / "checkpoint-2")
    assert (done.state.global_step, resumed_logs, rest) == (2, logs, [])


def test_a_checkpoint_that_does_not_say_where_its_stream_stopped_is_refused(parquet, tmp_path):
    train(parquet, tmp_path, max_steps=2)
    (tmp_path / "checkpoint-2" / "stream_state_0.json").unlink()
    with refused(WorkError, option=str(tmp_path / "checkpoint-2"), says="no stream_state_0.json"):
        train(parquet, tmp_path, max_steps=4, resume=tmp_path / "checkpoint-2")
