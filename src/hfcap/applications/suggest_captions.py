"""`hfcap suggest`: several captions for each photo, to choose from."""

import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hfcap import runs
from hfcap.applications.suggestions import AGREEMENT, END_BIAS, UNLIKE, Suggestion, suggestions
from hfcap.content_hashes import file_sha256
from hfcap.errors import ConfigError
from hfcap.generation.photos import PhotoWork, write_photo_rows
from hfcap.json_files import read_text
from hfcap.ondevice.folder import is_onnx_folder
from hfcap.processes import join_processes
from hfcap.scripts import is_spaceless

NUM_SAMPLES = 20
TEMPERATURE = 0.5
OPTIMISED = (
    "{} was trained by train_scst to maximise CIDEr, which costs diversity that no decoding brings back (Luo and "
    "Shakhnarovich 2020): its suggestions will be much alike; use the model it was trained from"
)


def suggest_captions(args: Namespace) -> None:
    """Write suggestions for each photo; see `hfcap.generation.photos.write_photo_rows`.

    Raises:
        ConfigError: a path, a model, an output file or a file of words that is wrong.
        WorkError: not one photo could be read.
    """
    if args.n > NUM_SAMPLES:
        raise ConfigError(
            "suggestions are chosen among samples", option="--n", got=args.n, wanted=f"1 to {NUM_SAMPLES}"
        )
    if is_onnx_folder(args.model):
        raise ConfigError(
            "suggestions are drawn at random, which an ONNX export does not",
            option="model",
            got=args.model,
            fix="pass the run or the model folder that it was exported from",
        )
    avoid = phrases_of(args.avoid) if args.avoid else []
    if join_processes().is_main_process and is_cider_optimised(args.model):
        print(OPTIMISED.format(args.model), file=sys.stderr)
    settings = {
        "n": args.n,
        "length": args.length,
        "prompt": args.prompt,
        "avoid": avoid,
        "samples": NUM_SAMPLES,
        "temperature": TEMPERATURE,
        "agreement": AGREEMENT,
        "unlike": UNLIKE,
    }

    def stream(captioner, photos, loads, skip) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, found in suggestion_stream(args, captioner, photos, loads, skip, avoid):
            rounded = [asdict(suggestion) for suggestion in found]
            for suggestion in rounded:
                suggestion |= {name: round(suggestion[name], 4) for name in ("log_probability", "agreement")}
            yield index, {"suggestions": rounded, "seed": args.seed, "settings": settings}

    def line(row) -> str:
        return "\t".join(suggestion["caption"] for suggestion in row["suggestions"])

    work = PhotoWork("suggestions", "suggestions", "no suggestion", settings | {"seed": args.seed}, stream, line)
    write_photo_rows(args, work)


def suggestion_stream(args, captioner, photos, loads, skip, avoid) -> Iterator[tuple[int, list[Suggestion]]]:
    """Draw samples for photos, and choose the suggestions of each."""
    from hfcap.generation.inputs import caption_prompt
    from hfcap.generation.sampling import Sampling, sample_stream

    model, processor = captioner.model, captioner.processor
    tokens = tuple(token_lists(processor.tokenizer, avoid))
    sampling = Sampling(NUM_SAMPLES, TEMPERATURE, end_bias=END_BIAS[args.length], avoid=tokens)
    prompt = args.prompt or caption_prompt(processor)

    def key_of(index: int) -> str:
        return file_sha256(photos[index].path)

    for index, samples in sample_stream(
        model, processor, loads, key_of, sampling, args.seed, prompt, args.batch_size, skip
    ):
        yield index, suggestions(samples, args.n, args.length, avoid)


def token_lists(tokenizer, phrases: list[str]) -> Iterator[tuple[int, ...]]:
    """Give the tokens of each phrase where it begins a caption and where it follows a word, in both cases.

    In scripts without spaces it follows a letter.
    """

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    found = {ids(start + case) for phrase in phrases for case in (phrase, phrase.capitalize()) for start in ("", " ")}
    for phrase in phrases:
        letter = ids(phrase[0])
        behind_it = ids(phrase[0] + phrase)
        if is_spaceless([phrase]) and behind_it[: len(letter)] == letter:  # no token goes across
            found.add(behind_it[len(letter) :])
    yield from sorted(filter(None, found))


def phrases_of(path: str) -> list[str]:
    """Read words and phrases, one per line.

    Raises:
        ConfigError: the file cannot be read, or holds none.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(why, option="--avoid", got=str(path)) from error
    phrases = [line.strip() for line in lines if line.strip()]
    if not phrases:
        raise ConfigError(
            "it is empty", option="--avoid", got=str(path), fix="write one word or phrase per line into it"
        )
    return phrases


def is_cider_optimised(model: str) -> bool:
    """Whether the `run.json` of a model's run folder says that it was trained on CIDEr as a reward."""
    folder = Path(runs.resolve_model(model).path)
    for run in (folder / runs.RUN_JSON, *(parent / runs.RUN_JSON for parent in list(folder.parents)[:2])):
        if run.is_file():
            return "sampling_temperature" in runs.read_run(run).get("arguments", {})
    return False
