"""`hfcap moderate tag`: scores, evidence and a first decision for photos or the pictures of a source."""

from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from hfcap import runs
from hfcap.errors import ConfigError
from hfcap.generation.photos import PhotoWork, hashes_of, say_wait, write_photo_rows

HASH_KEY = "image_sha256"


def tag_pictures(args: Namespace) -> None:
    """Write a row of tags for each photo, or each picture of `--data`; with `--output` a second run does the rest.

    Raises:
        ConfigError: a path, a source, a tagger, a captioner, a policy or an output file that is wrong.
        WorkError: not one picture could be read.
    """
    if bool(args.pictures) == (args.data is not None):
        raise ConfigError("hfcap moderate tag: name photos or folders, or a data source with --data; one of the two")
    if args.data is not None and args.keep_both:
        raise ConfigError("--keep_both is for photos; leave it out with --data")
    from hfcap.applications.tagging import find_policy, tags_of
    from hfcap.processes import join_processes, main_process_decides

    join_processes()
    source = runs.resolve_model(args.tagger).path
    policy = find_policy(source, args.policy)
    tags_of(source, policy)  # before any picture is looked for
    captioner = None if args.model is None else runs.resolve_model(args.model).path
    hashes = main_process_decides(lambda: [None if name is None else hashes_of(name) for name in (source, captioner)])
    origin = {
        "tagger": {
            "source": args.tagger,
            "weights_sha256": hashes[0]["weights"],
            "captioner_sha256": hashes[1] and hashes[1]["weights"],
        },
        "policy": None if policy is None else {"path": policy.path, "sha256": policy.sha256},
    }
    settings = {"captioner": origin["tagger"]["captioner_sha256"], "policy": policy and policy.sha256}
    options = Namespace(**vars(args) | {"model": args.tagger, "load_in_4bit": False})
    _write_rows(options, source, policy, captioner, origin, settings)


def _write_rows(args: Namespace, source: str, policy, captioner: str | None, origin: Mapping, settings: dict) -> None:
    from hfcap.applications.tagging import tag_loaded
    from hfcap.data.reading import DataWait

    waiting = DataWait()

    def load(*_) -> Any:
        return _load(source, policy, captioner)

    def of_photos(tagger, _photos, loads, skip) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, fields in tag_loaded(tagger, loads, args.batch_size, skip, waiting):
            yield number, {**fields, **origin}

    def of_source(loads, skip, waiting) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, fields in tag_loaded(_load(source, policy, captioner), loads, args.batch_size, skip, waiting):
            yield number, {**fields, **origin}

    if args.data is None:
        work = PhotoWork("scores", "tags", "no tag", settings, of_photos, one_line, load, HASH_KEY)
        write_photo_rows(args, work)
        say_wait(waiting)
        return
    from hfcap.generation.caption_data import SourceWork, write_source_rows

    write_source_rows(args, SourceWork("tags", "no tag", "scores", settings, of_source, one_line, HASH_KEY))


def _load(source: str, policy, captioner: str | None):
    """Load tagger and captioner onto the device of this process."""
    from accelerate import PartialState

    from hfcap.applications.tagging import load_tagger
    from hfcap.distributed import use_all_cores
    from hfcap.generation.loading import load_captioner

    use_all_cores()
    device, pair = PartialState().device, None
    if captioner is not None:
        model, processor = load_captioner(captioner)
        pair = (model.to(device), processor)
    return load_tagger(source, policy, pair, device)


def one_line(row: Mapping[str, Any]) -> str:
    """Say on one line what a picture may show, the likeliest tag first; nothing is called safe."""
    order = sorted(row["probabilities"].items(), key=lambda item: -item[1])
    texts = [
        f"may show {tag} ({probability:.2f}, {row['decision'][tag]})"
        for tag, probability in order
        if row["decision"][tag] != "none"
    ]
    return "; ".join(texts) or "no tag found"
