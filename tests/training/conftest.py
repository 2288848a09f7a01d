"""Native captioners and rows for them, built once."""

from itertools import chain

import pytest

from hfcap.generation.loading import load_captioner
from tiny.native import PROMPT, build_native


@pytest.fixture(scope="session")
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


@pytest.fixture
def four_bit_model(build_tiny, tmp_path):
    """A tiny captioner whose language model is in 4 bits, and its processor."""
    model, processor = build_tiny("llava")
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    return load_captioner(str(tmp_path / "base"), load_in_4bit=True)


@pytest.fixture(scope="session")
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
