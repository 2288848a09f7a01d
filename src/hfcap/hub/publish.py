"""A run to the Hub: exported, verified, described, uploaded. Nothing is uploaded unless all before it went well."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hfcap import runs
from hfcap.errors import ConfigError
from hfcap.hub.adapters import ADAPTER_CONFIG
from hfcap.hub.card import read_given, write_shipped_card
from hfcap.hub.card_facts import FACTS, Facts, read_facts, weight_facts
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
    records = find_source(run).run
    for name in (runs.RUN, runs.METRICS):
        if not (records / name).is_file():
            raise ConfigError(f"{records} has no {name}: a card says what was measured; evaluate the run first")
    try:
        runs.read_metrics(records / runs.METRICS)  # written into the card at the end
        facts = read_facts(records, recorded=(records / FACTS).is_file())
        said = read_given(records / runs.CARD, runs.read_run(records / runs.RUN), facts)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    given = dict(given or {})
    if given.get("license", said.license) != said.license:  # name and link are those of the other licence
        given["more"] = {key: value for key, value in said.more.items() if not key.startswith("license_")}
    with TemporaryDirectory(prefix="hfcap-publish-") as scratch:
        ready = export_run(run, Path(scratch) / "ready", **export_options)
        write_shipped_card(records, ready, shipped_facts(facts, ready, target.repo_id), replace(said, **given))
        done = push_folder(ready, target, f"Upload {facts.name}")
    print(done)
    return done


def publish_if_asked(run: Path, args: CaptionTrainingArguments) -> None:
    """Publish a finished run where `--push_to_hub` asked for it; the process of rank 0 does it."""
    if args.publish_to is not None and args.process_index == 0:
        publish(run, Target(args.publish_to, private=bool(args.hub_private_repo)))


def _dtype_change(captions: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the verification of an export in another dtype has measured; see `Facts.dtype_change`."""
    if "dtype_before" not in captions:
        return None
    figures = {name: captions[name] for name in ("cider_before", "cider_after")}
    return {
        "before": captions["dtype_before"],
        "after": captions["dtype_after"],
        "num_images": captions["compared"],
        **figures,
    }


def shipped_facts(facts: Facts, export: Path, repo_id: str) -> Facts:
    """The facts of a run's export: how it loads, and what its own files say."""
    record = json.loads((export / VERIFICATION).read_text(encoding="utf-8"))
    settings = {}
    if record["format"] == "adapter":
        settings = json.loads((export / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    base = settings.get("base_model_name_or_path")
    own = weight_facts(export)
    own["model_type"] = record["model_type"]
    return replace(
        facts,
        **own,
        name=repo_id.split("/")[-1],
        weights=repo_id,
        artifact=record["artifact"],
        form=record["format"],
        base=base,
        base_revision=settings.get("revision"),
        weights_hash=record["weights_hash"],
        settings_hash=record["settings_hash"],
        oldest_transformers=record["oldest_transformers"],
        dtype_change=_dtype_change(record["captions"]),
    )
