"""Upload to a stand-in for the hub on the loopback interface."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nuner_jax.errors import InputError
from nuner_jax.export import hub

PUSH = "import sys; from pathlib import Path; from nuner_jax.export.hub import push; print(push(Path(sys.argv[1]), sys.argv[2]))"


class Hub(BaseHTTPRequestHandler):
    """Takes a repository, large files by LFS and a commit, as the hub's HTTP interface does."""

    refuses = False

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, value, status=200):
        raw = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self):
        self.answer({"id": "me/ner", "sha": "0" * 40, "siblings": [], "private": False, "tags": []})

    def do_PUT(self):
        raw = self.body()
        self.server.large[self.path.rsplit("/", 1)[1]] = raw
        self.answer({})

    def do_POST(self):
        raw, base = self.body(), f"http://127.0.0.1:{self.server.server_address[1]}"
        if self.server.refuses:
            self.answer({"error": "You have no write access"}, 403)
        elif self.path == "/api/repos/create":
            self.server.created.append(json.loads(raw)["name"])
            self.answer({"url": f"{base}/me/ner", "id": "me/ner", "name": "me/ner"})
        elif "/preupload/" in self.path:
            files = [f["path"] for f in json.loads(raw)["files"]]
            modes = [{"path": f, "uploadMode": "lfs" if f.endswith(".safetensors") else "regular"} for f in files]
            self.answer({"files": [{**mode, "shouldIgnore": False} for mode in modes]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(raw)["objects"]
            actions = [{**o, "actions": {"upload": {"href": f"{base}/large/{o['oid']}"}}} for o in objects]
            self.answer({"transfer": "basic", "objects": actions})
        elif "/commit/" in self.path:
            self.server.commits.append([json.loads(line) for line in raw.splitlines()])
            self.answer({"commitUrl": f"{base}/me/ner/commit/1", "commitOid": "1" * 40, "pullRequestUrl": None})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        else:
            self.answer({"error": f"unexpected {self.path}"}, 404)

    def log_message(self, format, *args):
        del format, args


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.created, server.commits, server.large, server.refuses = [], [], {}, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def push(server, folder):
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_TOKEN": "hf_none",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", PUSH, str(folder), "me/ner"], capture_output=True, text=True, env=environment, check=False
    )


def test_every_file_arrives_in_one_commit(server, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    (tmp_path / "concept_encoder").mkdir()
    weights = {"model.safetensors": b"weights" * 100, "concept_encoder/model.safetensors": b"others" * 100}
    for name, raw in weights.items():
        (tmp_path / name).write_bytes(raw)
    done = push(server, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("/me/ner")
    assert server.created == ["ner"]
    (commit,) = server.commits
    assert {row["value"].get("path") for row in commit if row["key"] != "header"} == {"config.json", "README.md", *weights}
    assert server.large == {hashlib.sha256(raw).hexdigest(): raw for raw in weights.values()}


def test_a_refusal_is_one_line_that_says_where_the_folder_is(server, tmp_path):
    server.refuses = True
    (tmp_path / "config.json").write_text("{}")
    done = push(server, tmp_path)
    assert done.returncode == 1
    assert f"HubError: {tmp_path} is written, but me/ner could not be uploaded" in done.stderr.splitlines()[-1]


def test_a_name_without_owner_is_refused_before_the_work():
    with pytest.raises(InputError, match="expected OWNER/NAME"):
        hub.check_name("ner")
