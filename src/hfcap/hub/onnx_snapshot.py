"""Snapshot of an ONNX export in a clean process: what `hfcap.ondevice` makes of pictures there.

Run as a script (`python -P onnx_snapshot.py REQUEST.json`) it captions as people do who installed
`hfcap[ondevice]`: torch and transformers cannot be imported, nor any part of hfcap that works with them.
"""

import json
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

BLOCKED = ("torch", "transformers", "hfcap.generation", "hfcap.hub", "hfcap.models", "hfcap.training")


def is_blocked(name: str) -> bool:
    """Whether a module is one of `BLOCKED`, or a part of one."""
    return any(name == one or name.startswith(f"{one}.") for one in BLOCKED)


class _Blocked:
    """An import hook before all others: what `BLOCKED` names is not available."""

    def find_spec(self, name, path=None, target=None):
        if is_blocked(name):
            raise ModuleNotFoundError(f"No module named {name!r} (blocked: an ONNX export must work without it)")


if __name__ == "__main__":
    sys.meta_path.insert(0, _Blocked())

import numpy as np  # noqa: E402

from hfcap.data.reading import PictureRows, loads_of  # noqa: E402
from hfcap.ondevice import Captioner  # noqa: E402


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Caption the pictures of a request.

    Args:
        request: `folder`; `pictures`, files; `pixel_values`, .npy file to write; `batch_sizes`; `ways`, changes of the
            decoding settings by name; `num_threads`.

    Returns:
        `captions[way][batch size]`, a list of `hfcap.samples.Sample` as JSON; `prompt_ids`, the tokens before a
        caption, written by the chat template where there is one; `modules`, those of `BLOCKED` that were imported.
    """
    captioner = Captioner(request["folder"], request["num_threads"])
    rows = PictureRows(request["pictures"])
    np.save(request["pixel_values"], np.stack([captioner.image_processor(row["image"]) for row in rows]))
    return {
        "captions": {
            way: {
                str(size): [
                    asdict(sample) for _, sample in captioner.scored_stream(loads_of(rows), batch_size=size, **changes)
                ]
                for size in request["batch_sizes"]
            }
            for way, changes in request["ways"].items()
        },
        "prompt_ids": _prompt_ids(captioner),
        "modules": sorted(filter(is_blocked, sys.modules)),
    }


def _prompt_ids(captioner: Captioner) -> list[int]:
    recorded, image_token_id = captioner.prompt_ids(), captioner.image_token_id
    if image_token_id is None:
        return recorded
    length = recorded.count(image_token_id)
    return captioner.tokenizer.prompt_ids(captioner.caption_prompt, image_token_id, length)


def main(request_file: str) -> None:
    """Answer a request file: the answer is written beside it."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    Path(request["answer"]).write_text(json.dumps(answer(request)), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Exception as error:
        traceback.print_exc()
        # The last line is what the other process reports.
        sys.exit(" ".join(f"{type(error).__name__}: {error}".split()))
