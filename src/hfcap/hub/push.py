"""Upload of a folder to the Hub in one commit.

The files go to the Hub's storage first and become visible with the commit, the last request: a connection that breaks
before leaves the repository as it was, and the next run sends only what is not stored yet.

The access token comes from `HF_TOKEN` or from `hf auth login`, never from an option: command lines are kept in shell
histories and in `run.json`.
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError, RepositoryNotFoundError
from huggingface_hub.utils import HFValidationError, validate_repo_id

from hfcap import runs
from hfcap.checkpoint_files import PICKLE_SUFFIXES
from hfcap.errors import ConfigError, WorkError
from hfcap.hub.card_metadata import HFCAP_TAG

# Files of an earlier upload that `from_pretrained` or `load_dataset` would still read, and read wrongly beside the new
# ones: an adapter beside merged weights is applied a second time, a surplus shard is loaded. The commit removes them.
READ_BY_LOADERS = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.py", "*.model", "*.txt", "*.parquet", "*.onnx")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Target:
    """Where an upload goes.

    Attributes:
        repo_id: "user/name" or "organization/name"; made if it does not exist.
        repo_type: what the repository holds.
        private: whether a repository made here is private; one that exists keeps its visibility.
        revision: branch to commit to, made from `main` if it does not exist.
        tag: name to give the commit.
        overwrite: take over a repository whose content hfcap has not written.

    Raises:
        ConfigError: `repo_id` has no valid form, or `revision` is a commit.
    """

    repo_id: str
    repo_type: Literal["model", "dataset"] = "model"
    private: bool = False
    revision: str = "main"
    tag: str | None = None
    overwrite: bool = False

    def __post_init__(self):
        try:
            validate_repo_id(self.repo_id)
        except HFValidationError as error:
            raise ConfigError(str(error), option="--repo", got=self.repo_id) from None
        if "/" not in self.repo_id:
            raise ConfigError(
                "the owner is missing", option="--repo", got=self.repo_id, fix=f"pass it as OWNER/{self.repo_id}"
            )
        if _COMMIT.fullmatch(self.revision):
            raise ConfigError(
                "a commit cannot be changed", option="--revision", got=self.revision, fix="pass the name of a branch"
            )


@dataclass(frozen=True)
class Push:
    """What an upload did.

    Attributes:
        url: address of the repository.
        commit: its newest commit (40 hex digits).
        changed: whether a commit was made; without a change there is none.
        removed: files of an earlier upload that were taken out.
    """

    url: str
    commit: str
    changed: bool
    removed: tuple[str, ...]

    def __str__(self) -> str:
        """Say it in a line or two, for people."""
        removed = f"Removed from the repository, since loaders would read them: {', '.join(self.removed)}\n"
        state = "at commit" if self.changed else "is up to date at"
        return f"{removed if self.removed else ''}{self.url} {state} {self.commit}"


def push_folder(folder: Path, target: Target, message: str) -> Push:
    """Bring a repository to the state of `folder` in one commit titled `message`.

    Running again after a break finishes; without a change it sends nothing.

    Raises:
        ConfigError: a folder that is not fit to be published, or a repository of other content.
        WorkError: the Hub refused or the connection broke: one line that says what to do.
    """
    paths = files_to_publish(folder)
    api = HfApi()
    try:
        return _push(api, {path.relative_to(folder).as_posix(): path for path in paths}, target, message)
    except WorkError:
        raise
    # A broken upload of a large file comes wrapped in a RuntimeError.
    except (HTTPError, OSError, RuntimeError) as error:
        raise upload_error(error, target.repo_id, str(api.endpoint)) from error


def files_to_publish(folder: Path) -> list[Path]:
    """Files of a folder in order, hidden ones left out.

    Raises:
        ConfigError: no card, a pickle, or a link to a file outside of the folder.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    paths = [
        path for path in paths if path.relative_to(folder).parts[0] == ".eval_results" or not _is_hidden(path, folder)
    ]
    if not (folder / runs.CARD_README).is_file():
        raise ConfigError(f"missing in {folder}", option=runs.CARD_README, fix="write the card first")
    for path in paths:
        if path.suffix in PICKLE_SUFFIXES:
            raise ConfigError(
                "it may hold a pickle, which runs code when it is loaded",
                option=str(path),
                fix="publish safetensors only",
            )
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(
                f"a link to {path.resolve()}, outside of the folder",
                option=str(path),
                fix="copy the file, or remove the link",
            )
    return paths


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _push(api: HfApi, files: dict[str, Path], target: Target, message: str) -> Push:
    repo = {"repo_id": target.repo_id, "repo_type": target.repo_type}
    url = api.create_repo(**repo, private=target.private or None, exist_ok=True)
    if target.revision != "main":
        api.create_branch(**repo, branch=target.revision, exist_ok=True)
    info = api.repo_info(**repo, revision=target.revision)
    there = {sibling.rfilename for sibling in info.siblings or []}
    if there - {".gitattributes"} and not target.overwrite and not _is_ours(api, target, there):
        raise ConfigError(
            f"it exists, and its content is not from hfcap (no tag {HFCAP_TAG!r} in its card)",
            option="--repo",
            got=target.repo_id,
            fix="choose another name, or pass --overwrite to replace it",
        )
    stale = sorted(path for path in there - set(files) if any(fnmatch(path, kind) for kind in READ_BY_LOADERS))
    commit = api.create_commit(
        **repo,
        operations=[
            *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path)) for name, path in files.items()),
            *(CommitOperationDelete(path_in_repo=path) for path in stale),
        ],
        commit_message=message,
        revision=target.revision,
        # Two uploads at a time: the second is refused and not mixed with the first.
        parent_commit=info.sha,
    )
    if target.tag is not None:
        _tag(api, repo, target, commit.oid)
    return Push(str(url), commit.oid, commit.oid != info.sha, tuple(stale))


def _tag(api: HfApi, repo: dict[str, str], target: Target, commit: str) -> None:
    try:
        api.create_tag(**repo, tag=target.tag, revision=commit)
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        tagged = api.repo_info(**repo, revision=target.tag).sha
        if tagged != commit:
            raise WorkError(
                f"{target.repo_id} is published as commit {commit}, but this tag is on {tagged} already",
                option="--tag",
                got=target.tag,
                fix="run again with another --tag",
            ) from error


def _is_ours(api: HfApi, target: Target, there: set[str]) -> bool:
    if runs.CARD_README not in there:
        return False
    path = api.hf_hub_download(
        target.repo_id, runs.CARD_README, repo_type=target.repo_type, revision=target.revision, force_download=True
    )
    return HFCAP_TAG in (RepoCard.load(path).data.get("tags") or [])


def upload_error(error: Exception, repo_id: str, endpoint: str) -> WorkError:
    """Make the error that says what the Hub's refusal, or a broken connection, means and what to do about it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HTTPError):
        cause = cause.__cause__
    if isinstance(cause, HfHubHTTPError):
        reason, fix = _refusal(cause, repo_id)
    elif cause is not None:
        reason = f"the connection to {endpoint} broke ({type(cause).__name__}: {cause or 'no answer'})"
        fix = "run the same command again, which does not resend what has arrived"
    else:
        reason, fix = f"upload failed: {error}", None
    return WorkError(f"nothing was published: {reason}", option=repo_id, fix=fix)


def _refusal(error: HfHubHTTPError, repo_id: str) -> tuple[str, str | None]:
    """Return why the Hub refused, and what to do about it."""
    status, said = error.response.status_code, error.server_message or str(error).splitlines()[0]
    owner = repo_id.split("/")[0]
    if isinstance(error, GatedRepoError):
        return "the repository is gated", "ask its owner for access on its page, then run again"
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        fix = "create one with write access and set HF_TOKEN, or log in again"
        return "the access token is invalid or has expired", fix
    if status in (401, 403):
        return f"no write access ({said})", f"use a token with write access to {owner!r}, or another --repo"
    if status == 404:
        return "no such repository, or this token may not see it", "check the name and the token"
    if status == 412:
        return "the repository has changed in the meantime", "run again"
    return f"the Hub answered {status}: {said}", None
