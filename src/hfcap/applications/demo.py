"""`hfcap demo`: check the options, load the captioner, and serve the page on the loopback interface until it is ended.

Nothing leaves the machine: no share link, no analytics, no fonts or scripts from elsewhere. Uploads lie in a temporary
folder of the command's own, which goes when it ends.
"""

import os
import signal
import socket
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from hfcap import runs
from hfcap.applications.demo_review import ReviewFile
from hfcap.atomic_files import only_writer
from hfcap.errors import ConfigError

if TYPE_CHECKING:
    import gradio

    from hfcap.applications.policy import Policy
    from hfcap.applications.review_queue import ReviewQueue

HOST = "127.0.0.1"
DECISIONS = "decisions.jsonl"  # as of `hfcap moderate review`


def run_demo(args: Namespace) -> None:
    """Serve the page of `hfcap demo` until Ctrl+C, SIGTERM or SIGHUP.

    Raises:
        ConfigError: Gradio or RapidOCR is not installed, or the model, the port or the file to review is wrong.
    """
    runs.resolve_model(args.model)
    review = None if args.review is None else ReviewFile(args.review)
    with (
        moderation_queue(args) as moderation,
        listening(args.port) as listener,
        tempfile.TemporaryDirectory(prefix="hfcap-demo-") as folder,
    ):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # an exception, so that the folder is removed
        if hasattr(signal, "SIGHUP"):  # not on Windows
            signal.signal(signal.SIGHUP, _as_sigterm)
        _import_gradio(folder)
        from hfcap.applications.demo_captioner import Captioner
        from hfcap.applications.demo_page import build_page

        serve(build_page(Captioner(args), review, moderation), listener)


@contextmanager
def moderation_queue(args: Namespace) -> "Iterator[tuple[ReviewQueue, Policy] | None]":
    """Give the queue of `args.tags` and its policy, and keep other commands from its decisions; None without tags.

    Raises:
        ConfigError: a file that is wrong, decisions by another policy, or another command writes them.
    """
    if args.tags is None:
        yield None
        return
    from hfcap.applications.decisions import read_decisions
    from hfcap.applications.review_queue import ReviewQueue
    from hfcap.applications.tag_rows import read_tags
    from hfcap.applications.threshold_file import read_thresholds, tags_without_threshold

    tags = read_tags(args.tags)
    policy = tags.read_policy(args.policy)
    thresholds = read_thresholds(args.thresholds, tags) if args.thresholds else None
    if (note := tags_without_threshold(thresholds, tags.names)) is not None:
        print(note, file=sys.stderr)
    decisions = args.decisions or DECISIONS
    with only_writer(decisions):
        log = read_decisions(decisions, policy.sha256)
        log.repair()
        yield ReviewQueue(tags, log, tags.chosen(None), thresholds), policy


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """Listen on a port of the loopback interface, from before the weights are loaded.

    Raises:
        ConfigError: another process has the port, or it may not be opened.
    """
    with socket.socket() as listener:
        if os.name == "posix":  # a port that was just closed is free; elsewhere this would share one that is in use
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen()
        except OSError as error:
            raise ConfigError(error.strerror, option="--port", got=port, fix="pass another one") from error
        yield listener


def _as_sigterm(_number: int, _frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGTERM)  # which the server takes, once it is there


def _import_gradio(folder: str) -> None:
    """Import Gradio, which reads these settings when it is imported. Raises ConfigError where it is not installed."""
    os.environ["GRADIO_TEMP_DIR"] = folder
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ConfigError(f'hfcap demo needs Gradio ({error}): pip install "hfcap[demo]"') from error


def serve(page: "gradio.Blocks", listener: socket.socket) -> None:
    """Serve a page of `hfcap.applications.demo_page` until a signal ends the process.

    By uvicorn itself: `Blocks.launch` asks its own address whether it is there, through a proxy where one is set, and
    gives up after three seconds on a busy machine.
    """
    import uvicorn
    from fastapi import FastAPI

    from hfcap.applications.demo_page import mounted

    host, port = listener.getsockname()
    app = mounted(FastAPI(openapi_url=None), page, host, port)
    # A window that is open would keep the server waiting.
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    print(f"http://{host}:{port}/ (Ctrl+C ends it)", flush=True)
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
