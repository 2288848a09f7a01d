"""An export answers chat requests through `transformers serve`, where hfcap is not."""

import base64
import io
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from hfcap.hub import snapshot
from hfcap.hub.export import export_run
from hfcap.hub.usage import usage_code

pytestmark = pytest.mark.slow

openai = pytest.importorskip("openai", reason='pip install -e ".[serving]"')
pytest.importorskip("fastapi", reason='pip install -e ".[serving]"')

SERVE = "import sys; sys.modules['hfcap'] = None; from transformers.cli.transformers import main; main()"
LONGEST = 180  # seconds until the server answers


@pytest.fixture
def server(make_run, in_process, tmp_path):
    """Serve a tiny native export; give its folder and the server's address."""
    folder = export_run(make_run(), tmp_path / "ready", "native")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVE, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen([*command, "--device", "cpu"], stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, tmp_path / "server.log")
        yield folder, f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def wait_for(url, process, log):
    end = time.monotonic() + LONGEST
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    pytest.fail(f"the server does not answer: {log.read_text()[-2000:]}")


def test_a_chat_request_with_a_picture_is_answered(server, pictures):
    folder, url = server
    model = AutoModelForImageTextToText.from_pretrained(folder, use_safetensors=True)
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    captions = snapshot.captions(
        usage_code(model.config.model_type, "describe it"), model, processor, pictures, **snapshot.GREEDY
    )
    assert len(set(captions)) > 1
    client = openai.OpenAI(base_url=url, api_key="none", timeout=60, max_retries=0)
    answers = []
    for picture in pictures[:3]:
        file = io.BytesIO()
        picture.save(file, "PNG")
        address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": "describe it"}]
        answer = client.chat.completions.create(
            model=str(folder), messages=[{"role": "user", "content": content}], max_tokens=8
        )
        answers.append(answer.choices[0].message.content.strip())
    assert answers == captions[:3]
