"""`hfcap alt suggest --data`: proposals for the pictures of a data source."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hfcap.applications.proposals import merged
from hfcap.applications.rows import DATA, empty_row, read_rows, write_rows
from hfcap.applications.suggest import check_settings, propose, settings_of, summary
from hfcap.counts import counted
from hfcap.errors import ConfigError
from hfcap.generation.caption_data import caption_data
from hfcap.generation.photos import CLI_DECODING


def suggest_for_data(args: Namespace) -> None:
    """Write `args.output`: a row for each picture of `args.data`, with a proposal where its caption is one.

    The captions stand in `<output>.captions.jsonl`, which `hfcap caption --data` writes, over processes and resumed.
    Rows are made of them by the main process; decisions of an earlier run stay.

    Raises:
        ConfigError: options that need files, a source, a model or an output file that is wrong.
    """
    given = [f"--{name}" for name in ("ocr", "root") if getattr(args, name)]
    if given:
        raise ConfigError("it is for documents and photos", option=given[0], fix="remove it or --data")
    output = Path(args.output)
    captions = output.with_name(f"{output.name}.captions.jsonl")
    there = read_rows(output) if output.exists() else []
    settings = settings_of(args)
    check_settings(there, settings, output)
    decoding = dict.fromkeys(CLI_DECODING)
    caption_data(Namespace(**vars(args) | decoding | {"output": str(captions), "load_in_4bit": False}))
    if not PartialState().is_main_process:
        return
    new = []
    with open(captions, encoding="utf-8") as file:
        for line in file:
            caption = json.loads(line)
            row = row_of_picture(args.data, caption)
            propose(row, caption["caption"], settings)
            new.append(row)
    rows, num_there = merged(new, there, [args.data])
    write_rows(output, rows)
    print(f"{output}: {counted(len(rows), 'row')} ({num_there} known), {summary(rows)}")


def row_of_picture(data: str, caption: dict[str, str]) -> dict[str, Any]:
    """Return the row of a picture of a data source, from the line that `hfcap caption --data` wrote about it."""
    image_id, sha256 = caption["image_id"], caption["sha256"]
    place = {"id": f"{data}#{image_id}", "file": data, "line": 0, "column": 0, "kind": DATA, "src": image_id}
    picture = {"image": caption["path"] or None, "image_sha256": sha256, "file_sha256": sha256}
    return empty_row() | place | picture | {"role": "informative"}
