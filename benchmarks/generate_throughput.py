"""Time captioning against stock `generate`, and against the pipeline as people call it; alternating.

    python benchmarks/generate_throughput.py --image_tokens 576
    python benchmarks/generate_throughput.py --pipeline --photos 500 --data FOLDER

Both ways run the same stock LLaVA (random weights, SigLIP-type encoder 192 x 4 layers, Llama 256 x 6, float32) on the
same pictures with the same batch size and beams, and must give the same tokens; the benchmark stops where they do not.
No caption ends before --new_tokens. The ratio is the median over rounds of stock seconds / hfcap seconds.

--pipeline: photos from a data source are written to a folder as JPEG files. `pipeline("image-text-to-text")` gets
their paths as chats, one call for all, with --pipeline_batch (1, its default) photos at a time; hfcap reads the same
paths in batches of --batch_size. Models are loaded before the clock starts. A round is a fifth of the photos.

The last line is JSON.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from training_ways import Settings, build_llava
from transformers import logging, pipeline

from hfcap.data.pictures import load_picture
from hfcap.data.reading import PictureRows
from hfcap.data.sources import load_captions
from hfcap.distributed import use_all_cores
from hfcap.generation.caption import caption_stream
from hfcap.generation.decoding import generate
from hfcap.generation.photo_files import Photo

PROMPT = "w0 w1 w2 w3"
ROUNDS_OF_PHOTOS = 5


def build(args: argparse.Namespace):
    """Stock LLaVA, whose captions all have `new_tokens` tokens, and its processor."""
    model, processor = build_llava(Settings(image_tokens=args.image_tokens, vocab_size=args.vocab_size), "stock")
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    settings = {"num_beams": args.num_beams, "max_new_tokens": args.new_tokens, "min_new_tokens": args.new_tokens}
    model.generation_config.update(**ids, **settings, suppress_tokens=[model.config.image_token_id])
    return model.eval(), processor


def timed(function):
    """Seconds and result of a call."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def compare_with_generate(args: argparse.Namespace) -> dict:
    """Time both ways on one batch, prompt and picture tensors made before."""
    model, _ = build(args)
    side = Settings(image_tokens=args.image_tokens).image_size
    prompt = torch.tensor([[1, *[model.config.image_token_id] * args.image_tokens, 3, 4, 5, 6, 7, 3]])
    input_ids = prompt.expand(args.batch_size, -1)
    draw = torch.Generator().manual_seed(0)
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    inputs["pixel_values"] = torch.randn(args.batch_size, 3, side, side, generator=draw)
    ways = {"stock": lambda: model.generate(**inputs), "hfcap": lambda: generate(model, inputs)}
    seconds = {way: [] for way in ways}
    with torch.inference_mode():
        for number in range(args.rounds + 1):  # the first one warms up
            tokens = {}
            for way, function in ways.items():
                spent, tokens[way] = timed(function)
                if number:
                    seconds[way].append(spent)
            if not torch.equal(tokens["stock"], tokens["hfcap"]):
                sys.exit("the two ways give different tokens")
    return {"seconds": seconds}


def write_photos(args: argparse.Namespace, folder: Path) -> list[Photo]:
    """Write the first photos of the data source as JPEG files, as people have them."""
    rows = load_captions(args.data, args.split, num_images=args.photos)
    photos = [Photo(row["image_id"], folder / f"{number}.jpg") for number, row in enumerate(rows)]
    for row, photo in zip(rows, photos, strict=True):
        load_picture(row["image"]).save(photo.path, quality=92)
    return photos


def compare_with_pipeline(args: argparse.Namespace) -> dict:
    """Time both ways from paths to texts, over a fifth of the photos a round."""
    model, processor = build(args)
    with tempfile.TemporaryDirectory() as folder:
        photos = write_photos(args, Path(folder))
        model.save_pretrained(Path(folder) / "model")
        processor.save_pretrained(Path(folder) / "model")
        pipe = pipeline("image-text-to-text", model=str(Path(folder) / "model"), device=model.device)
        pipe.model.generation_config = model.generation_config

        def stock(some: list[Photo]) -> list[str]:
            question = {"type": "text", "text": PROMPT}
            chats = [
                [{"role": "user", "content": [{"type": "image", "path": str(photo.path)}, question]}] for photo in some
            ]
            answers = pipe(text=chats, batch_size=args.pipeline_batch, return_full_text=False)
            return [answer[0]["generated_text"].strip() for answer in answers]

        def hfcap(some: list[Photo]) -> list[str]:
            found = dict(
                caption_stream(model, processor, PictureRows([photo.path for photo in some]), PROMPT, args.batch_size)
            )
            return [found[index] for index in range(len(some))]

        seconds, same = {"stock": [], "hfcap": []}, 0
        each = len(photos) // ROUNDS_OF_PHOTOS
        for start in range(0, each * ROUNDS_OF_PHOTOS, each):
            some = photos[start : start + each]
            captions = {}
            for way, function in (("stock", stock), ("hfcap", hfcap)):
                spent, captions[way] = timed(lambda function=function, some=some: function(some))
                seconds[way].append(spent)
            same += sum(a == b for a, b in zip(captions["stock"], captions["hfcap"], strict=True))
    return {"seconds": seconds, "photos": each * ROUNDS_OF_PHOTOS, "same_captions": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image_tokens", type=int, default=576, help="a square number")
    parser.add_argument("--vocab_size", type=int, default=8192)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--num_beams", type=int, default=5)
    parser.add_argument("--new_tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5, help="of stock generate and hfcap")
    parser.add_argument("--pipeline", action="store_true", help="compare with the pipeline instead of generate")
    parser.add_argument("--pipeline_batch", type=int, default=1, help="batch size given to the pipeline")
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--data", default="scenes", help="where the photos come from")
    parser.add_argument("--split", default="validation")
    args = parser.parse_args()
    logging.set_verbosity_error()
    use_all_cores()
    torch.manual_seed(0)
    result = compare_with_pipeline(args) if args.pipeline else compare_with_generate(args)
    ratios = [stock / hfcap for stock, hfcap in zip(*result["seconds"].values(), strict=True)]
    result["seconds"] = {way: statistics.median(seconds) for way, seconds in result["seconds"].items()}
    result |= {"times_faster": statistics.median(ratios), "each_round": ratios, "cores": torch.get_num_threads()}
    print(json.dumps(vars(args) | result))


if __name__ == "__main__":
    main()
