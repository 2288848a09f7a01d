"""`hfcap train CONFIG`: the recipe of a configuration, started with accelerate's launcher."""

import argparse
import logging
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path

from hfcap.errors import ConfigError
from hfcap.shipped import CONFIGS, RECIPES, find_config
from hfcap.training.config_file import read_config, take_config


def add_train_command(commands: argparse._SubParsersAction) -> None:
    """Add `hfcap train` to the commands."""
    # Its options are those of the launcher and of the recipe, which read them: here every word is only a word.
    command = commands.add_parser(
        "train",
        help="train a captioner by a configuration",
        usage="hfcap train CONFIG [--option VALUE …]\n       hfcap train --list",
        description="Start the recipe that CONFIG names with accelerate's launcher. Every key of CONFIG is an option "
        "that overrides it; options of `accelerate launch` (--num_processes 2, --config_file …) go to the launcher, "
        "and may stand before CONFIG. `--list` lists the shipped configurations.",
        add_help=False,
        prefix_chars="\0",
    )
    command.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG",
        help="YAML file, or the name of a shipped one; `--config CONFIG` is the same",
    )
    command.set_defaults(run=lambda args: train(args, command))


def train(args: argparse.Namespace, command: argparse.ArgumentParser) -> None:
    """List the configurations, or train by one of them; the exit code is that of the recipe.

    Raises:
        ConfigError: no such configuration, or it names no recipe.
    """
    first = args.words[0] if args.words else None
    if first in ("-h", "--help"):
        command.print_help()
        return
    if first == "--list":
        if args.words[1:]:
            raise ConfigError("it stands alone", option="--list", fix=f"remove {' '.join(args.words[1:])}")
        print(list_configs())
        return
    launcher_options, (name, *recipe_options) = parted(args.words)
    config = resolve_config(name)
    recipe = recipe_of(config)
    launch([*launcher_options, "-m", f"hfcap.recipes.{recipe}", "--config", str(config), *recipe_options])


def parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part the words of the command into the launcher's options, and the configuration with the recipe's options.

    The configuration is the first word, the first behind options of the launcher, or the value of `--config`.

    Raises:
        ConfigError: there is no configuration where one is looked for, or there are two.
    """
    launcher_options, rest = split_options(words)
    config = take_config(rest)
    stands_first = bool(rest) and not rest[0].startswith("-")
    if config is not None and stands_first:
        raise ConfigError(option="CONFIG", got=[rest[0], config], wanted="one file")
    if config is None and not stands_first:
        raise ConfigError(
            "missing",
            option="CONFIG",
            fix="pass a YAML file, or the name of a shipped one (`hfcap train --list`), in front of the recipe's "
            "options: hfcap train CONFIG --max_steps 100",
        )
    return launcher_options, rest if config is None else [config, *rest]


def list_configs() -> str:
    """Name, recipe and first comment of each shipped configuration, one per line."""
    configs = sorted((CONFIGS / "train").glob("*.yaml"))
    width = max(len(path.stem) for path in configs)
    return "\n".join(f"{path.stem:<{width}}  {recipe_of(path):<13}  {_phrase(path)}" for path in configs)


def _phrase(path: Path) -> str:
    """First sentence of the comment that a configuration begins with."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        lines.append(line.removeprefix("# "))
        if line.endswith("."):
            break
    return " ".join(lines).partition(". ")[0].rstrip(".")


def resolve_config(name: str) -> Path:
    """Path of a configuration that is given as a file or as the name of a shipped one.

    Raises:
        ConfigError: neither.
    """
    for path in (find_config(name), CONFIGS / "train" / f"{name}.yaml"):
        if path.is_file():
            return path
    shipped = [path.stem for path in (CONFIGS / "train").glob("*.yaml")]
    near = get_close_matches(Path(name).stem, shipped, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(
        "no such file, and no shipped configuration of this name",
        option="CONFIG",
        got=name,
        fix=f"{hint}`hfcap train --list` shows the shipped ones",
    )


def recipe_of(config: Path) -> str:
    """Name of the recipe that a configuration is for, its key `recipe`.

    Raises:
        ConfigError: it has no such key, or names no recipe of hfcap.
    """
    recipe = read_config(config).get("recipe")
    known = sorted(path.stem for path in RECIPES.glob("train*.py"))
    if recipe not in known:
        raise ConfigError(
            "missing" if recipe is None else None,
            option="recipe",
            got=recipe,
            wanted=f"one of {', '.join(known)}",
            fix=f"set it in {config}",
        )
    return recipe


def split_options(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part options into those of accelerate's launcher and those of the recipe; a name that both have is the recipe's.

    Returns:
        Options of the launcher, options of the recipe.
    """
    from accelerate.commands.launch import launch_command_parser

    from hfcap.training.arguments import CaptionTrainingArguments, QLoraArguments
    from hfcap.training.data_arguments import DataArguments

    own = {f.name for part in (DataArguments, QLoraArguments, CaptionTrainingArguments) for f in fields(part)}
    launcher = {
        name: action
        for action in launch_command_parser()._actions
        for name in action.option_strings
        if name.lstrip("-").replace("-", "_") not in own | {"help", "h", "module", "m"}
    }
    parts: tuple[list[str], list[str]] = ([], [])
    rest = list(options)
    while rest:
        option = rest.pop(0)
        name, has_value = option.partition("=")[0], "=" in option
        part = parts[0] if name in launcher else parts[1]
        part.append(option)
        if name in launcher:
            if not has_value and launcher[name].nargs != 0 and rest:
                part.append(rest.pop(0))
            continue
        while rest and not rest[0].startswith("--"):
            part.append(rest.pop(0))
    return parts


def launch(arguments: Iterable[str]) -> None:
    """Run accelerate's launcher; a recipe that fails has said why, so that only its exit code is passed on.

    Its list of options that were left at their defaults is not shown. Several processes are started on a CPU too,
    where the launcher starts one, whatever `--num_processes` says.

    Raises:
        ConfigError: `--config_file` names no file, or several processes are to leave GPUs alone.
    """
    import torch
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("accelerate.commands.launch").setLevel(logging.ERROR)
    args = launch_command_parser().parse_args(list(arguments))
    if args.config_file is not None:
        args.config_file = str(find_config(args.config_file))
        if not Path(args.config_file).is_file():
            raise ConfigError(
                "no such file", option="--config_file", got=args.config_file, fix="configs/accelerate/ has some"
            )
    elif (args.num_processes or 1) > 1 and not (
        args.use_deepspeed or args.use_fsdp or args.use_megatron_lm or args.tpu
    ):
        if args.cpu and torch.cuda.is_available():
            raise ConfigError(
                "--cpu starts one process",
                option="--num_processes",
                got=args.num_processes,
                fix="remove one of the two",
            )
        args.multi_gpu, args.cpu = True, False
    try:
        launch_command(args)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except ChildFailedError as error:
        sys.exit(error.get_first_failure()[1].exitcode)
