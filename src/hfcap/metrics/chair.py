"""CHAIR: objects that a caption names and that are not in the picture.

Rohrbach et al., "Object hallucination in image captioning", EMNLP 2018. Words of captions are mapped to objects by a
list of synonyms; an object is in the picture if a reference names it, or its annotated instances do. CHAIR-i is the
share of invented ones among all objects named, CHAIR-s the share of captions with an invented object. Lower is better.

The list is the user's: `chair_synonyms` is a file of one line per object, its name and its synonyms separated by
commas. That of the paper has the 80 objects of COCO (`data/synonyms.txt` of LisaAnne/Hallucination on GitHub, BSD
2-Clause). Base forms and compounds ("hot dog" is no dog) are WordNet's: `pip install "hfcap[meteor]"` brings them.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfcap.content_hashes import file_sha256
from hfcap.errors import ConfigError, as_config_error

from .meteor_jar import find_jar
from .meteor_words import WordNet
from .metric import Inputs, Metric, Options, warn_unless_english
from .ptb_tokenizer import tokenize

_LONGEST_NAME = 3  # words of a compound; a longer synonym counts as well


def read_synonyms(path: str | os.PathLike) -> dict[str, str]:
    """Read the object that each word or phrase names.

    Args:
        path: a line per object: its name, then its synonyms, separated by commas.

    Returns:
        {synonym: object}, the names themselves among them, both tokenized as captions are ("child 's").

    Raises:
        ConfigError: the file cannot be read, holds no object, or gives a word to two objects.
    """
    try:
        with as_config_error(kinds=(OSError,)):
            lines = Path(path).read_text(encoding="utf-8-sig").splitlines()  # spreadsheets write a byte-order mark
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"it is no UTF-8 text (byte {error.start})", option="chair_synonyms", got=str(path), fix="save it as UTF-8"
        ) from None
    objects: dict[str, str] = {}
    for line in lines:
        names = [name for name in map(_as_in_captions, line.split(",")) if name]
        for name in names:
            if objects.setdefault(name, names[0]) != names[0]:
                raise ConfigError(
                    f"{name!r} stands for {objects[name]!r} and for {names[0]!r}",
                    option="chair_synonyms",
                    got=str(path),
                    fix="keep one of them",
                )
    if not objects:
        raise ConfigError("it names no object", option="chair_synonyms", got=str(path), wanted="a line per object")
    return objects


def _as_in_captions(name: str) -> str:
    return " ".join(tokenize([name], isolated=True)[0].split())


def find_objects(
    caption: str, synonyms: Mapping[str, str], wordnet: WordNet, longest: int = _LONGEST_NAME
) -> list[str]:
    """Give the objects that a caption names, one per mention.

    Args:
        caption: a tokenized caption in lower case.
        synonyms: as `read_synonyms` gives them.
        wordnet: base forms of words, and compounds that are no object although a word of theirs is.
        longest: words of the longest synonym or compound.
    """
    words, found, place = caption.split(), [], 0
    while place < len(words):
        for length in range(min(longest, len(words) - place), 0, -1):
            *first, last = words[place : place + length]
            names = [" ".join([*first, base]) for base in wordnet.base_forms(last)]
            known = next((synonyms[name] for name in names if name in synonyms), None)
            compound = length > 1 and any(name.replace(" ", "_") in wordnet.synsets for name in names)
            if known is not None or compound or length == 1:
                found += [] if known is None else [known]
                place += length
                break
    return found


def _statistics(inputs: Inputs) -> np.ndarray:
    """(N, 3): whether a caption invents an object, its invented mentions, all its mentions of objects."""
    synonyms, wordnet, corpus = read_synonyms(inputs.options.chair_synonyms), WordNet(find_jar()), inputs.corpus
    warn_unless_english("chair", corpus.references)
    longest = max(_LONGEST_NAME, *(len(name.split()) for name in synonyms))
    annotated = [()] * len(corpus) if inputs.options.objects is None else inputs.options.objects
    if len(annotated) != len(corpus):
        raise ValueError(f"got objects of {len(annotated)} images, wanted those of {len(corpus)}")
    annotated = [[_as_in_captions(name) for name in names] for names in annotated]
    unknown = {name for names in annotated for name in names} - set(synonyms)
    if unknown and not any(name in synonyms for names in annotated for name in names):
        raise ConfigError(
            f"no annotated object is among its words (the first: {min(unknown)!r})",
            option="chair_synonyms",
            got=str(inputs.options.chair_synonyms),
            fix="give the objects the names of the annotations' categories",
        )
    rows = []
    for caption, references, names in zip(corpus.candidates, corpus.references, annotated, strict=True):
        present = {synonyms.get(name, name) for name in names}
        present.update(one for reference in references for one in find_objects(reference, synonyms, wordnet, longest))
        mentioned = find_objects(caption, synonyms, wordnet, longest)
        invented = sum(one not in present for one in mentioned)
        rows.append((invented > 0, invented, len(mentioned)))
    return np.array(rows, dtype=np.float64)


def combine_shares(sums: np.ndarray, num_images: int) -> np.ndarray:
    """Combine sums (..., 3) to the share of captions with an invention and the share of inventions among mentions."""
    shares = np.divide(sums[..., 1], sums[..., 2], out=np.zeros_like(sums[..., 1]), where=sums[..., 2] > 0)
    return np.stack([sums[..., 0] / num_images, shares], axis=-1)


def _require(options: Options) -> None:
    if options.tokenizer != "ptb":
        raise ConfigError(
            "chair is for English only", option="tokenizer", got=options.tokenizer, wanted="ptb", fix="remove chair"
        )
    if options.chair_synonyms is None:
        raise ConfigError(
            "chair needs to know which words name which object",
            option="chair_synonyms",
            fix="pass a file with a line per object, its name and synonyms separated by commas (docs/metrics.md)",
        )
    read_synonyms(options.chair_synonyms)
    find_jar("chair")


def _record(options: Options) -> dict[str, Any]:
    return {
        "chair_synonyms_hash": file_sha256(options.chair_synonyms),
        "chair_against": "references" if options.objects is None else "references and instances",
    }


def read_instances(path: str | os.PathLike, image_ids: Sequence[str]) -> list[frozenset[str]]:
    """Read which objects are annotated in each image.

    Args:
        path: COCO instances JSON.
        image_ids: of the images, in order; they are matched as by `hfcap.image_matching.same_images`.

    Raises:
        ConfigError: the file is not of that format, or lacks one of the images.
    """
    from hfcap.image_matching import same_images
    from hfcap.json_files import read_json
    from hfcap.predictions import Row, picture_names

    content = read_json(path)
    try:
        names = {category["id"]: category["name"] for category in content["categories"]}
        rows = [
            Row(str(image["id"]), [], str(path), names=picture_names(str(image.get("file_name") or "")))
            for image in content["images"]
        ]
        found: dict[str, set[str]] = {row.image_id: set() for row in rows}
        for annotation in content["annotations"]:
            found[str(annotation["image_id"])].add(names[annotation["category_id"]])
        nameless = next((name for name in names.values() if not isinstance(name, str)), None)
        if nameless is not None:
            raise TypeError(f"a category's name is {nameless!r}, not a text")
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"no COCO instances ({type(error).__name__}: {error})", option="--instances", got=str(path)
        ) from error
    same = same_images(image_ids, rows)
    missing = [image_id for image_id in image_ids if len(same[image_id]) != 1]
    if missing:
        raise ConfigError(
            f"it lacks {len(missing)} of {len(image_ids)} images (first: {missing[0]})",
            option="--instances",
            got=str(path),
            fix="pass the instances of the references' own images, or remove it",
        )
    return [frozenset(found[same[image_id][0]]) for image_id in image_ids]


CHAIR = Metric(
    key="chair",
    names={"chair_s": "CHAIR-s", "chair_i": "CHAIR-i"},
    statistics=_statistics,
    combine=combine_shares,
    greater_is_better=False,
    require=_require,
    record=_record,
)
