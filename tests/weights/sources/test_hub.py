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
            names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
            if api[2] == "tree":  # revision, then perhaps a folder
                inside = folder.joinpath(*api[3].split("/")[1:])
                found = inside.rglob("*") if "recursive=true" in self.path else inside.iterdir()
                rows = [
                    {
                        "type": "file" if p.is_file() else "directory",
                        "path": str(p.relative_to(folder)),
                        "oid": "0",
                    }
                    | ({"size": p.stat().st_size} if p.is_file() else {})
                    for p in sorted(found)
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
    ranges = "from chatvec_lab.weights.checkpoint import sparsely\n"
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


OWN = (
    "modeling_own.py",
    "own.tiktoken",
    "tekken.json",
    "tokenizer.model.v3",
    "spiece.vocab",
    "merges.txt",
    "own.spm",
)
OTHERS = ("consolidated.safetensors", "consolidated.00.pth", "training_args.bin", "optimizer.bin", "big.onnx")


def test_all_of_a_models_own_files_are_fetched_and_no_others(hub, tmp_path):
    address, repos, asked = hub
    folder = repos["lab/pico"] = save_model(tmp_path / "pico")
    for name in (*OWN, *OTHERS):
        (folder / name).write_bytes(b"{}")
    code = "from chatvec_lab import Checkpoint; print(*sorted(p.name for p in Checkpoint('lab/pico').folder.iterdir()))"
    done = run(address, tmp_path / "home", code)
    assert done.returncode == 0, done.stderr
    found = set(done.stdout.split())
    assert {*OWN, "config.json", "model.safetensors", "tokenizer.json"} <= found and not found & set(OTHERS)
    assert not any(path.rpartition("/")[2] in OTHERS for _, path in asked)


def test_further_chat_templates_and_modules_are_fetched_and_other_folders_are_not(hub, tmp_path):
    address, repos, asked = hub
    folder = repos["lab/pico"] = save_model(tmp_path / "pico")
    own = ("additional_chat_templates/tool_use.jinja", "1_Pooling/config.json")
    others = (
        "original/params.json",
        "original/consolidated.safetensors",
        "add/x.json",
        "onnx/model.safetensors",
    )
    for name in (*own, *others):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    code = (
        "from chatvec_lab import Checkpoint; from chatvec_lab.weights.checkpoint import sparsely\n"
        "for c in ({}(Checkpoint('lab/pico')),):\n"
        "    print(*sorted(str(p.relative_to(c.folder)) for p in c.folder.rglob('*') if p.is_file()), len(c.names))"
    )
    for way, home in (("sparsely", "ranges"), ("", "home")):
        done = run(address, tmp_path / home, code.format(way))
        assert done.returncode == 0, done.stderr
        found = set(done.stdout.split())
        assert {*own, "config.json"} <= found and not found & set(others)
        assert ("model.safetensors" in found) == (way == "")
    assert not any("/resolve/" in path and path.endswith(others) for _, path in asked)


def test_a_cached_model_whose_other_files_are_not_needed_opens_offline(hub, tmp_path):
    """As a compute node has it: the hub lists pytorch_model.bin too, and nothing can be asked."""
    address, repos, _ = hub
    folder = repos["lab/pico"] = save_model(tmp_path / "pico")
    for name in ("pytorch_model.bin", "consolidated.safetensors"):
        (folder / name).write_bytes(b"not needed")
    code = "from chatvec_lab import Checkpoint; c = Checkpoint('lab/pico'); print(len(c.names), len(c.vocabulary.tokens))"
    here = run(address, tmp_path / "home", code)
    offline = "import os; os.environ['HF_HUB_OFFLINE'] = '1'\n" + code
    gone = run("http://127.0.0.1:9", tmp_path / "home", offline)
    assert here.returncode == gone.returncode == 0, gone.stderr
    assert gone.stdout == here.stdout
    empty = run("http://127.0.0.1:9", tmp_path / "empty", offline)
    assert "FileNotFoundError: 'lab/pico' is neither a folder here nor" in empty.stderr


def test_a_model_read_by_ranges_can_be_sent_to_another_process(hub, tmp_path):
    address, repos, _ = hub
    repos["lab/pico"] = save_model(tmp_path / "pico")
    code = (
        "import pickle; from chatvec_lab.weights.checkpoint import Checkpoint, sparsely\n"
        "c = sparsely(Checkpoint('lab/pico')); d = pickle.loads(pickle.dumps(c)); n = c.names[3]\n"
        "print(type(d.origin).__name__, d.label, bool((c.raw(n, 0, 9) == d.raw(n, 0, 9)).all()))\n"
        "print(d.fingerprint() == c.fingerprint())"
    )
    done = run(address, tmp_path / "home", code)
    assert done.stdout.split() == ["Remote", "lab/pico", "True", "True"], done.stderr
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_a_large_download_is_announced_and_must_fit_the_disk(hub, tmp_path):
    address, repos, asked = hub
    repos["lab/pico"] = save_model(tmp_path / "pico")
    code = (
        "import shutil; from types import SimpleNamespace as N; from chatvec_lab import Checkpoint\n"
        "from chatvec_lab.weights.sources import hub\n"
        "hub._LARGE = {large}; shutil.disk_usage = lambda _: N(free={free})\n"
        "c = Checkpoint('lab/pico'); print(len(c.names))"
    )
    full = run(address, tmp_path / "home", code.format(large=1000, free=2000))
    assert "OSError: lab/pico: 0.0 GB are to be downloaded, and the disk of" in full.stderr
    assert "Nothing was downloaded" in full.stderr and not any("/resolve/" in path for _, path in asked)
    told = run(address, tmp_path / "home", code.format(large=1000, free=10**9))
    assert told.returncode == 0 and "lab/pico: 0.0 GB to download into" in told.stderr, told.stderr
    again = run(address, tmp_path / "home", code.format(large=1000, free=2000))
    assert again.returncode == 0 and "to download" not in again.stderr, "all of it is here"
