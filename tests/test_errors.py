"""Errors of one line: their fields, what is printed, and their way between processes."""

import pickle

import pytest
import torch

from hfcap import processes
from hfcap.errors import ConfigError, VerificationError, WorkError, as_config_error, run_main
from refusals import refused


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"option": "crop", "got": 2, "wanted": "0.5 to 1", "reason": "it cuts", "fix": "remove it"},
            "crop is 2; wanted 0.5 to 1: it cuts; remove it",
        ),
        ({"option": "crop", "got": "x", "wanted": "a number"}, "crop is 'x'; wanted a number"),
        ({"option": "crop", "got": False, "reason": "it cuts"}, "crop is False: it cuts"),
        (
            {"option": "model", "reason": "missing", "wanted": "a folder", "fix": "pass one"},
            "model: missing; wanted a folder; pass one",
        ),
        ({"option": "model", "fix": "pass one"}, "model; pass one"),
        ({"reason": "no room left", "fix": "make room"}, "no room left; make room"),
        ({"option": "crop", "got": "x" * 999}, f"crop is '{'x' * 160}'… (999 characters)"),
    ],
)
@pytest.mark.parametrize("kind", [ConfigError, WorkError, VerificationError])
def test_the_line_is_composed_of_the_fields(kind, fields, line):
    error = kind(**fields)
    assert str(error) == line
    for name in ("option", "got", "wanted", "reason", "fix"):
        assert getattr(error, name) == fields.get(name)


def test_an_error_of_a_library_becomes_one_about_the_option_and_ours_keeps_its_fields(tmp_path):
    with refused(option="--data", reason="a broken file"), as_config_error("--data"):
        raise ValueError("a broken\n  file")
    with refused(option="crop", got=2, wanted="0.5 to 1", fix="remove it"), as_config_error("--data"):
        raise ConfigError(option="crop", got=2, wanted="0.5 to 1", fix="remove it")
    missing = tmp_path / "no.json"
    with refused(option=str(missing), fix="fix or change the path"), as_config_error(kinds=(ValueError, OSError)):
        missing.read_text()
    with pytest.raises(OSError, match=r"no\.json"), as_config_error():
        missing.read_text()


def test_every_process_raises_the_error_of_the_main_one_with_its_fields(monkeypatch):
    class Other:
        is_main_process, num_processes = False, 2

    class Main:
        is_main_process, num_processes = True, 2

    def decide():
        raise ConfigError("it cuts", option="crop", got=2, wanted="0.5 to 1", fix="remove it")

    sent = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.utils.broadcast_object_list", lambda answer: sent.append(pickle.dumps(answer)))
    monkeypatch.setattr("accelerate.PartialState", Main)
    with pytest.raises(ConfigError):
        processes.main_process_decides(decide)

    def receive(answer):
        answer[:] = pickle.loads(sent[0])

    monkeypatch.setattr("accelerate.utils.broadcast_object_list", receive)
    monkeypatch.setattr("accelerate.PartialState", Other)
    with pytest.raises(ConfigError) as raised:
        processes.main_process_decides(decide)
    assert str(raised.value) == "crop is 2; wanted 0.5 to 1: it cuts; remove it"
    assert (raised.value.option, raised.value.got, raised.value.fix) == ("crop", 2, "remove it")


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise ValueError("cut off: at the end")
        except ValueError as error:
            raise WorkError("it cannot be read", option="a.tar", fix="replace it") from error


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_a_loader_process_is_printed_as_its_line(num_workers, capsys):
    with pytest.raises(SystemExit) as ended:
        run_main(lambda: next(iter(torch.utils.data.DataLoader(Broken(), num_workers=num_workers))))
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: a.tar: it cannot be read; replace it\n"
