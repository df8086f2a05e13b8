"""A local stand-in for the Hugging Face Hub: one dataset, `owner/traces`, with any number of revisions.

It answers the requests that the real client makes to read a dataset, and records which bytes of files it sent. It also
accepts pushes to a model.
"""

import base64
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"


class HubServer(ThreadingHTTPServer):
    """Serves `folders[commit]` for `owner/traces@commit`; `branches` maps names to commits, "main" among them."""

    def __init__(self, folders: dict[str, Path], branches: dict[str, str]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folders, self.branches = folders, branches
        self.ranges: list[tuple[Path, int, int]] = []
        self.pushed: dict[str, dict[str, bytes]] | None = {}  # model -> its files; None refuses all

    def commit(self, revision: str) -> str | None:
        return revision if revision in self.folders else self.branches.get(revision)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(self.path.split("?")[0])
        patterns = {
            r"/api/datasets/owner/traces(?:/revision/(.+))?": self.info,
            r"/api/datasets/owner/traces/tree/([^/]+)/?(.*)": self.tree,
            r"/datasets/owner/traces/resolve/([^/]+)/(.+)": self.file,
        }
        for pattern, method in patterns.items():
            match = re.fullmatch(pattern, path)
            if match and (commit := self.server.commit(match[1] or "main")):
                return method(commit, *match.groups()[1:])
        return self.answer(404, X_Error_Code="RevisionNotFound" if "owner/traces" in path else "RepoNotFound")

    def info(self, commit: str) -> None:
        files = [{"rfilename": name} for name in ("README.md", "data/train-0.parquet")]
        body = {"_id": "1", "id": "owner/traces", "sha": commit, "siblings": files, "tags": [], "private": False}
        self.answer(200, json.dumps(body).encode())

    def tree(self, commit: str, folder: str) -> None:
        root = self.server.folders[commit]
        entries = [
            {"type": "file", "size": path.stat().st_size} if path.is_file() else {"type": "directory"}
            for path in sorted((root / folder).iterdir())
        ]
        for entry, path in zip(entries, sorted((root / folder).iterdir()), strict=True):
            entry |= {"path": str(path.relative_to(root)), "oid": "0" * 40}
        self.answer(200, json.dumps(entries).encode())

    def file(self, commit: str, name: str) -> None:
        path = self.server.folders[commit] / name
        if not path.is_file():
            return self.answer(404, X_Error_Code="EntryNotFound")
        body, headers = path.read_bytes(), {"ETag": f'"{name}"', "X_Repo_Commit": commit}
        if not (match := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))):
            return self.answer(200, body, **headers)
        start, end = int(match[1]), int(match[2]) + 1
        self.server.ranges.append((path, start, end))
        return self.answer(206, body[start:end], Content_Range=f"bytes {start}-{end - 1}/{len(body)}", **headers)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.pushed is None:
            return self.answer(403)
        match = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/(preupload|commit)/main", self.path.split("?")[0])
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            self.server.pushed.setdefault(name, {})
            return self.reply({"url": f"http://127.0.0.1:{self.server.server_port}/{name}", "id": name})
        if self.path == "/api/validate-yaml":
            return self.reply({"errors": [], "warnings": []})
        if match is None or match[1] not in self.server.pushed:
            return self.answer(404, X_Error_Code="RepoNotFound")
        if match[2] == "preupload":  # no file is so large that it would go elsewhere
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return self.reply({"files": [file | {"shouldIgnore": False} for file in files]})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.pushed[match[1]][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        commit, address = "c" * 40, f"http://127.0.0.1:{self.server.server_port}/{match[1]}"
        return self.reply({"success": True, "commitOid": commit, "commitUrl": f"{address}/commit/{commit}"})

    def reply(self, content: dict) -> None:
        self.answer(200, json.dumps(content).encode(), Content_Type="application/json")
