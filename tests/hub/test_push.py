"""Uploads to a Hub on this machine, by clients in processes of their own: what arrives, is refused, is resumed."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError, RepositoryNotFoundError

from hfcap.hub.push import upload_error
from hub.local_hub import LocalHub, Repo

CARD = "---\ntags:\n- hfcap\n---\n# A captioner\n"
PUSH = """
import sys
from pathlib import Path
from hfcap.errors import run_main
from hfcap.hub.push import Target, push_folder
options = eval(sys.argv[2])
def main():
    done = push_folder(Path(sys.argv[1]), Target(**options), "Upload a captioner")
    print("PUSHED", done.commit, done.changed, *done.removed)
run_main(main)
"""


@pytest.fixture
def hub():
    with LocalHub() as hub:
        yield hub


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "ready"
    (path / ".eval_results").mkdir(parents=True)
    (path / "README.md").write_text(CARD)
    (path / "config.json").write_text("{}")
    (path / ".eval_results" / "cider.yaml").write_text("- value: 1\n")
    (path / "model.safetensors").write_bytes(os.urandom(300_000))
    (path / "model-2.safetensors").write_bytes(os.urandom(1000))
    return path


@pytest.fixture
def push(hub, folder, tmp_path):
    def run(token="hf_writer", **options):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
        environment |= {"HF_TOKEN": token, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, "-c", PUSH, str(folder), repr({"repo_id": "user/captioner"} | options)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    return run


def test_one_commit_with_every_file_and_nothing_sent_again(hub, push, folder):
    first = push(private=True, tag="v1")
    assert first.returncode == 0, first.stderr
    repo = hub.repos["models/user/captioner"]
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert hub.files("models/user/captioner") == files
    assert len(repo.commits) == 2 and repo.private and repo.tags["v1"] == repo.branches["main"]
    assert sorted(hub.stored) == [1000, 300_000]

    again = push(tag="v1")
    assert again.returncode == 0 and "False" in again.stdout and len(repo.commits) == 2 and len(hub.stored) == 2

    (folder / "config.json").write_text('{"changed": 1}')
    (folder / "model-2.safetensors").unlink()
    changed = push(tag="v1")
    # The stale shard goes in the same commit: loaders would read it. The old tag stays where it is.
    assert "model-2.safetensors" not in hub.files("models/user/captioner") and len(hub.stored) == 2
    assert changed.returncode == 1 and "--tag is 'v1'" in changed.stderr and "is published" in changed.stderr


@pytest.mark.slow  # the client tries again for some 15 seconds before it gives up
def test_finishes_after_a_connection_that_broke_half_way(hub, push, folder):
    hub.cut_upload_at = 0.5
    broken = push()
    said = broken.stderr.splitlines()[-1]  # after the client's own lines on each attempt
    assert broken.returncode == 1 and "Traceback" not in broken.stderr
    assert "broke" in said and "nothing was published" in said and "run the same command again" in said
    assert hub.files("models/user/captioner") == {}
    hub.cut_upload_at = None
    finished = push()
    assert finished.returncode == 0, finished.stderr
    assert hub.files("models/user/captioner")["model.safetensors"] == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "token, options, message",
    [
        ("hf_expired", {}, "invalid or has expired"),
        ("hf_reader", {}, "user/captioner: nothing was published: no write access"),
        ("hf_writer", {"repo_id": "somebody/captioner"}, "somebody/captioner: nothing was published: no write access"),
        ("hf_writer", {"repo_id": "user/gated"}, "no write access"),
        ("hf_writer", {"repo_id": "captioner"}, "pass it as OWNER/captioner"),
        ("hf_writer", {"repo_id": "user/bad name"}, "--repo is 'user/bad name'"),
        ("hf_writer", {"revision": "0" * 40}, "a commit cannot be changed"),
    ],
)
def test_each_refusal_is_one_line_and_publishes_nothing(hub, push, token, options, message):
    hub.expired.add("hf_expired")
    hub.tokens["hf_reader"] = ("user", False)
    gated = hub.repos["models/user/gated"] = Repo(gated=True)
    gated.commit({}, "main")
    hub.tokens["hf_writer"] = ("user" if options.get("repo_id") != "user/gated" else "other", True)
    result = push(token, **options)
    assert result.returncode in (1, 2) and message in result.stderr, result.stderr
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    assert token not in result.stdout + result.stderr
    assert not any(tree for repo in hub.repos.values() for _, tree in repo.commits)


def test_content_of_others_is_not_replaced_unless_asked(hub, push, folder):
    card = b"---\nlicense: mit\n---\n# Something else\n"
    other = hub.repos["models/user/captioner"] = Repo()
    hub.blobs["a" * 40] = card
    other.commit({"README.md": "a" * 40}, "main")
    refused = push()
    assert refused.returncode == 2 and "--overwrite" in refused.stderr
    assert hub.files("models/user/captioner") == {"README.md": card}
    assert push(overwrite=True).returncode == 0
    assert hub.files("models/user/captioner")["README.md"] == CARD.encode()


def test_a_branch_of_its_own(hub, push):
    assert push(revision="experiment").returncode == 0
    assert hub.files("models/user/captioner") == {} and hub.files("models/user/captioner", "experiment")


def test_two_uploads_at_once_are_not_mixed(hub, push):
    hub.overtake = True
    result = push()
    assert result.returncode == 1 and "has changed in the meantime; run again" in result.stderr
    assert hub.files("models/user/captioner") == {}
    hub.overtake = False
    assert push().returncode == 0


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "weights.pkl"])
def test_pickles_stay_here(hub, push, folder, name):
    (folder / name).write_bytes(b"x")
    result = push()
    assert result.returncode == 2 and name in result.stderr and hub.repos == {}


def test_links_out_of_the_folder_stay_here(hub, push, folder, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "notes.txt").symlink_to(tmp_path / "secret.txt")
    result = push()
    assert result.returncode == 2 and "outside of the folder" in result.stderr and hub.repos == {}


@pytest.mark.parametrize(
    ("kind", "status", "reason", "fix"),
    [
        (GatedRepoError, 403, "gated", "ask its owner"),
        (HfHubHTTPError, 401, "token", "set HF_TOKEN"),
        (HfHubHTTPError, 403, "no write access", "write access to 'user'"),
        (RepositoryNotFoundError, 404, "no such repository", "check the name"),
        (HfHubHTTPError, 412, "in the meantime", "run again"),
    ],
)
def test_what_the_hub_refuses_has_a_reason_and_a_fix(kind, status, reason, fix):
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    error = upload_error(kind("refused", response=response), "user/captioner", "https://hub")
    assert error.option == "user/captioner"
    assert reason in error.reason and fix in error.fix and "nothing was published" in error.reason


def test_a_broken_connection_is_found_behind_other_errors():
    error = RuntimeError("upload failed")
    error.__cause__ = HTTPError("gone")
    said = upload_error(error, "user/captioner", "https://hub")
    assert "https://hub broke (HTTPError: gone)" in said.reason and "run the same command again" in said.fix
