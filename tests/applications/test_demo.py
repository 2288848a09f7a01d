"""`hfcap demo`: what its command refuses, and the functions behind the tabs Describe and Suggest."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from argparse import Namespace

import pytest

from hfcap import cli
from hfcap.applications.demo_captioner import NO_PHOTO, Captioner
from hfcap.applications.describe import NOTICE
from hfcap.errors import WorkError


@pytest.fixture
def folder(tmp_path, monkeypatch, scene_rows, build_tiny):
    """A captioner and a photo in the working directory."""
    monkeypatch.chdir(tmp_path)
    model, processor = build_tiny("encoder_decoder")
    model.generation_config.max_new_tokens = 12
    model.save_pretrained("run/model")
    processor.save_pretrained("run/model")
    scene_rows[0]["image"].save("a.png")
    # A tiny model hardly ever ends a caption by itself.
    monkeypatch.setattr("hfcap.applications.suggest_captions.END_BIAS", {None: 1.5, "short": 1.5, "long": -99.0})
    return tmp_path


@pytest.fixture
def captioner(folder):
    return Captioner(Namespace(model="run", load_in_4bit=False, ocr=False, people="neutral", prompt=None))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_tabs_say_what_the_commands_say(captioner, capsys):
    cli.main(["caption", "a.png", "--model", "run", "--describe"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == NOTICE
    assert captioner.describe("a.png") == lines
    cli.main(["suggest", "a.png", "--model", "run", "--json", "-n", "3"])
    row = json.loads(capsys.readouterr().out)
    assert captioner.suggest("a.png", 3, None) == [suggestion["caption"] for suggestion in row["suggestions"]]


def test_text_that_was_read_surely_is_described(captioner):
    class Reader:
        def read(self, path):
            assert path == "a.png"
            return [{"text": "STOP", "quoted": True}, {"text": "ST0P", "quoted": False}]

    captioner.reader = Reader()
    assert "Reads: “STOP”." in captioner.describe("a.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no picture", "no picture, or a format that cannot be read"),
        (b"", "an empty file"),
        (b"cut", "image file is truncated"),
        (b"large", "it has too many pixels"),
    ],
)
def test_a_photo_that_cannot_be_read_is_said(captioner, folder, monkeypatch, content, message):
    whole = (folder / "a.png").read_bytes()
    (folder / "b.png").write_bytes({b"cut": whole[: len(whole) // 2], b"large": whole}.get(content, content))
    if content == b"large":
        monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)
    for ask in (captioner.describe, lambda path: captioner.suggest(path, 2, None)):
        with pytest.raises(WorkError, match=message):
            ask("b.png")
    for ask in (captioner.describe, lambda path: captioner.suggest(path, 2, None)):
        with pytest.raises(WorkError, match=NO_PHOTO):
            ask(None)


def test_a_file_that_is_too_large_is_not_read(captioner, monkeypatch):
    monkeypatch.setattr("hfcap.applications.demo_captioner.LARGEST", 100)
    with pytest.raises(WorkError, match="This photo is too large: 0 MB, and 0 MB are the most"):
        captioner.describe("a.png")
    with pytest.raises(WorkError, match="too large"):
        captioner.suggest("a.png", 2, None)


def test_what_the_tabs_show_is_escaped_and_the_caption_is_a_heading():
    pytest.importorskip("gradio", reason='needs pip install "hfcap[demo]"')
    from hfcap.applications.demo_photo_tabs import described

    class Says:
        def __init__(self, *lines):
            self.lines = lines

        def describe(self, path):
            if path is None:
                raise WorkError("<b>")
            return self.lines

    assert described(Says("Notice.", "A <b>.", "Unsure of: b."), "a.png") == (
        '<p>Notice.</p><h3 dir="auto">A &lt;b&gt;.</h3><p>Unsure of: b.</p>'
    )
    assert described(Says(), None) == "<p>&lt;b&gt;</p>"


def test_how_many_suggestions_there_are_is_said(captioner):
    pytest.importorskip("gradio", reason='needs pip install "hfcap[demo]"')
    from hfcap.applications.demo_photo_tabs import suggested

    message, captions = suggested(captioner, "a.png", 2, None)
    assert len(captions) == 2 and "2 suggestions by a program, may be wrong" in message
    message, captions = suggested(captioner, "a.png", 30, None)  # of 20 samples
    assert 2 < len(captions) < 30 and message.startswith(f"<p>{len(captions)} of 30 suggestions")
    assert suggested(captioner, "a.png", 2, "long") == ("<p>No suggestion of this length.</p>", [])
    message, captions = suggested(captioner, None, 2, None)
    assert (message, captions) == (f"<p>{NO_PHOTO}</p>", [])


def refused(capsys, *words):
    """Return the one line of a command line that is refused."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["demo", *words])
    shown = capsys.readouterr()
    assert exit_.value.code == 2 and shown.out == ""
    return shown.err


def test_what_is_wrong_is_one_line_before_any_weights_are_loaded(folder, capsys, monkeypatch):
    monkeypatch.setattr("hfcap.generation.captioners.load_for_command", None)
    (folder / "empty").mkdir()
    (folder / "a.jsonl").write_text('{"image_id": "a", "caption": "b"}\n')
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        busy = refused(capsys, "--model", "run", "--port", str(port))
        assert busy == f"error: --port is {port}: Address already in use; pass another one\n"
    free = ("--port", str(free_port()))
    for words, message in (
        (("--model", "empty"), "empty"),
        (("--model", "run", "--review", "a.jsonl"), "a.jsonl, line 1: id: missing"),
        (("--model", "run", "--review", "a.png"), "a.png, line 1: "),
        (("--model", "run", "--review", "none.jsonl"), "none.jsonl: No such file or directory"),
    ):
        line = refused(capsys, *words, *free)
        assert line.startswith("error: ") and line.count("\n") == 1 and message in line, line
    assert "wanted a number from 1 to 65535" in refused(capsys, "--model", "run", "--port", "0")
    monkeypatch.setitem(sys.modules, "gradio", None)
    line = refused(capsys, "--model", "run", *free)
    assert line.count("\n") == 1 and 'pip install "hfcap[demo]"' in line


WATCHED = """
import socket, sys
connect = socket.socket.connect
def watched(self, address):
    if self.family != socket.AF_UNIX and address[0] != "127.0.0.1":
        print("CALLED", address, flush=True)
    return connect(self, address)
socket.socket.connect = watched
resolve = socket.getaddrinfo
def looked_up(host, *more, **named):
    if host not in (None, "127.0.0.1"):
        print("LOOKED UP", host, flush=True)
    return resolve(host, *more, **named)
socket.getaddrinfo = looked_up
from hfcap.cli import main
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_is_called_and_nothing_is_left(folder, ending):
    """The command as a process of its own, behind a proxy that is not there: no call, no listener but loopback's."""
    pytest.importorskip("gradio", reason='needs pip install "hfcap[demo]"')
    temporary = folder / "temporary"
    temporary.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GRADIO", "HF_"))}
    environment |= {"TMPDIR": str(temporary), "HTTP_PROXY": "http://127.0.0.1:9", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment |= {"GRADIO_SHARE": "true", "GRADIO_SERVER_NAME": "0.0.0.0"}  # neither is followed
    port = free_port()
    command = [sys.executable, "-c", WATCHED, "demo", "--model", "run", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        first = process.stdout.readline()
        try:
            assert first == f"http://127.0.0.1:{port}/ (Ctrl+C ends it)\n"
            assert upload(port, b"a photo") == b"a photo"
            assert any(path.is_file() for path in temporary.rglob("*"))
            assert listeners(process.pid) == {"127.0.0.1"}
        finally:
            process.send_signal(ending)
        assert process.stdout.read() == ""
    assert process.returncode == 0
    assert list(temporary.iterdir()) == []


def upload(port, content):
    """Upload a file as the page does, and read it back."""
    body = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + content + b"\r\n--x--\r\n"
    )
    address = f"http://127.0.0.1:{port}/gradio_api"
    request = urllib.request.Request(f"{address}/upload", body, {"Content-Type": "multipart/form-data; boundary=x"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request) as answer:
        (path,) = json.load(answer)
    with direct.open(f"{address}/file={path}") as answer:
        return answer.read()


def listeners(pid):
    """Return the addresses at which a process listens (Linux)."""
    import psutil

    return {found.laddr.ip for found in psutil.Process(pid).net_connections("inet") if found.status == "LISTEN"}
