"""Hub ids against a real server on loopback that speaks the hub's download protocol."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pico import save_model
from reference import state

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path):
    """(address, folders by repo id, paths that were asked for); each folder is one public model repository."""
    repos, asked = {}, []

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def reply(self, status, body=b"", **headers):
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self):
            asked.append((self.command, self.path))
            api = re.match(r"/api/models/([\w-]+/[\w-]+)(?:/(revision|tree)/([^?]+))?", self.path)
            file = re.match(r"/([\w-]+/[\w-]+)/resolve/([^/]+)/([^?]+)", self.path)
            repo = (api or file) and (api or file)[1]
            if repo not in repos:
                return self.reply(401, b"{}", X_Error_Code="RepoNotFound")
            folder = repos[repo]
            if file:
                path = folder / file[3]
                if not path.is_file():
                    return self.reply(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
                body = path.read_bytes()
                tags = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X_Repo_Commit": COMMIT}
                span = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                if span:
                    first, last = int(span[1]), int(span[2] or len(body) - 1)
                    return self.reply(
                        206, body[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(body)}", **tags
                    )
                return self.reply(200, body, **tags)
            names = sorted(p.name for p in folder.iterdir())
            if api[2] == "tree":
                rows = [
                    {"type": "file", "path": n, "size": (folder / n).stat().st_size, "oid": "0"}
                    for n in names
                ]
                return self.reply(200, json.dumps(rows).encode(), Content_Type="application/json")
            info = {"id": repo, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "likes": 0}
            info["siblings"] = [{"rfilename": n} for n in names]
            return self.reply(200, json.dumps(info).encode(), Content_Type="application/json")

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", repos, asked
    server.shutdown()


def run(address, home, code):
    environment = os.environ | {
        "HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_a_hub_id_is_downloaded_once_in_one_format(hub, tmp_path):
    address, repos, asked = hub
    repos["lab/pico"] = save_model(tmp_path / "pico", shard="4KB")
    stored = state(repos["lab/pico"])
    (repos["lab/pico"] / "pytorch_model.bin").write_bytes(b"not needed")
    (repos["lab/pico"] / "big.gguf").write_bytes(b"not needed")
    code = (
        "from chatvec_lab import Checkpoint\n"
        "c = Checkpoint('lab/pico', revision='main')\n"
        "total = float(c.read('lm_head.weight').float().sum())\n"
        "print(c.label, c.folder.name, len(c.names), total, len(c.vocabulary.tokens))"
    )
    done = run(address, tmp_path / "home", code)
    assert done.returncode == 0, done.stderr
    label, commit, count, total, tokens = done.stdout.split()
    assert (label, commit, int(count), int(tokens)) == ("lab/pico", COMMIT, len(stored), 63)
    assert float(total) == float(stored["lm_head.weight"].float().sum())
    assert not any(path.endswith((".bin", ".gguf")) for _, path in asked)
    gets = sum(method == "GET" and "/resolve/" in path for method, path in asked)
    again = run(address, tmp_path / "home", code)
    assert again.stdout == done.stdout
    assert sum(method == "GET" and "/resolve/" in path for method, path in asked) == gets  # from the cache


@pytest.mark.slow  # the hub's client tries for some 20 s before it takes the network for gone
def test_a_model_in_the_cache_needs_no_network(hub, tmp_path):
    address, repos, _ = hub
    repos["lab/pico"] = save_model(tmp_path / "pico")
    names = (
        "from chatvec_lab import Checkpoint; c = Checkpoint('lab/pico'); print(len(c.names), c.folder.name)"
    )
    header = "from chatvec_lab.weights.inspect import inspect; print(inspect('lab/pico'))"
    ranges = "from chatvec_lab.weights.sources.hub import sparsely\n"
    ranges += "from chatvec_lab import Checkpoint; print(len(sparsely(Checkpoint('lab/pico')).names))"
    for code in (names, header, ranges):
        here = run(address, tmp_path / "home", code)
        gone = run("http://127.0.0.1:9", tmp_path / "home", code)
        assert here.returncode == gone.returncode == 0, gone.stderr
        assert gone.stdout == here.stdout
    empty = run("http://127.0.0.1:9", tmp_path / "empty", names)
    assert "FileNotFoundError: 'lab/pico' is neither a folder here nor" in empty.stderr


def test_a_model_that_the_hub_does_not_have_is_named(hub, tmp_path):
    code = "from chatvec_lab import Checkpoint; Checkpoint('lab/nothing').names"
    done = run(hub[0], tmp_path / "home", code)
    assert (
        "FileNotFoundError: 'lab/nothing' is neither a folder here nor a model that could be had"
        in done.stderr
    )


def test_inspect_reads_headers_only(hub, tmp_path):
    address, repos, _ = hub
    repos["lab/pico"] = save_model(tmp_path / "pico", shard="4KB")
    size = sum(p.stat().st_size for p in repos["lab/pico"].glob("*.safetensors"))
    code = "from chatvec_lab.weights.inspect import inspect; print(inspect('lab/pico', tensors=True))"
    done = run(address, tmp_path / "home", code)
    assert done.returncode == 0, done.stderr
    assert (
        "LlamaForCausalLM" in done.stdout and "lm_head.weight" in done.stdout and "63 tokens" in done.stdout
    )
    held = sum(p.stat().st_size for p in (tmp_path / "home").rglob("*.safetensors"))
    assert held == 0 and size > 0
