"""`hfcap alt evaluate`: how many proposals break a rule, and what neutral words for people cost in CIDEr."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hfcap.applications.lint import AIM, RULES, alt_findings
from hfcap.applications.people import neutral
from hfcap.applications.wording import worded
from hfcap.errors import as_config_error
from hfcap.metrics import confidence_intervals


def alt_figures(
    captions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "ptb"
) -> dict[str, Any]:
    """Return the figures of captions as proposals.

    Args:
        captions: N, as a model wrote them.
        references: for each image, what people wrote.
        tokenizer: of CIDEr.

    Returns:
        `num_images`; `proposals`, `no_proposal`, `made_neutral` and `longer_than_125` as counts of images; `raw` and
        `worded`, each with the share of texts that break a rule of level error or warning, and counts per rule; and
        `cider` of captions against references ("raw") and of neutral captions against neutral references ("neutral"),
        each `{"value", "ci95"}`.
    """
    found = [worded(caption) for caption in captions]
    alts = [wording.alt for wording in found if wording is not None]
    plain = {"raw": (captions, references)}
    plain["neutral"] = (
        [neutral(caption) for caption in captions],
        [[neutral(reference) for reference in of_image] for of_image in references],
    )
    return {
        "num_images": len(captions),
        "proposals": len(alts),
        "no_proposal": len(captions) - len(alts),
        "made_neutral": sum(neutral(caption) != caption for caption in captions),
        "longer_than_125": sum(len(alt) > AIM for alt in alts),
        "raw": _broken(captions),
        "worded": _broken(alts),
        "cider": {name: _cider(*pair, tokenizer) for name, pair in plain.items()},
    }


def _cider(captions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str) -> dict[str, Any]:
    return confidence_intervals(captions, references, ("cider",), tokenizer=tokenizer)["cider"]


def _broken(texts: Sequence[str]) -> dict[str, Any]:
    """Return the shares of texts that break a rule of each level, and how many break which."""
    rules = [{rule for rule, _ in alt_findings(text)} for text in texts]
    shares = {
        level: sum(any(RULES[rule][0] == level for rule in of_text) for of_text in rules) / max(1, len(texts))
        for level in ("error", "warning")
    }
    names = sorted({rule for of_text in rules for rule in of_text})
    return shares | {"rules": {name: sum(name in of_text for of_text in rules) for name in names}}


def evaluate_alts(args: Namespace) -> None:
    """Caption a split of a data source, print the figures, and write them into the folder `args.output`.

    It gets the `metrics.json` of an evaluation with the figures as `alt_text`, a report that shows them, and the
    captions, each with its proposal as `alt`.

    CIDEr is by the tokenizer of the run's own figures.

    Raises:
        ConfigError: a model, a source or a split that is wrong.
    """
    from accelerate import PartialState

    from hfcap import runs
    from hfcap.data.caption_dataset import CaptionDataset
    from hfcap.data.picture_checks import undecoded
    from hfcap.data.sources import load_captions
    from hfcap.distributed import use_all_cores
    from hfcap.evaluation import Measured, evaluate_captioner, write_evaluation
    from hfcap.generation.inputs import caption_prompt
    from hfcap.generation.loading import load_captioner
    from hfcap.processes import join_processes

    state = join_processes()
    source = runs.resolve_model(args.model)
    with as_config_error("--data"):
        rows = load_captions(args.data, args.split, num_images=args.num_images)
    with as_config_error("--model"):
        tokenizer = runs.metrics_tokenizer(Path(args.model))
    use_all_cores()
    model, processor = load_captioner(source.path)
    model.to(PartialState().device)
    prompt = args.prompt or caption_prompt(processor)
    evaluation = evaluate_captioner(
        model, processor, CaptionDataset(rows), prompt, args.batch_size, tokenizer=tokenizer
    )
    if not state.is_main_process:
        return
    captions = [row["caption"] for row in evaluation.rows]
    figures = alt_figures(captions, rows["captions"], tokenizer)
    print(figures_text(figures))
    if args.output:
        data = {"name": runs.data_name(args.data), "split": args.split, **runs.data_fingerprint(undecoded(rows))}
        alts = [wording.alt if wording else "" for wording in map(worded, captions)]
        write_evaluation(
            Path(args.output),
            evaluation,
            rows,
            f"Alt text by {args.model} on {args.data}",
            Measured(source.artifact, source.path, data, prompt),
            further={"alt_text": figures},
            details=table_of(figures),
            alt=alts,
        )
        print(f"\nResults in {args.output}")


def table_of(figures: dict[str, Any]) -> dict[str, str]:
    """Return the figures for people, by name; CIDEr is times 100."""
    lines = {
        "images": f"{figures['num_images']:,}",
        "without a proposal": f"{figures['no_proposal']:,}",
        f"longer than {AIM} characters": f"{figures['longer_than_125']:,}",
        "words for people made neutral": f"{figures['made_neutral']:,}",
    }
    for name, texts in (("raw", "captions"), ("worded", "proposals")):
        for level in ("error", "warning"):
            lines[f"{texts} that break a rule ({level})"] = f"{figures[name][level]:.2%}"
    for name, cider in figures["cider"].items():
        low, high = (100 * bound for bound in cider["ci95"])
        lines[f"CIDEr, {name} on {name}"] = f"{100 * cider['value']:.1f} ({low:.1f} to {high:.1f})"
    return lines


def figures_text(figures: dict[str, Any]) -> str:
    """Return the figures as a table for the terminal."""
    return "\n".join(f"{name:<40}{value}" for name, value in table_of(figures).items())
