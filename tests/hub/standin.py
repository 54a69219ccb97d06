"""A stand-in of the hub: serves folders as model repositories to the real client library, on a local port.

It answers the routes that huggingface_hub 2.4 uses for listing, fetching and uploading, records every request, and can
refuse, announce other sizes, cut answers short, or be down. Uploaded commits can be fetched again.
"""

import base64
import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from tests.watchdog import WATCHDOG_S

LARGE_SUFFIXES = (".pt", ".onnx", ".safetensors", ".model", ".data", ".weights")
"""Files that the hub keeps in Git LFS."""


class Recorded(NamedTuple):
    """A request that the stand-in answered."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


@dataclass
class Repository:
    """A repository: its commits, and who may read it."""

    name: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Commit -> file -> content."""
    refs: dict[str, str] = field(default_factory=dict)
    """Branch or tag -> commit."""
    announced: dict[str, int] = field(default_factory=dict)
    """File -> size that the listing names instead of the true one."""
    is_private: bool = False
    is_gated: bool = False

    def commit(self, files: Mapping[str, bytes], revision: str = "main") -> str:
        """Add a commit with exactly these files to a branch, and return its id."""
        listing = "".join(f"{name} {_blob_id(content)}\n" for name, content in sorted(files.items()))
        sha = hashlib.sha1(f"{self.name} {len(self.commits)}\n{listing}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs[revision] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch, tag or commit id means."""
        return revision if revision in self.commits else self.refs.get(revision)


class StandIn:
    """Context manager: a hub at `url`."""

    def __init__(self, *, token: str = "hf_reader", lfs_from: int | None = None) -> None:
        """Create a hub without repositories.

        Args:
            token: the token with which private and gated repositories can be read, and everything can be written.
            lfs_from: uploads of at least that many bytes must go through Git LFS (the client must have Xet switched off);
                None: no upload must.
        """
        self.token, self.lfs_from = token, lfs_from
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Recorded] = []
        self.status: int | None = None
        """If set, every request is answered with this status, such as 503."""
        self.cuts: dict[str, int] = {}
        """File -> bytes after which the connection breaks, once."""
        self.short: dict[str, int] = {}
        """File -> bytes that are all that a GET gives, though the listing and HEAD promise more."""
        self.bytes_per_s: float | None = None
        """Speed at which files are sent; None: as fast as possible."""
        self.goes_on = threading.Event()
        """Files longer than `held_bytes` are sent up to there, and further once this is set."""
        self.held_bytes: int | None = None
        self.uploads: dict[str, bytes] = {}
        """SHA-256 -> content that came through Git LFS."""
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "StandIn":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop: connections are cut, and refused from now on."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        for connection in self._server.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def add(
        self,
        name: str,
        files: str | Path | Mapping[str, bytes],
        *,
        revision: str = "main",
        announced: Mapping[str, int] | None = None,
        is_private: bool = False,
        is_gated: bool = False,
    ) -> str:
        """Add a commit to the repository OWNER/NAME, which is created where it is missing.

        Args:
            name: OWNER/NAME.
            files: a folder, or file names with "/" -> content.
            revision: branch of the commit.
            announced: sizes that the listing names instead of the true ones.
            is_private: whether only readers with the token see it.
            is_gated: whether everybody sees it, but only readers with the token can fetch its files.
        Returns:
            The id of the commit.
        """
        repository = self.repositories.setdefault(name, Repository(name))
        repository.is_private, repository.is_gated = is_private, is_gated
        repository.announced.update(announced or {})
        return repository.commit(files if isinstance(files, Mapping) else dict(_files_of(Path(files))), revision)

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository at a revision."""
        repository = self.repositories[name]
        commit = repository.resolve(revision)
        assert commit is not None, f"{name} has no revision {revision}"
        return repository.commits[commit]

    def fetched(self) -> list[str]:
        """Names of the files whose content was fetched, each once, sorted."""
        names = (
            request.path.split("/", 5)[5]
            for request in self.requests
            if "/resolve/" in request.path and request.method == "GET"
        )
        return sorted({unquote(urlsplit(name).path) for name in names})

    def environment(self, home: Path) -> dict[str, str]:
        """Variables with which the client of another process uses this hub, and the cache in `home`."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: StandIn

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.connections: list[socket.socket] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a client in a thread of its own."""
        self.connections.append(request)
        super().process_request(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection; the routes are methods named after them."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Write nothing."""

    @property
    def _hub(self) -> StandIn:
        return self.server.hub

    @property
    def _is_reader(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self._hub.token}"

    def _answer(self) -> None:
        body = self._body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._hub.requests.append(Recorded(self.command, self.path, headers, body))
        if self._hub.status is not None:
            self._send(self._hub.status, {"error": "the stand-in is down"})
            return
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        match parts:
            case ["api", "whoami-v2"]:
                self._whoami()
            case ["api", "validate-yaml"]:
                self._send(200, {"errors": [], "warnings": []})
            case ["api", "repos", "create"]:
                self._create(json.loads(body))
            case ["lfs", sha256]:
                self._put_large(sha256, body)
            case ["api", "models", owner, name, *rest]:
                self._with_repository(f"{owner}/{name}", rest, body)
            case [owner, name, "info", "lfs", "objects", "batch"]:
                self._with_repository(f"{owner}/{name.removesuffix('.git')}", ["lfs-batch"], body)
            case [owner, name, "resolve", revision, *path]:
                self._with_repository(f"{owner}/{name}", ["resolve", revision, "/".join(path)], body)
            case _:
                self._send(404, {"error": f"the stand-in has no route {self.path}"})

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    # Repositories

    def _with_repository(self, name: str, rest: list[str], body: bytes) -> None:
        repository = self._hub.repositories.get(name)
        if repository is None or (repository.is_private and not self._is_reader):
            is_known_user = self._is_reader
            self._refuse(404 if is_known_user else 401, "RepoNotFound", "Repository not found")
            return
        match rest:
            case ["preupload", _]:
                self._preupload(json.loads(body))
            case ["commit", revision]:
                self._commit(repository, revision, body)
            case ["lfs-batch"]:
                self._lfs_batch(json.loads(body))
            case ["refs"]:
                branches = [
                    {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in repository.refs.items()
                ]
                self._send(200, {"branches": branches, "tags": [], "converts": []})
            case [] | ["revision", _] | ["tree", _, *_] | ["paths-info", _] | ["resolve", _, _]:
                self._read(repository, rest, body)
            case _:
                self._send(404, {"error": f"the stand-in has no route {self.path}"})

    def _read(self, repository: Repository, rest: list[str], body: bytes) -> None:
        revision = rest[1] if rest else "main"
        sha = repository.resolve(revision)
        if sha is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        match rest:
            case [] | ["revision", _]:
                self._info(repository, sha)
            case ["tree", _, *folder]:
                entries = list(_entries(repository, sha, "/".join(folder), is_recursive="recursive" in self.path.lower()))
                if folder and not entries:
                    self._refuse(404, "EntryNotFound", "Entry not found")
                    return
                self._send(200, entries)
            case ["paths-info", _]:
                form = parse_qs(body.decode())
                names = form.get("paths") or json.loads(body).get("paths", [])
                self._send(
                    200, [entry for entry in _entries(repository, sha, "", is_recursive=True) if entry["path"] in names]
                )
            case ["resolve", _, path]:
                self._resolve(repository, sha, path)

    def _info(self, repository: Repository, sha: str) -> None:
        info = {
            "_id": "0",
            "id": repository.name,
            "sha": sha,
            "siblings": [{"rfilename": name} for name in sorted(repository.commits[sha])],
            "tags": [],
            "private": repository.is_private,
            "gated": "manual" if repository.is_gated else False,
            "disabled": False,
        }
        self._send(200, info)

    def _resolve(self, repository: Repository, sha: str, path: str) -> None:
        content = repository.commits[sha].get(path)
        if repository.is_gated and not self._is_reader:
            self._refuse(403 if "Authorization" in self.headers else 401, "GatedRepo", "Access to this model is restricted")
            return
        if content is None:
            self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
            return
        headers = {"X-Repo-Commit": sha, "ETag": f'"{_etag(path, content)}"', "Accept-Ranges": "bytes"}
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if "Range" in self.headers else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        is_head = self.command == "HEAD"
        sent = content[start:] if is_head else content[start : self._hub.short.get(path)]
        size = repository.announced.get(path, len(sent)) if is_head else len(sent)
        self._head(
            206 if start else 200, {**headers, "Content-Length": str(size), "Content-Type": "application/octet-stream"}
        )
        if not is_head:
            self._write(sent, cut=self._hub.cuts.pop(path, None))

    def _write(self, content: bytes, cut: int | None) -> None:
        speed = self._hub.bytes_per_s
        with contextlib.suppress(ConnectionError):
            if (held := self._hub.held_bytes) is not None and len(content) > held:
                self.wfile.write(content[:held])
                assert self._hub.goes_on.wait(WATCHDOG_S)
                self.wfile.write(content[held:cut])
            elif speed is None:
                self.wfile.write(content[:cut])
            else:
                for block in _blocks(content[:cut], round(speed / 20) or 1):
                    self.wfile.write(block)
                    time.sleep(0.05)
        if cut is not None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    # Writing

    def _whoami(self) -> None:
        if not self._is_reader:
            self._refuse(401, "", "Invalid credentials in Authorization header")
            return
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
        self._send(200, {"type": "user", "id": "0", "name": "someone", "orgs": [], "auth": auth})

    def _create(self, wanted: dict[str, Any]) -> None:
        name = "/".join([wanted.get("organization") or "someone", wanted["name"]])
        if not self._is_reader:
            self._refuse(401, "", "Invalid credentials in Authorization header")
            return
        url = f"{self._hub.url}/{name}"
        if name in self._hub.repositories:
            self._send(409, {"error": "You already created this model repo", "url": url})
            return
        repository = Repository(name, is_private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
        repository.commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        self._hub.repositories[name] = repository
        self._send(200, {"url": url, "name": name, "id": "0"})

    def _preupload(self, wanted: dict[str, Any]) -> None:
        limit = self._hub.lfs_from
        modes = ["regular" if limit is None or file["size"] < limit else "lfs" for file in wanted["files"]]
        files = [
            {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}
            for file, mode in zip(wanted["files"], modes, strict=True)
        ]
        self._send(200, {"files": files, "commitOid": "0" * 40})

    def _lfs_batch(self, wanted: dict[str, Any]) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self._hub.url}/lfs/{one['oid']}", "header": {}}}}
            for one in wanted["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def _put_large(self, sha256: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != sha256:
            self._send(400, {"error": "the content is not what its name says"})
            return
        self._hub.uploads[sha256] = body
        self._send(200, {})

    def _commit(self, repository: Repository, revision: str, body: bytes) -> None:
        if not self._is_reader:
            self._refuse(401, "", "Invalid credentials in Authorization header")
            return
        files = dict(self._hub.files(repository.name, revision))
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self._hub.uploads[value["oid"]]
                case "deletedFile":
                    files.pop(value["path"], None)
                case "deletedFolder":
                    files = {name: content for name, content in files.items() if not name.startswith(f"{value['path']}/")}
        sha = repository.commit(files, revision)
        self._send(200, {"success": True, "commitOid": sha, "commitUrl": f"{self._hub.url}/{repository.name}/commit/{sha}"})

    # Answers

    def _refuse(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        coded = {"X-Error-Code": code} if code else {}
        self._send(status, {"error": message}, {**coded, "X-Error-Message": message, **(headers or {})})

    def _send(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self._head(status, {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})})
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _files_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def _entries(repository: Repository, sha: str, folder: str, *, is_recursive: bool) -> Iterator[dict[str, Any]]:
    """Entries of the listing of a folder."""
    start = f"{folder}/" if folder else ""
    folders = set()
    for name, content in sorted(repository.commits[sha].items()):
        if not name.startswith(start):
            continue
        parents = name[len(start) :].split("/")[:-1]
        folders.update(start + "/".join(parents[: i + 1]) for i in range(len(parents)))
        if parents and not is_recursive:
            continue
        size = repository.announced.get(name, len(content))
        entry = {"type": "file", "path": name, "size": size, "oid": _blob_id(content)}
        if name.endswith(LARGE_SUFFIXES):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
        yield entry
    for name in sorted(folders):
        if is_recursive or "/" not in name[len(start) :]:
            yield {"type": "directory", "path": name, "size": 0, "oid": hashlib.sha1(name.encode()).hexdigest()}


def _etag(name: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if name.endswith(LARGE_SUFFIXES) else _blob_id(content)


def _blob_id(content: bytes) -> str:
    """The id that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _blocks(content: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]
