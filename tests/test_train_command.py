"""`hfcap train`: configurations by name, options parted between accelerate's launcher and the recipe."""

import subprocess
import sys

import pytest
import yaml

from hfcap import cli, train_cli
from hfcap.shipped import CONFIGS
from hfcap.training.parsing import parse_arguments
from hfcap.training.scst import ScstArguments
from refusals import refused


def test_every_shipped_configuration_is_listed_with_its_recipe_and_a_phrase(capsys):
    cli.main(["train", "--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in (CONFIGS / "train").glob("*.yaml"))
    assert all(len(line.split(maxsplit=2)) == 3 for line in lines)
    assert any(line.split()[:2] == ["flickr8k_scst", "train_scst"] for line in lines)


def test_listing_loads_neither_torch_nor_transformers():
    code = (
        "import sys; from hfcap import cli; cli.main(['train', '--list']);"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert process.stdout.splitlines()[-1] == "[]", process.stderr


def test_options_are_parted():
    options = ["--num_processes", "2", "--cpu", "--lora_r=8", "--max_steps", "3", "--config_file=a.yaml"]
    options += ["--gradient_accumulation_steps", "4", "--debug", "underflow_overflow", "--num-machines", "1"]
    launcher, recipe = train_cli.split_options(options)
    assert launcher == ["--num_processes", "2", "--cpu", "--config_file=a.yaml", "--num-machines", "1"]
    # Both know the last two; the recipe's meaning counts.
    assert recipe == [
        *("--lora_r=8", "--max_steps", "3", "--gradient_accumulation_steps", "4"),
        *("--debug", "underflow_overflow"),
    ]


def test_the_launcher_gets_module_configuration_and_options(tmp_path, monkeypatch):
    launched = []
    monkeypatch.setattr(train_cli, "launch", lambda arguments: launched.append(list(arguments)))
    own = tmp_path / "own.yaml"
    own.write_text("recipe: train\nmax_steps: 3\n")
    cli.main(["train", str(own), "--num_processes", "2", "--max_steps", "5"])
    cli.main(["train", "scenes_qlora"])
    assert launched == [
        [*("--num_processes", "2", "-m", "hfcap.recipes.train", "--config", str(own)), "--max_steps", "5"],
        ["-m", "hfcap.recipes.train_qlora", "--config", str(CONFIGS / "train" / "scenes_qlora.yaml")],
    ]


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["--num_processes", "2", "scenes_base", "--max_steps", "5"], ["--max_steps", "5"]),
        (["--cpu", "--num_processes=2", "scenes_base"], []),
        (["--config", "scenes_base", "--num_processes", "2", "--max_steps", "5"], ["--max_steps", "5"]),
        (["--max_steps", "5", "--config=scenes_base", "--num_processes", "2"], ["--max_steps", "5"]),
    ],
)
def test_the_configuration_may_follow_options_of_the_launcher_or_be_named(words, options, monkeypatch):
    launched = []
    monkeypatch.setattr(train_cli, "launch", lambda arguments: launched.append(list(arguments)))
    cli.main(["train", *words])
    config = str(CONFIGS / "train" / "scenes_base.yaml")
    assert launched[0][-len(options) - 4 :] == ["-m", "hfcap.recipes.train", "--config", config, *options]
    assert {"--num_processes", "--num_processes=2"} & set(launched[0][: -len(options) - 4])


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ([], {"option": "CONFIG", "reason": "missing", "says": "hfcap train --list"}),
        (["--num_processes", "2"], {"option": "CONFIG", "reason": "missing"}),
        (["--max_steps", "5", "scenes_base"], {"option": "CONFIG", "says": "in front of the recipe's options"}),
        (["a.yaml", "--config", "b.yaml"], {"option": "CONFIG", "got": ["a.yaml", "b.yaml"], "wanted": "one file"}),
        (["--config"], {"option": "--config", "wanted": "a YAML file"}),
        (["--list", "scenes_base"], {"option": "--list", "fix": "remove scenes_base"}),
    ],
)
def test_a_missing_configuration_or_a_second_one_is_refused(words, fields):
    args = cli.make_parser().parse_args(["train", *words])
    with refused(**fields):
        args.run(args)


def test_help_of_the_command_and_of_the_recipe(capsys, monkeypatch):
    cli.main(["train", "--help"])
    assert "hfcap train CONFIG" in capsys.readouterr().out
    launched = []
    monkeypatch.setattr(train_cli, "launch", lambda arguments: launched.append(list(arguments)))
    cli.main(["train", "scenes_base", "--help"])
    assert launched[0][-1] == "--help"


@pytest.mark.parametrize(
    ("text", "got"),
    [("max_steps: 3\n", None), ("recipe: train_rl\n", "train_rl")],
)
def test_a_configuration_names_its_recipe(tmp_path, text, got):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    wanted = "one of train, train_dpo, train_encoder, train_qlora, train_scst, train_tagger"
    with refused(option="recipe", got=got, wanted=wanted, fix=f"set it in {path}"):
        train_cli.recipe_of(path)


def test_an_unknown_configuration_is_named_with_the_nearest():
    with refused(option="CONFIG", got="scenes_qlra", says="did you mean 'scenes_qlora'?"):
        train_cli.resolve_config("scenes_qlra")


def test_a_recipe_refuses_the_configuration_of_another(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("recipe: train\nmax_steps: 3\n")
    with refused(option="recipe", got="train", wanted="train_scst", fix="use recipes/train.py"):
        parse_arguments(ScstArguments, argv=["--config", str(path)], recipe="train_scst")


def test_the_exit_code_of_a_recipe_is_passed_on(tmp_path):
    """Two: a wrong setting, said in one line; accelerate would add a traceback of its own."""
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({"recipe": "train", "learning_rat": 1.0}))
    process = subprocess.run(
        [sys.executable, "-m", "hfcap.cli", "train", str(path), "--cpu"], capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 2
    assert f"error: learning_rat: unknown key in {path}; did you mean 'learning_rate'?" in process.stderr
    assert "Traceback" not in process.stderr


def launcher_arguments(monkeypatch, *options):
    """What accelerate's launcher is called with."""
    called = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", called.append)
    train_cli.launch([*options, "-m", "hfcap.recipes.train"])
    return called[0]


@pytest.mark.parametrize("more", [[], ["--cpu"]])
def test_several_processes_are_started_without_gpus_too(monkeypatch, more):
    """Left alone, the launcher starts one process there, and says nothing."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    args = launcher_arguments(monkeypatch, "--num_processes", "2", *more)
    assert (args.num_processes, args.multi_gpu, args.cpu) == (2, True, False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with refused(option="--num_processes", got=2, says="--cpu"):
        launcher_arguments(monkeypatch, "--num_processes", "2", "--cpu")


def test_a_configuration_of_the_launcher_is_found_among_the_shipped_ones_or_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    args = launcher_arguments(monkeypatch, "--config_file", "configs/accelerate/ddp.yaml")
    assert args.config_file == str(CONFIGS / "accelerate" / "ddp.yaml")
    with refused(option="--config_file", says=("none.yaml", "no such file")):
        launcher_arguments(monkeypatch, "--config_file", "none.yaml")
