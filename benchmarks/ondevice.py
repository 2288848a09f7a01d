"""Time captioning from an ONNX export against hfcap in PyTorch and stock `generate`; alternating, one thread.

    OMP_NUM_THREADS=1 python benchmarks/ondevice.py --model outputs/RUN --onnx FOLDER --data SOURCE

Every way gets the same PIL images and gives captions: preprocessing and decoding to text are part of the time, reading
files is not. A round captions all images by one way after another; figures are medians over rounds of captions per CPU
second, and ratios of medians. CPU time and not time on the clock, so that a busy machine changes little: on one quiet
core they are the same. `first_caption` is the CPU time of a new process, imports and loading included, until it has
captioned one photo. With --check the benchmark stops where the float32 graphs say something else than PyTorch.

The last line is JSON.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image

from hfcap.data.pictures import load_picture
from hfcap.data.sources import load_captions
from hfcap.generation.caption import caption_rows
from hfcap.generation.inputs import caption_prompt, encode_prefix, join_vision
from hfcap.generation.loading import load_captioner
from hfcap.generation.settings import change_decoding
from hfcap.ondevice import Captioner
from hfcap.ondevice.folder import read_onnx_folder
from hfcap.runs import resolve_model

Way = Callable[[list], list[str]]
FLOAT32 = "none"
# What a new process does, with MODEL PHOTO, or with FOLDER VARIANT PHOTO of an export.
FIRST_IN_TORCH = "from hfcap import caption, load_captioner; caption(*load_captioner(sys.argv[1]), sys.argv[2:])"
FIRST_ON_DEVICE = "from hfcap.ondevice import Captioner; Captioner(sys.argv[1], 1, sys.argv[2]).caption(sys.argv[3:])"


def make_ways(args: argparse.Namespace, num_beams: int, batch_size: int) -> Iterator[tuple[str, Way]]:
    """Yield names and functions that caption PIL images: stock `generate`, hfcap, each variant of the export."""
    model, processor = load_captioner(resolve_model(args.model).path)
    change_decoding(model, {"num_beams": num_beams})
    prompt = caption_prompt(processor)

    def stock(images: list) -> list[str]:
        captions = []
        for start in range(0, len(images), batch_size):
            rows = [{"image": image} for image in images[start : start + batch_size]]
            prefixes = [encode_prefix(processor, model.config, row, prompt) for row in rows]
            inputs, length = join_vision([prefix.vision for prefix in prefixes]), 1
            if not model.config.is_encoder_decoder:
                inputs["input_ids"] = torch.tensor([prefix.input_ids for prefix in prefixes])
                inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
                length = inputs["input_ids"].shape[1]
            with torch.inference_mode():
                tokens = model.generate(**inputs)[:, length:]
            captions += processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [caption.strip() for caption in captions]

    def hfcap(images: list) -> list[str]:
        return caption_rows(model, processor, [{"image": image} for image in images], prompt, batch_size=batch_size)

    yield "stock", stock
    yield "hfcap", hfcap
    for variant in variants_of(args.onnx):
        captioner = Captioner(args.onnx, 1, variant)
        yield variant, partial(captioner.caption, batch_size=batch_size, num_beams=num_beams)


def variants_of(folder: str) -> list[str]:
    """Return the variants of an export."""
    return list(read_onnx_folder(folder).settings["variants"])


def measure(args: argparse.Namespace, images: list, num_beams: int, batch_size: int) -> dict:
    """Captions per CPU second of each way, and the share of captions that are hfcap's."""
    ways = dict(make_ways(args, num_beams, batch_size))
    rates: dict[str, list[float]] = {name: [] for name in ways}
    captions = {}
    for number in range(args.rounds + 1):  # the first one warms up
        for name, way in ways.items():
            start = time.process_time()
            captions[name] = way(images)
            if number:
                rates[name].append(len(images) / (time.process_time() - start))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    equal = {
        name: sum(a == b for a, b in zip(said, captions["hfcap"], strict=True)) / len(images)
        for name, said in captions.items()
    }
    if args.check and equal.get(FLOAT32, 1) < 1:
        sys.exit(f"num_beams {num_beams}, batch_size {batch_size}: captions differ: {equal}")
    exports = [name for name in ways if name not in ("stock", "hfcap")]
    return {
        "num_beams": num_beams,
        "batch_size": batch_size,
        "captions_per_cpu_second": {name: round(value, 2) for name, value in medians.items()},
        "times_hfcap": {name: round(medians[name] / medians["hfcap"], 2) for name in exports},
        "times_stock": {name: round(medians[name] / medians["stock"], 2) for name in exports},
        "equal_to_hfcap": {name: round(value, 4) for name, value in equal.items()},
    }


def first_captions(args: argparse.Namespace, image: Image.Image) -> dict[str, float]:
    """CPU seconds of new processes that caption one photo: the median of each way."""
    model = resolve_model(args.model).path
    seconds: dict[str, list[float]] = {}
    with TemporaryDirectory() as folder:
        photo = str(Path(folder, "photo.png"))
        image.save(photo)
        commands = {"hfcap": (FIRST_IN_TORCH, model, photo)}
        commands |= {name: (FIRST_ON_DEVICE, args.onnx, name, photo) for name in variants_of(args.onnx)}
        for number in range(args.processes + 1):  # the first one fills the cache of files
            for name, (code, *words) in commands.items():
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                command = [sys.executable, "-c", f"import sys; {code}", *words]
                subprocess.run(command, check=True, capture_output=True)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                if number:
                    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                    seconds.setdefault(name, []).append(used)
    return {name: round(statistics.median(values), 2) for name, values in seconds.items()}


def megabytes(folder: str) -> dict[str, float]:
    """Size of the graphs of each variant of an export."""
    variants = read_onnx_folder(folder).settings["variants"]
    return {
        name: round(sum(found["bytes"] for found in graphs.values()) / 1e6, 2) for name, graphs in variants.items()
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="run or model folder, for PyTorch")
    parser.add_argument("--onnx", required=True, help="its ONNX export; each variant in it is measured")
    parser.add_argument("--data", default="scenes", help="data source of the images")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=3, help="new processes of each way for the first caption")
    parser.add_argument("--num_beams", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--batch_size", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--check", action="store_true", help="stop where captions differ (float32)")
    args = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("set OMP_NUM_THREADS=1: CPU seconds of several threads say little")
    torch.set_num_threads(1)
    rows = load_captions(args.data, args.split, num_images=args.images)
    images = [load_picture(row["image"]) for row in rows]
    results = [measure(args, images, beams, size) for beams in args.num_beams for size in args.batch_size]
    record = {"images": len(images), "rounds": args.rounds, "megabytes": megabytes(args.onnx)}
    print(json.dumps(record | {"first_caption": first_captions(args, images[0]), "results": results}))


if __name__ == "__main__":
    main()
