"""Stream 100,000 small pictures through `load_captions` and `CaptionStream`: time to the first batch, rate, memory.

    python benchmarks/streaming.py --form tar
    python benchmarks/streaming.py --form parquet
    python benchmarks/streaming.py --form tar --num_images 20000 --resume_after 18000

The pictures (32 x 32 JPEG, five captions each) are made first, in a temporary folder, in ten shards, by another
process, so that what making them took is not in the memory measured. The last line is JSON: seconds of wall clock and
of this process, and the resident memory in MiB after the first batch and after every tenth of the rows. With
`--resume_after` they are those of reading so many images, and then those of a resumed stream until its first batch.
"""

import argparse
import io
import json
import multiprocessing
import tarfile
import tempfile
import time
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from hfcap.data.caption_stream import POSITION, CaptionStream
from hfcap.data.sources import load_captions

NUM_SHARDS = 10
BATCH_SIZE = 64
SEED = 0


def pictures(start: int, stop: int):
    for number in range(start, stop):
        pixels = np.random.default_rng([SEED, number]).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize((32, 32)).save(file, "JPEG")
        yield f"{number:07d}", file.getvalue(), [f"caption {i} of picture {number}" for i in range(5)]


def write_tar(path: Path, start: int, stop: int) -> None:
    with tarfile.open(path.with_suffix(".tar"), "w") as archive:
        for name, data, captions in pictures(start, stop):
            for suffix, content in ((".jpg", data), (".txt", "\n".join(captions).encode())):
                member = tarfile.TarInfo(name + suffix)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def write_parquet(path: Path, start: int, stop: int) -> None:
    names, files, captions = zip(*pictures(start, stop), strict=True)
    columns = {
        "image_id": names,
        "image": [{"bytes": data, "path": None} for data in files],
        "captions": captions,
    }
    features = Features({"image_id": Value("string"), "image": ImageFeature(), "captions": List(Value("string"))})
    Dataset.from_dict(columns, features=features).to_parquet(path.with_suffix(".parquet"))


def write_shards(form: str, folder: Path, num_images: int) -> None:
    bounds = np.linspace(0, num_images, NUM_SHARDS + 1).astype(int)
    for number, (start, stop) in enumerate(pairwise(bounds)):
        {"tar": write_tar, "parquet": write_parquet}[form](folder / f"train-{number:05d}", int(start), int(stop))


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * 4096 / 2**20, 1)


def stream(source: str, num_images: int) -> dict:
    start, cpu_start = time.perf_counter(), time.process_time()
    rows = iter(CaptionStream(load_captions(source, "train", streaming=True), seed=SEED))
    seen, memory, first = set(), [], 0.0
    for count in range(1, num_images + 1):
        item = next(rows)
        seen.add(int(item["image_id"]))
        if count == BATCH_SIZE:
            first = time.perf_counter() - start
            memory.append(resident_mib())
        if count % (num_images // 10) == 0:
            memory.append(resident_mib())
            print(f"{count:,} images, {time.perf_counter() - start:.1f} s, {memory[-1]:.0f} MiB", flush=True)
    assert len(seen) == num_images, f"{len(seen)} different images of {num_images}"
    return {
        "first_batch_seconds": first,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu_start,
        "resident_mib": memory,
    }


def resume(source: str, num_seen: int) -> dict:
    def first(count: int, state: dict | None = None) -> tuple[dict, dict]:
        start, cpu_start = time.perf_counter(), time.process_time()
        rows = CaptionStream(load_captions(source, "train", streaming=True), seed=SEED)
        rows.load_state_dict(state)
        *_, item = islice(rows, count)
        seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}
        return seconds, rows.state_dict_after(rows.state, [item[POSITION]])

    read, state = first(num_seen)
    resumed, _ = first(BATCH_SIZE, state)
    return {"read": read, "resumed": resumed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--form", choices=("tar", "parquet"), default="tar")
    parser.add_argument("--num_images", type=int, default=100_000)
    parser.add_argument("--resume_after", type=int)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        writer = multiprocessing.get_context("spawn").Process(
            target=write_shards, args=(args.form, Path(folder), args.num_images)
        )
        writer.start()
        writer.join()
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        result = {"form": args.form, "num_images": args.num_images, "megabytes_on_disk": size / 1e6}
        found = resume(folder, args.resume_after) if args.resume_after else stream(folder, args.num_images)
        print(json.dumps(result | found))


if __name__ == "__main__":
    main()
