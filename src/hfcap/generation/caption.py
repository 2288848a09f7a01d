"""Batched captioning of images."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from PIL import Image
from tqdm.auto import tqdm
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel, ProcessorMixin

from hfcap.data.pictures import PictureError
from hfcap.data.reading import DataWait, PictureRows, check_batch_size, loads_of, read_ahead
from hfcap.distributed import lockstep
from hfcap.errors import ConfigError, as_config_error
from hfcap.generation.decoding import decoding_by, generate
from hfcap.generation.inputs import CaptionPrefix, caption_prompt, encode_prefix, end_token_id, join_vision
from hfcap.generation.requested_length import LengthRequest
from hfcap.models.attention import eager_sdpa
from hfcap.models.model_types import spec_of
from hfcap.models.model_utils import full_precision, in_eval
from hfcap.models.positions import learned_positions

MAX_WAITING = 8  # batches' worth of preprocessed rows that wait for others of their length


def caption(
    model: PreTrainedModel | PeftModel,
    processor: ProcessorMixin,
    pictures: Iterable,
    prompt: str | None = None,
    batch_size: int = 8,
    **generate_kwargs,
) -> list[str]:
    """Caption pictures.

        model, processor = load_captioner("outputs/scenes-qlora")
        caption(model, processor, ["photo.jpg", Image.open("other.png")])

    Args:
        model: captioner, on the device that it is to run on.
        processor: its processor.
        pictures: paths, PIL images or the bytes of files; turned upright and to RGB as in training.
        prompt: instruction; by default the one that the captioner was trained with.
        batch_size: pictures decoded together.
        generate_kwargs: override the model's `generation_config` (`num_beams`, `max_new_tokens`, …).

    Returns:
        One caption per picture, in order.

    Raises:
        ConfigError: one picture in place of several, a wrong `batch_size`, or a decoding setting that
            `GenerationConfig` does not have.
    """
    if isinstance(pictures, (str, bytes, Path, Image.Image)):
        raise ConfigError(
            f"a single {type(pictures).__name__}", option="pictures", wanted="a list of images", fix="wrap it in [...]"
        )
    prompt = caption_prompt(processor) if prompt is None else prompt
    return caption_rows(model, processor, PictureRows(list(pictures)), prompt, batch_size, **generate_kwargs)


def caption_rows(
    model: PreTrainedModel,
    processor,
    rows: Sequence[dict],
    prompt: str | None = None,
    batch_size: int = 16,
    progress: str | None = None,
    **generate_kwargs,
) -> list[str]:
    """Caption rows that hold a picture or its cached features.

    Args:
        model: captioner of any type in `hfcap.models.model_types`, on its device; it is left in the mode it was in.
        processor: its processor.
        rows: sequence of `{"image": RGB PIL image}` or `{"vision_features": (N, D) float32}`, with a `prompt` of their
            own or not; read shortly before they are needed, by several threads.
        prompt: instruction for the rows without their own; the one the captioner was trained with.
        batch_size: pictures decoded together.
        progress: label of a progress bar; none is shown without one.
        generate_kwargs: override the model's `generation_config` (`num_beams`, `length_penalty`, …).

    Returns:
        One caption per row, in order, stripped of special tokens and surrounding space.
    """
    captions = [""] * len(rows)
    done = caption_stream(model, processor, rows, prompt, batch_size, **generate_kwargs)
    for index, caption in tqdm(done, desc=progress, total=len(rows), disable=progress is None, leave=False):
        captions[index] = caption
    return captions


def caption_stream(
    model: PreTrainedModel,
    processor,
    rows: Sequence[dict],
    prompt: str | None = None,
    batch_size: int = 16,
    on_bad_row: Callable[[int, Exception], None] | None = None,
    **generate_kwargs,
) -> Iterator[tuple[int, str]]:
    """Caption rows and yield each caption with the number of its row as soon as its batch is done.

    Threads read and preprocess the next rows while the model decodes. Rows with prefixes of one length make up a
    batch, so that nothing is padded, and captions come in the order in which batches fill up. Under ZeRO-3 and FSDP
    all processes must call this, each with a row at least.

    Args:
        model: as for `caption_rows`, and so are the others.
        processor: its processor.
        rows: sequence of rows, read by several threads.
        prompt: instruction for the rows without their own.
        batch_size: pictures decoded together.
        on_bad_row: called with the number of a row that cannot be read, and why; the row is left out. By default the
            error is raised.
        generate_kwargs: override the model's `generation_config`.

    Raises:
        ConfigError: a wrong `batch_size`, or a decoding setting that `GenerationConfig` does not have.
    """
    return caption_loaded(model, processor, loads_of(rows), prompt, batch_size, on_bad_row, **generate_kwargs)


def caption_loaded(
    model: PreTrainedModel,
    processor,
    loads: Iterable[Callable[[], dict]],
    prompt: str | None = None,
    batch_size: int = 16,
    on_bad_row: Callable[[int, Exception], None] | None = None,
    waiting: DataWait | None = None,
    length: int | None = None,
    **generate_kwargs,
) -> Iterator[tuple[int, str]]:
    """Caption rows of a stream, as `caption_stream` does; no more of them are held than wait for the model.

    Args:
        model: as for `caption_stream`, and so are the others.
        processor: its processor.
        loads: functions that return a row each, called in threads; taken from the iterable in this one.
        prompt: instruction for the rows without their own.
        batch_size: pictures decoded together.
        on_bad_row: called with the number of a row that cannot be read.
        waiting: measures how long the model waits for rows.
        length: words that a caption is to have, one more or less (`hfcap.generation.requested_length`).
        generate_kwargs: override the model's `generation_config`.

    Raises:
        ConfigError: as `caption_stream` does; a `length` that is not from 1 to 29.
    """
    check_batch_size(batch_size)
    settings = copy.deepcopy(model.generation_config)
    unknown = settings.update(**generate_kwargs | {"num_return_sequences": 1})
    if unknown:
        name = next(iter(unknown))
        matches = get_close_matches(name, vars(settings), n=1)
        fix = f"did you mean {matches[0]!r}?" if matches else "remove it"
        raise ConfigError("GenerationConfig has no such setting", option=name, fix=fix)
    request = None if length is None else LengthRequest(processor.tokenizer, length, settings)

    def decode(batch: list[tuple[int, CaptionPrefix]]) -> list[str]:
        tokens = generate_tokens(model, processor, [prefix for _, prefix in batch], settings, request)
        return [text.strip() for text in processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    return decode_stream(model, processor, loads, prompt, batch_size, on_bad_row, decode, waiting)


def decode_stream(
    model: PreTrainedModel,
    processor,
    loads: Iterable[Callable[[], dict]],
    prompt: str | None,
    batch_size: int,
    on_bad_row: Callable[[int, Exception], None] | None,
    decode: Callable[[list[tuple[int, CaptionPrefix]]], Sequence],
    waiting: DataWait | None = None,
) -> Iterator[tuple[int, Any]]:
    """Do the work of `caption_loaded`, with what `decode` gives for each of a batch of numbered prefixes."""

    def encode(load: Callable[[], dict]) -> CaptionPrefix | Exception:
        try:
            row = load()
        # Damaged pictures raise SyntaxError, ValueError, struct.error and others, besides OSError.
        except Exception as error:
            if on_bad_row is None:
                raise
            return error
        try:
            return encode_prefix(processor, model.config, row, prompt)
        except PictureError as error:
            if on_bad_row is None:
                raise
            return error

    def readable() -> Iterator[tuple[int, CaptionPrefix]]:
        for index, prefix in enumerate(read_ahead(encode, loads, 2 * batch_size)):
            if isinstance(prefix, Exception):
                on_bad_row(index, prefix)
            else:
                yield index, prefix

    batches = batches_by_length(readable(), batch_size)
    with in_eval(model):
        for batch, is_own in lockstep(model, batches if waiting is None else waiting.of(batches)):
            with torch.inference_mode(), full_precision(model):
                results = decode(batch)
            if is_own:
                yield from zip([index for index, _ in batch], results, strict=True)


def batches_by_length(
    prefixes: Iterable[tuple[int, CaptionPrefix]], batch_size: int
) -> Iterator[list[tuple[int, CaptionPrefix]]]:
    """Collect numbered prefixes of one length into batches; all but the last ones of a length are full.

    Where many lengths make many batches wait, the fullest goes first.
    """
    waiting: dict[int, list[tuple[int, CaptionPrefix]]] = defaultdict(list)
    for index, prefix in prefixes:
        batch = waiting[len(prefix.input_ids)]
        batch.append((index, prefix))
        if len(batch) == batch_size or sum(map(len, waiting.values())) == MAX_WAITING * batch_size:
            yield waiting.pop(max(waiting, key=lambda length: len(waiting[length])))
    yield from waiting.values()


def generate_tokens(
    model: PreTrainedModel | PeftModel,
    processor,
    prefixes: Sequence[CaptionPrefix],
    settings: GenerationConfig,
    request: LengthRequest | None = None,
    logits_processor: Sequence[LogitsProcessor] = (),
) -> list[list[int]]:
    """Generate the tokens behind each prefix by `settings` and no others, padding included.

    `settings.num_return_sequences` lists of token ids for each prefix, in order. `request` asks for a number
    of words; `logits_processor` is that of `generate`.

    Raises:
        ConfigError: learned positions end before a caption of `max_new_tokens` behind one of the prompts would; a
            number of words is asked of captions without spaces.
    """
    each = settings.num_return_sequences or 1
    tokens = [[]] * (len(prefixes) * each)
    room = learned_positions(model, spec_of(model.config))
    # Prompts of one length need no padding, which some models' positions do not survive.
    for length, _ in lockstep(model, sorted({len(prefix.input_ids) for prefix in prefixes})):
        chosen = [i for i, prefix in enumerate(prefixes) if len(prefix.input_ids) == length]
        if room is not None and length - 1 + (settings.max_new_tokens or 0) > room:
            raise ConfigError(
                f"its language model has {room} positions, of which image and prompt take {length - 1}",
                option="max_new_tokens",
                got=settings.max_new_tokens,
                wanted=f"{max(0, room - length + 1)} or less",
                fix="lower it, or shorten the prompt",
            )
        inputs = join_vision([prefixes[i].vision for i in chosen])
        inputs |= prompt_inputs(model, processor, [prefixes[i] for i in chosen])
        processors = LogitsProcessorList(logits_processor)
        if request is not None:
            processors += request.processors(length)
        fails = as_config_error("the model cannot caption")  # its files do not fit each other
        with eager_sdpa(model), decoding_by(model, settings), fails:
            inputs = {name: value.to(model.device) for name, value in inputs.items()}
            found = generate(model, inputs, generation_config=settings, logits_processor=processors)
        places = [i * each + k for i in chosen for k in range(each)]
        for place, row in zip(places, found[:, length:].tolist(), strict=True):
            tokens[place] = row
    if request is not None:
        request.check_script(tokens)
    return tokens


def prompt_inputs(model: PreTrainedModel, processor, prefixes: Sequence[CaptionPrefix]) -> dict[str, torch.Tensor]:
    """Arguments of `generate` for the tokens before the caption."""
    spec = spec_of(model.config)
    ids = [prefix.input_ids for prefix in prefixes]
    if spec.layout == "encoder_decoder":
        return {"decoder_input_ids": torch.tensor(ids)}
    if spec.generate_drops_last:
        ids = [[*row, end_token_id(processor, model.config)] for row in ids]
    inputs = {"input_ids": torch.tensor(ids)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if spec.token_types:
        inputs[spec.token_types] = torch.tensor([prefix.token_types for prefix in prefixes])
    return inputs
