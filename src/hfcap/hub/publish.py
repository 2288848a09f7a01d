"""Publishing of a run: export, verification, card, upload."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hfcap import runs
from hfcap.errors import ConfigError, as_config_error
from hfcap.hub.adapters import ADAPTER_CONFIG
from hfcap.hub.card import read_given, write_shipped_card
from hfcap.hub.card_data import CARD_JSON, CardData, read_card_data, weight_data
from hfcap.hub.export import VERIFICATION, export_run, find_source
from hfcap.hub.push import Push, Target, push_folder
from hfcap.training.arguments import CaptionTrainingArguments


def publish(run: str | Path, target: Target, given: Mapping[str, Any] | None = None, **export_options: Any) -> Push:
    """Export a run, verify the export, write its card from the run's measurements, and upload it in one commit.

    Args:
        run: run folder, or its model or adapter folder.
        target: where to.
        given: fields of `card_metadata.Given` that replace what the run's card says.
        export_options: `format`, `merge`, `dtype`, `base_model`, `pictures` of `export_run`.

    Raises:
        ConfigError: a run that was not evaluated, a card or a record of it that cannot be read, or what `export_run`
            and `push_folder` cannot do.
        VerificationError: the export is not what it must be.
        WorkError: the upload failed.
    """
    if export_options.get("format") == "onnx" and target.revision != "main":
        raise ConfigError(
            "transformers.js looks for a pipeline's files on main, whatever the revision",
            option="--revision",
            got=target.revision,
            fix=f"remove it, and pass --repo {target.repo_id}-onnx where {target.repo_id} has other weights",
        )
    records = find_source(run).run
    for name in (runs.RUN_JSON, runs.METRICS_JSON):
        if not (records / name).is_file():
            raise ConfigError(
                f"missing in {records}, and a card reports what was measured",
                option=name,
                fix="evaluate the run first",
            )
    with as_config_error(kinds=(ValueError, OSError)):
        metrics = runs.read_metrics(records / runs.METRICS_JSON)
        card_data = read_card_data(records, recorded=(records / CARD_JSON).is_file())
        said = read_given(records / runs.CARD_README, metrics, runs.read_run(records / runs.RUN_JSON), card_data)
    given = dict(given or {})
    if given.get("license", said.license) != said.license:  # name and link are those of the other licence
        given["more"] = {key: value for key, value in said.more.items() if not key.startswith("license_")}
    with TemporaryDirectory(prefix="hfcap-publish-") as scratch:
        ready = export_run(run, Path(scratch) / "ready", **export_options)
        card_data = shipped_card_data(card_data, ready, target.repo_id, target.revision)
        write_shipped_card(records, ready, card_data, replace(said, **given))
        done = push_folder(ready, target, f"Upload {card_data.name}")
    print(done)
    return done


def publish_if_asked(run: Path, args: CaptionTrainingArguments, repo_id: str | None) -> None:
    """Publish a finished run where `--push_to_hub` asked for it; the process of rank 0 does it."""
    if repo_id is not None and args.process_index == 0:
        publish(run, Target(repo_id, private=bool(args.hub_private_repo)))


def _dtype_change(captions: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the verification of an export in another dtype has measured; see `CardData.dtype_change`."""
    if "dtype_before" not in captions:
        return None
    figures = {name: captions[name] for name in ("cider_before", "cider_after")}
    return {
        "before": captions["dtype_before"],
        "after": captions["dtype_after"],
        "num_images": captions["compared"],
        **figures,
    }


def _onnx_variants(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Size, time, CIDEr and cost of each variant of an ONNX export; see `CardData.variants`."""
    costs = record["costs"]
    float32 = next((cost["a"] for cost in costs.values()), None)
    return [
        {
            "dtype": dtype,
            "bytes": sum(file["bytes"] for file in files.values()),
            "cpu_milliseconds": record["cpu_milliseconds"][variant],
            "cider": costs[variant]["b"] if variant in costs else float32,
            "cost": costs.get(variant),
        }
        for dtype, (variant, files) in zip(record["dtypes"], record["files"].items(), strict=True)
    ]


def shipped_card_data(card_data: CardData, export: Path, repo_id: str, revision: str = "main") -> CardData:
    """The card data of a run's export: how it loads from a branch of a repository, and what its own files say."""
    record = json.loads((export / VERIFICATION).read_text(encoding="utf-8"))
    settings = {}
    if record["format"] == "adapter":
        settings = json.loads((export / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    base = settings.get("base_model_name_or_path")
    is_onnx = record["format"] == "onnx"  # without tensors to count: they are those of the run
    own = {"variants": _onnx_variants(record), "num_beams": record["num_beams"]} if is_onnx else weight_data(export)
    own["model_type"] = record["model_type"]
    return replace(
        card_data,
        **own,
        name=repo_id.split("/")[-1],
        weights=repo_id,
        revision=None if revision == "main" else revision,
        artifact=record["artifact"],
        form=record["format"],
        base=base,
        base_revision=settings.get("revision"),
        weights_hash=record["weights_hash"],
        settings_hash=record["settings_hash"],
        oldest_transformers=record["oldest_transformers"],
        dtype_change=_dtype_change(record["captions"]),
    )
