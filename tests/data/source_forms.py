"""The same captioned pictures in every form that `load_captions` reads: one writer a form."""

import csv
import io
import json
import shutil
import tarfile
from pathlib import Path

from datasets import Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature

# A picture is (path of its file, captions); its id is the file's name without the extension.
Pictures = list[tuple[Path, list[str]]]


def _copy(pictures: Pictures, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path, _ in pictures:
        shutil.copy(path, folder / path.name)


def _write_jsonl(path: Path, entries: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")


def _dataset(pictures: Pictures) -> Dataset:
    columns = {
        "image": [{"bytes": path.read_bytes(), "path": path.name} for path, _ in pictures],
        "captions": [captions for _, captions in pictures],
    }
    return Dataset.from_dict(columns, features=Features({"image": ImageFeature(), "captions": List(Value("string"))}))


def image_folder(pictures, folder):
    _copy(pictures, folder / "validation")
    _write_jsonl(folder / "validation" / "metadata.jsonl", [{"file_name": p.name, "captions": c} for p, c in pictures])
    return folder


def image_folder_csv(pictures, folder):
    _copy(pictures, folder / "validation")
    _write_csv(folder / "validation" / "metadata.csv", "file_name", "text", pictures)
    return folder


def parquet(pictures, folder):
    folder.mkdir(parents=True)
    _dataset(pictures).to_parquet(folder / "validation-00000-of-00001.parquet")
    return folder


def parquet_of_sentences(pictures, folder):
    """A row a sentence, nested as in Hub copies of COCO."""
    rows = [(path, caption) for path, captions in pictures for caption in captions]
    columns = {
        "image": [{"bytes": path.read_bytes(), "path": path.name} for path, _ in rows],
        "sentences": [{"raw": caption, "tokens": caption.split()} for _, caption in rows],
        "split": ["val"] * len(rows),
    }
    features = {"image": ImageFeature(), "sentences": {"raw": Value("string"), "tokens": List(Value("string"))}}
    folder.mkdir(parents=True)
    dataset = Dataset.from_dict(columns, features=Features(features | {"split": Value("string")}))
    dataset.to_parquet(folder / "everything.parquet")
    return folder


def saved_to_disk(pictures, folder):
    DatasetDict({"validation": _dataset(pictures)}).save_to_disk(folder)
    return folder


def coco(pictures, folder):
    _copy(pictures, folder / "val2017")
    images = [{"id": path.stem, "file_name": path.name} for path, _ in pictures]
    annotations = [
        {"id": number, "image_id": path.stem, "caption": caption}
        for path, captions in pictures
        for number, caption in enumerate(captions)
    ]
    (folder / "annotations").mkdir()
    content = json.dumps({"images": images, "annotations": annotations})
    (folder / "annotations" / "captions_val2017.json").write_text(content)
    (folder / "annotations" / "instances_val2017.json").write_text('{"annotations": []}')
    return folder / "annotations"


def karpathy(pictures, folder):
    _copy(pictures, folder / "images" / "val2014")
    images = [
        {"filename": p.name, "filepath": "val2014", "split": "val", "sentences": [{"raw": c} for c in captions]}
        for p, captions in pictures
    ]
    elsewhere = {"filename": "other.jpg", "filepath": "val2014", "split": "test", "sentences": [{"raw": "x"}]}
    path = folder / "dataset.json"
    path.write_text(json.dumps({"images": [*images, elsewhere], "dataset": "demo"}))
    return path


def jsonl(pictures, folder):
    _copy(pictures, folder / "images")
    _write_jsonl(
        folder / "validation.jsonl", [{"image": f"images/{p.name}", "captions": captions} for p, captions in pictures]
    )
    _write_jsonl(folder / "train.jsonl", [{"image": "images/none.jpg", "captions": ["not read"]}])
    return folder


def jsonl_of_messages(pictures, folder):
    _copy(pictures, folder)
    _write_jsonl(
        folder / "dev.jsonl",
        [
            {
                "images": [p.name],
                "messages": [
                    {"role": "user", "content": [{"type": "image"}]},
                    {"role": "assistant", "content": [{"type": "text", "text": caption}]},
                ],
            }
            for p, captions in pictures
            for caption in captions
        ],
    )
    return folder / "dev.jsonl"


def _write_csv(path, image_column, captions_column, pictures, split=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([image_column, captions_column, *(["split"] if split else [])])
        for picture, captions in pictures:
            for caption in captions:
                writer.writerow([picture.name, caption, *([split] if split else [])])


def csv_table(pictures, folder):
    _copy(pictures, folder / "images")
    _write_csv(folder / "captions.csv", "image", "caption", pictures, split="val")
    return folder / "captions.csv"


def sidecars(pictures, folder):
    _copy(pictures, folder / "val")
    for number, (path, captions) in enumerate(pictures):
        suffix = ".txt" if number % 2 else ".caption"
        (folder / "val" / path.name).with_suffix(suffix).write_text("\n".join(captions) + "\n", encoding="utf-8")
    return folder


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def webdataset(pictures, folder):
    half = len(pictures) // 2
    for number, part in enumerate((pictures[:half], pictures[half:])):
        members = []
        for path, captions in part:
            members += [(path.name, path.read_bytes()), (f"{path.stem}.txt", "\n".join(captions).encode())]
        write_tar(folder / f"validation-{number:05d}.tar", members)
    return folder


def webdataset_json(pictures, folder):
    members = []
    for path, captions in pictures:
        record = json.dumps({"captions": captions, "url": "somewhere"}).encode()
        members += [(f"shard/{path.name}", path.read_bytes()), (f"shard/{path.stem}.json", record)]
    write_tar(folder / "val" / "0.tar", members)
    return folder


FORMS = {
    form.__name__: form
    for form in (
        image_folder,
        image_folder_csv,
        parquet,
        parquet_of_sentences,
        saved_to_disk,
        coco,
        karpathy,
        jsonl,
        jsonl_of_messages,
        csv_table,
        sidecars,
        webdataset,
        webdataset_json,
    )
}
