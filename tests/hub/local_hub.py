"""A Hub on this machine for tests: the endpoints that huggingface_hub's client calls, over real HTTP, kept in memory.

Clients are real ones in processes of their own, with `HF_ENDPOINT` set to `LocalHub.url` and `HF_HUB_DISABLE_XET=1`
(with Xet, uploads would go to a storage service that speaks another protocol). Requests and answers have the shapes of
huggingface_hub 2.4's client and of https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".safetensors", ".onnx", ".parquet", ".bin", ".tar")
TIME = "2025-01-01T00:00:00.000Z"


@dataclass
class Repo:
    """A repository: its commits, each a whole tree {path: blob key}, and the names of some of them."""

    private: bool = False
    gated: bool = False
    commits: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # (oid, tree), oldest first
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, tree: dict[str, str], branch: str) -> str:
        content = json.dumps([len(self.commits), sorted(tree.items())])
        oid = hashlib.sha1(content.encode()).hexdigest()
        self.commits.append((oid, tree))
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> tuple[str, dict[str, str]] | None:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return next(((o, tree) for o, tree in self.commits if o == oid), None)


@dataclass
class LocalHub:
    """State of the server; tests read it, and set the faults.

    Attributes:
        tokens: token -> (user, may write).
        expired: tokens that were valid once.
        repos: by "models/user/name".
        moved: "user/name" that a repository had -> the one that it has; requests are sent on.
        blobs: contents by key: sha256 of an LFS file, git's sha1 of a regular one.
        requests: ("METHOD", path) of each request, in order.
        stored: sizes of the LFS files received whole, in order.
        cut_upload_at: break the connection of an LFS upload after this share of its bytes; None: never.
        overtake: let somebody else commit right before each commit.
    """

    tokens: dict[str, tuple[str, bool]] = field(default_factory=lambda: {"hf_writer": ("user", True)})
    expired: set[str] = field(default_factory=set)
    repos: dict[str, Repo] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    cut_upload_at: float | None = None
    overtake: bool = False

    def __enter__(self) -> "LocalHub":
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Contents of a repository ("models/user/name") by path."""
        _, tree = self.repos[repo].resolve(revision)
        return {path: self.blobs[key] for path, key in tree.items()}


class Refusal(Exception):
    """An answer that is an error, as the Hub words it."""

    def __init__(self, status: int, message: str, code: str | None = None):
        self.status, self.message, self.code = status, message, code


class Handler(BaseHTTPRequestHandler):
    """One request; the route is the first pattern that matches."""

    hub: LocalHub
    protocol_version = "HTTP/1.1"
    REPO = r"(?P<kind>models|datasets)/(?P<name>[\w.-]+/[\w.-]+)"
    ROUTES = (
        ("POST", r"/api/repos/create", "create_repo"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("POST", rf"/api/{REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", r"/(?P<kind>datasets/)?(?P<name>[\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_upload"),
        ("POST", rf"/api/{REPO}/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", rf"/api/{REPO}/branch/(?P<revision>[^/]+)", "create_branch"),
        ("POST", rf"/api/{REPO}/tag/(?P<revision>[^/]+)", "create_tag"),
        ("GET", rf"/api/{REPO}(/revision/(?P<revision>[^/]+))?", "info"),
        ("GET", rf"/api/{REPO}/tree/(?P<revision>[^/]+)(/(?P<path>.*))?", "tree"),
        ("GET", r"/(?P<kind>datasets/)?(?P<name>[\w.-]+/[\w.-]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "file"),
    )

    def handle_any(self) -> None:
        self.hub.requests.append((self.command, self.path))
        method = "GET" if self.command == "HEAD" else self.command
        try:
            for wanted, pattern, name in self.ROUTES:
                # A revision is one quoted segment (`refs%2Fconvert`): match before unquoting.
                match = re.fullmatch(pattern, urlsplit(self.path).path)
                if wanted == method and match:
                    old = match.groupdict().get("name")
                    if old in self.hub.moved:
                        location = self.path.replace(f"/{old}", f"/{self.hub.moved[old]}", 1)
                        return self.answer(b"", 307, {"Location": location})
                    parts = {k: unquote(v) if v is not None else None for k, v in match.groupdict().items()}
                    getattr(self, name)(**parts)
                    return
            raise Refusal(404, f"no such endpoint: {method} {self.path}")
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self.answer({"error": refusal.message}, refusal.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def log_message(self, *_) -> None:
        """Stay silent: `LocalHub.requests` keeps them."""

    def answer(self, body: object, status: int = 200, headers: dict | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def user(self, must_write: bool = False) -> str | None:
        """The caller; a refusal for a bad token, or for one without the right to write."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token in self.hub.expired or (token and token not in self.hub.tokens):
            self.body()
            raise Refusal(401, "Invalid credentials in Authorization header")
        user, may_write = self.hub.tokens.get(token, (None, False))
        if must_write and not may_write:
            self.body()
            raise Refusal(401 if user is None else 403, "You need a token with write access")
        return user

    def repo(self, kind: str | None, name: str, must_write: bool = False) -> Repo:
        user = self.user(must_write)
        repo = self.hub.repos.get(f"{(kind or 'models').strip('/')}/{name}")
        owner = name.split("/")[0]
        if repo is None or (repo.private and user != owner):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if must_write and user != owner:
            raise Refusal(403, f"You don't have the rights to write to {name}")
        if repo.gated and user != owner:
            raise Refusal(403 if user else 401, f"Access to {name} is restricted", "GatedRepo")
        return repo

    def at(self, repo: Repo, revision: str | None) -> tuple[str, dict[str, str]]:
        if (found := repo.resolve(revision or "main")) is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def create_repo(self) -> None:
        user, wanted = self.user(must_write=True), json.loads(self.body())
        owner = wanted.get("organization") or user
        if owner != user:
            raise Refusal(403, f"You don't have the rights to create a model under the namespace {owner!r}")
        key = f"{wanted.get('type') or 'model'}s/{owner}/{wanted['name']}"
        prefix = "datasets/" if key.startswith("datasets/") else ""
        url = {"url": f"{self.hub.url}/{prefix}{owner}/{wanted['name']}"}
        if key in self.hub.repos:
            return self.answer({"error": "You already created this repo", **url}, 409)
        repo = self.hub.repos[key] = Repo(private=wanted.get("visibility") == "private")
        repo.commit({}, "main")
        self.answer(url)

    def validate_yaml(self) -> None:
        content = json.loads(self.body())["content"]
        match = re.match(r"---\r?\n(.*?)\r?\n---", content, re.DOTALL)
        try:
            yaml.safe_load(match.group(1) if match else "")
        except yaml.YAMLError as error:
            self.answer({"errors": [{"message": str(error)}], "warnings": []}, 400)
        else:
            self.answer({"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        repo, wanted = self.repo(kind, name, must_write=True), json.loads(self.body())
        _, tree = self.at(repo, revision)
        files = []
        for path in (one["path"] for one in wanted["files"]):
            mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": tree.get(path)})
        self.answer({"files": files})

    def lfs_batch(self, kind: str | None, name: str) -> None:
        self.repo(kind, name, must_write=True)
        objects = []
        for one in json.loads(self.body())["objects"]:
            action = {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}}
            objects.append({**one, **({} if one["oid"] in self.hub.blobs else action)})
        self.answer({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> None:
        if self.hub.cut_upload_at is not None:
            self.rfile.read(int(int(self.headers["Content-Length"]) * self.hub.cut_upload_at))
            self.close_connection = True
            return self.connection.close()
        self.hub.blobs[oid] = data = self.body()
        assert hashlib.sha256(data).hexdigest() == oid, "the content does not match its oid"
        self.hub.stored.append(len(data))
        self.answer({})

    def commit(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name, must_write=True)
        lines = [json.loads(line) for line in self.body().splitlines() if line.strip()]
        if self.hub.overtake:
            repo.commit(self.at(repo, revision)[1], revision)
        oid, tree = self.at(repo, revision)
        tree = dict(tree)
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") not in (None, oid):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            if line["key"] == "file":
                data = base64.b64decode(value["content"])
                tree[value["path"]] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                self.hub.blobs[tree[value["path"]]] = data
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    raise Refusal(400, f"Your push was rejected: LFS object {value['oid']} was not uploaded")
                tree[value["path"]] = value["oid"]
            elif line["key"] == "deletedFile":
                del tree[value["path"]]
        oid = repo.commit(tree, revision)
        self.answer({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})

    def create_branch(self, kind: str, name: str, revision: str) -> None:
        repo, wanted = self.repo(kind, name, must_write=True), json.loads(self.body() or b"{}")
        if revision in repo.branches:
            raise Refusal(409, "Reference already exists")
        repo.branches[revision] = self.at(repo, wanted.get("startingPoint"))[0]
        self.answer({})

    def create_tag(self, kind: str, name: str, revision: str) -> None:
        repo, tag = self.repo(kind, name, must_write=True), json.loads(self.body())["tag"]
        if tag in repo.tags:
            raise Refusal(409, "Tag reference exists already")
        repo.tags[tag] = self.at(repo, revision)[0]
        self.answer({})

    def info(self, kind: str, name: str, revision: str | None) -> None:
        oid, tree = self.at(repo := self.repo(kind, name), revision)
        shown = {"lfs"} if "blobs" in parse_qs(urlsplit(self.path).query) else set()
        entries = {path: self.entry(path, key) for path, key in sorted(tree.items())}
        files = [{"rfilename": path} | {k: e[k] for k in shown & set(e)} for path, e in entries.items()]
        spec = {"id": name, "sha": oid, "private": repo.private, "gated": repo.gated, "siblings": files}
        self.answer({**spec, "tags": [], "downloads": 0, "likes": 0, "lastModified": TIME, "createdAt": TIME})

    def entry(self, path: str, key: str) -> dict:
        size = len(self.hub.blobs[key])
        lfs = {"lfs": {"oid": key, "sha256": key, "size": size, "pointerSize": 134}} if len(key) == 64 else {}
        return {"type": "file", "path": path, "size": size, "oid": key[:40], **lfs}

    def tree(self, kind: str, name: str, revision: str, path: str | None) -> None:
        tree, prefix = self.at(self.repo(kind, name), revision)[1], f"{path.rstrip('/')}/" if path else ""
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
        inside = {p: key for p, key in tree.items() if p.startswith(prefix)}
        if prefix and not inside:
            raise Refusal(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
        folders = sorted({prefix + p[len(prefix) :].split("/")[0] for p in inside if "/" in p[len(prefix) :]})
        files = [self.entry(p, key) for p, key in inside.items() if recursive or "/" not in p[len(prefix) :]]
        self.answer([{"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in folders] + files)

    def file(self, kind: str | None, name: str, revision: str, path: str) -> None:
        oid, tree = self.at(self.repo(kind, name), revision)
        if path not in tree:
            raise Refusal(404, f"{path} is not in {name}", "EntryNotFound")
        key, data, status = tree[path], self.hub.blobs[tree[path]], 200
        headers = {"X-Repo-Commit": oid, "ETag": f'"{key}"', "X-Linked-Size": str(len(data)), "Accept-Ranges": "bytes"}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span:
            start, stop = int(span[1]), min(int(span[2] or len(data) - 1), len(data) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            data, status = data[start:stop], 206
        self.answer(data, status, headers)
