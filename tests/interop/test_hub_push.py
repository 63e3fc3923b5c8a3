"""Pushing against a real server on loopback that speaks the hub's upload protocol (git-LFS transfers)."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas
import pytest
import yaml
from safetensors.torch import load_file

from chatvec_lab import Checkpoint, WeightVector, load_family, push
from chatvec_lab.__main__ import main
from chatvec_lab.interop import hub

TOKEN = "hf_" + "notarealtoken" * 2
PUSH = "from chatvec_lab.interop import hub;"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Repositories:
    """What the server holds: files by repository, LFS objects by hash, and every request."""

    def __init__(self):
        self.files, self.objects, self.requests, self.created = {}, {}, [], {}
        self.refuse = False


@pytest.fixture
def server():
    state = Repositories()

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def reply(self, status, value=None):
            body = b"" if value is None else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def body(self):
            if self.headers.get("Transfer-Encoding") == "chunked":
                chunks = []
                while size := int(self.rfile.readline(), 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(chunks)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def answer(self):
            body = self.body()
            state.requests.append((self.command, self.path, self.headers.get("Authorization"), body))
            path = self.path.split("?")[0]
            if self.command == "PUT" and path.startswith("/lfs-store/"):
                state.objects[path.rsplit("/", 1)[1]] = body
                return self.reply(200)
            if state.refuse or self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.reply(403, {"error": "no right to write"})
            if path == "/api/validate-yaml":
                front = yaml.safe_load(json.loads(body)["content"].split("---")[1])
                errors = [] if isinstance(front, dict) else [{"message": "no mapping"}]
                return self.reply(200, {"errors": errors, "warnings": []})
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                state.created[name] = asked
                return self.reply(200, {"url": f"{address}/{name}", "name": name, "id": name})
            if branch := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/branch/(.+)", path):
                state.created[branch[1]]["branch"] = branch[2]
                return self.reply(201)
            if re.fullmatch(r"/api/models/[\w-]+/[\w-]+/preupload/.+", path):
                mode = lambda name: "lfs" if name.endswith(".safetensors") else "regular"  # noqa: E731
                files = [{"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False}
                         for f in json.loads(body)["files"]]  # fmt: skip
                return self.reply(200, {"files": files})
            if path.endswith(".git/info/lfs/objects/batch"):
                wanted = json.loads(body)
                href = lambda oid: f"{address}/lfs-store/{oid}"  # noqa: E731
                return self.reply(200, {"transfer": "basic", "objects": [
                    {**o, "actions": {"upload": {"href": href(o["oid"])}}} for o in wanted["objects"]
                ]})  # fmt: skip
            if commit := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/commit/(.+)", path):
                lines = [json.loads(line) for line in body.splitlines()]
                files = {}
                for line in lines[1:]:
                    value = line["value"]
                    if line["key"] == "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    else:
                        files[value["path"]] = state.objects[value["oid"]]
                        assert len(files[value["path"]]) == value["size"]
                        assert hashlib.sha256(files[value["path"]]).hexdigest() == value["oid"]
                state.files[commit[1]] = files
                state.created[commit[1]] |= {"message": lines[0]["value"]["summary"], "revision": commit[2]}
                url = f"{address}/{commit[1]}/commit/{COMMIT}"
                return self.reply(200, {"commitUrl": url, "commitOid": COMMIT, "pullRequestUrl": None})
            return self.reply(404, {"error": path})

        do_GET = do_POST = do_PUT = answer

    loopback = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    address = f"http://127.0.0.1:{loopback.server_port}"
    threading.Thread(target=loopback.serve_forever, daemon=True).start()
    yield address, state
    loopback.shutdown()


def run(address, code, token=TOKEN):
    """The code in a process of its own, since the hub's address is read at import."""
    environment = os.environ | {
        "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1",
        "HF_TOKEN": token or "", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def saved(families, tmp_path_factory):
    """A merged model in two shards, and a vector."""
    base, chat, cp = map(Checkpoint, families("llama"))
    root = tmp_path_factory.mktemp("saved")
    (cp + 0.5 * (chat - base)).save(root / "merged", max_shard_size="8KB", progress=False)
    (chat - base).save(root / "vector", progress=False)
    return root


def test_a_merged_model_reaches_the_hub_whole(server, saved):
    address, state = server
    code = (
        f"{PUSH}\n"
        f"r = hub.push({str(saved / 'merged')!r}, 'lab/ko-chat', private=True, family='pico', revision='half',\n"
        "             licences={'cp': 'apache-2.0', 'chat': 'apache-2.0', 'base': 'apache-2.0'},\n"
        "             evaluation={'fidelity': {'cosine': 0.98765}, 'n': 96})\n"
        "print(r)"
    )
    done = run(address, code)
    assert done.returncode == 0, done.stderr
    sent = state.files["lab/ko-chat"]
    local = {p.name: p.read_bytes() for p in (saved / "merged").iterdir()}
    assert sent.keys() == local.keys()
    assert all(sent[name] == local[name] for name in sent if name != "README.md")
    assert sum(name.endswith(".safetensors") for name in sent) > 1
    about = state.created["lab/ko-chat"]
    assert about.get("visibility") == "private" or about.get("private") is True  # hub 2 and 1
    assert about["branch"] == about["revision"] == "half"
    card = sent["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "apache-2.0" and "family:pico" in front["tags"]
    for text in (
        "cp + 0.5 * (chat - base)",
        "| chat | apache-2.0 |",
        "| fidelity.cosine | 0.9877 |",
        "| n | 96 |",
    ):
        assert text in card
    assert (
        f"{address}/lab/ko-chat/commit/{COMMIT}" in done.stdout
        and "model.safetensors.index.json" in done.stdout
    )


def test_a_pushed_vector_is_the_vector_and_the_token_goes_into_the_header_alone(server, saved, tmp_path):
    address, state = server
    done = run(address, f"{PUSH} print(hub.push({str(saved / 'vector')!r}, 'lab/tau'))")
    assert done.returncode == 0, done.stderr
    assert any(authorization == f"Bearer {TOKEN}" for _, _, authorization, _ in state.requests)
    assert TOKEN not in done.stdout + done.stderr
    assert not any(TOKEN in path or TOKEN.encode() in body for _, path, _, body in state.requests)
    assert not any(TOKEN.encode() in content for content in state.files["lab/tau"].values())
    for name, content in state.files["lab/tau"].items():
        (tmp_path / name).write_bytes(content)
    stored = load_file(saved / "vector" / "vector.safetensors")
    loaded = WeightVector.load(tmp_path)
    assert all((loaded.read(name) == stored[name].float()).all() for name in loaded.names)


def test_without_a_token_or_with_a_refused_one_nothing_is_committed(server, saved):
    address, state = server
    wrong = "hf_" + "wrongtoken" * 3
    push = f"hub.push({str(saved / 'vector')!r}, 'lab/tau')"
    code = f"{PUSH} import os, traceback\nfor token in ('', {wrong!r}):\n os.environ['HF_TOKEN'] = token\n"
    done = run(address, f"{code} try: {push}\n except Exception: traceback.print_exc()", None)
    assert "PermissionError: pushing to 'lab/tau' needs a token" in done.stderr and "HF_TOKEN" in done.stderr
    assert "PermissionError: the hub refused 'lab/tau' (403)" in done.stderr
    assert wrong not in done.stdout + done.stderr and not state.files
    assert {authorization for _, _, authorization, _ in state.requests} == {f"Bearer {wrong}"}


@pytest.mark.parametrize("token", [f"{TOKEN}\n", f"{TOKEN}\r\n", f" \t{TOKEN} ", f"\n{TOKEN}\x0b"])
def test_white_space_around_the_token_is_taken_off(server, saved, token):
    address, state = server
    done = run(address, f"{PUSH} hub.push({str(saved / 'vector')!r}, 'lab/tau')", token)
    assert done.returncode == 0, done.stderr
    assert {a for _, path, a, _ in state.requests if not path.startswith("/lfs-store/")} == {
        f"Bearer {TOKEN}"
    }


@pytest.mark.parametrize(
    "token",
    ["hf_odd\ntokenwithaline", "hf_odd tokenwithaspace", "hf_oddtökenwithaletter", "hf_odd\x7ftokend"],
)
def test_a_token_that_is_none_is_refused_and_never_shown(server, saved, token):
    address, state = server
    code = f"{PUSH} import traceback\ntry: hub.push({str(saved / 'vector')!r}, 'lab/tau')\n"
    code += "except BaseException: traceback.print_exc()"
    done = run(address, code, token)
    assert (
        "PermissionError: the environment variable HF_TOKEN holds characters that no key has" in done.stderr
    )
    assert (
        "hf_odd" not in done.stdout + done.stderr
        and "token" + "with" not in done.stderr
        and not state.requests
    )


def test_links_and_secrets_are_not_pushed(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    mine = tmp_path / "mine.txt"
    mine.write_text("private")
    folder = tmp_path / "merged"
    shutil.copytree(saved / "merged", folder)
    (folder / "notes.txt").symlink_to(mine)
    with pytest.raises(ValueError, match=r"holds links: notes\.txt"):
        hub.push(folder, "lab/x", dry_run=True)
    (folder / "notes.txt").unlink()
    (folder / "more").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="holds links: more"):
        hub.push(folder, "lab/x", dry_run=True)
    (folder / "more").unlink()
    (folder / "notes.json").write_text(json.dumps({"used": TOKEN}))
    with pytest.raises(ValueError, match=r"looks like one: HF_TOKEN\. Nothing was sent") as caught:
        hub.push(folder, "lab/x", dry_run=True)
    assert TOKEN not in str(caught.value)
    (folder / "notes.json").unlink()
    assert hub.push(folder, "lab/x", dry_run=True, evaluation={"asked with": TOKEN}).card.count(TOKEN) == 0


@pytest.mark.parametrize("name", ["LICENSE-of-mine.txt", "vocab.txt", "extra.json"])
def test_a_companion_that_links_out_of_the_checkpoint_is_refused(families, tmp_path, name):
    base, chat, cp = map(Checkpoint, families("llama"))
    mine = tmp_path / "mine"
    mine.write_text("{}")
    linked = tmp_path / "cp"
    shutil.copytree(cp.folder, linked)
    (linked / name).symlink_to(mine)
    with pytest.raises(ValueError, match=f"{name} is a link to .*mine, outside the checkpoint"):
        (Checkpoint(linked) + (chat - base)).save(tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    (linked / name).unlink()
    (linked / "real.txt").write_text("of the model")
    (linked / name).symlink_to("real.txt")
    (Checkpoint(linked) + (chat - base)).save(tmp_path / "out", progress=False)
    assert (tmp_path / "out" / name).is_file() and not (tmp_path / "out" / name).is_symlink()


def test_the_hubs_own_cache_may_link(families, tmp_path):
    base, chat, cp = map(Checkpoint, families("llama"))
    snapshot, blobs = (
        tmp_path / "models--lab--cp" / "snapshots" / COMMIT,
        tmp_path / "models--lab--cp" / "blobs",
    )
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in cp.folder.iterdir():
        shutil.copyfile(file, blobs / file.name)
        (snapshot / file.name).symlink_to(blobs / file.name)
    (Checkpoint(snapshot) + (chat - base)).save(tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    "label",
    ["a```\n# Owned\n```", "x\n---\nlicense: mit\n---", "~~~ <script>alert(1)</script>", "| a | [b](c)"],
)
def test_names_are_data_in_cards(families, tmp_path, label):
    from chatvec_lab.weights.saving import card

    base, chat, cp = map(Checkpoint, families("llama"))
    merged = cp + (chat - base)
    manifest = {
        "sources": [{"name": label, "revision": label, "digest": "0"}], "vocabulary": None,
        "recipe": {"cp": label, "vector": [{"factor": 1.0, "difference": [label, "b"]}]},
    }  # fmt: skip
    text = card.model_card(merged, manifest)
    front, body = text.split("---\n")[1], text.split("---\n", 2)[2]
    assert set(yaml.safe_load(front)) == {"library_name", "tags"}
    outside = re.sub(r"(?ms)^(`{3,})$.*?^\1$", "", body)
    assert "```" not in outside and "\n# Owned" not in outside and "<script" not in outside
    assert [line.count(" | ") for line in body.splitlines() if line.endswith("`0` |")] == [2]
    table = hub._table(["name"], [[label]])
    assert table.count("\n") == 3 and "<script" not in table


def test_without_a_network_a_licence_is_not_stated_and_a_push_says_why(saved):
    code = f"{PUSH} print(hub._on_hub('lab/base', None)); hub.push({str(saved / 'vector')!r}, 'lab/tau')"
    done = run("http://127.0.0.1:9", code)
    assert done.stdout == "None\n"
    assert "\nConnectionError: the hub could not be reached for 'lab/tau'" in done.stderr


def test_a_dry_run_shows_files_sizes_and_card(saved, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    table = pandas.DataFrame({"scale": [0.5, 1.0], "accuracy": [0.25, 0.123456]})
    report = hub.push(saved / "merged", "lab/ko-chat", dry_run=True, evaluation=table)
    assert report.url is None
    sizes = {p.name: p.stat().st_size for p in (saved / "merged").iterdir()} | {
        "README.md": len(report.card.encode())
    }
    assert report.files == sizes
    assert (
        "| 1 | 0.1235 |" in report.card and "| chat | not stated; see the page of the source |" in report.card
    )
    assert "license" not in yaml.safe_load(report.card.split("---")[1])
    assert "nothing was sent" in str(report) and f"{sum(sizes.values()):,} bytes" in str(report)


def test_hidden_files_and_folders_stay_here(saved, tmp_path):
    folder = tmp_path / "merged"
    shutil.copytree(saved / "merged", folder)
    before = hub.push(folder, "lab/ko-chat", dry_run=True).files
    for name in (".git/config", ".ipynb_checkpoints/README-checkpoint.md", ".env"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    assert hub.push(folder, "lab/ko-chat", dry_run=True).files == before


def test_the_command_line_shows_a_dry_run(saved, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / "summary.json").write_text('{"accuracy": {"ko": 0.5}}')
    push = ["push", str(saved / "merged"), "lab/ko", "--evaluation", str(tmp_path / "summary.json")]
    assert main([*push, "--dry-run", "--private", "--licence", "cp=mit"]) == 0
    shown = capsys.readouterr().out
    assert "lab/ko (private)" in shown and "| accuracy.ko | 0.5 |" in shown and "| cp | mit |" in shown
    assert main(push) == 1
    assert "HF_TOKEN is not set" in capsys.readouterr().err
    assert main([*push, "--licence", "mit"]) == 1
    (tmp_path / "summary.json").write_text("[0.5]")
    assert main([*push, "--dry-run"]) == 1 and "holds no mapping of measures" in capsys.readouterr().err


def test_an_expression_is_saved_first_and_knows_the_licences_beside_its_sources(
    families, tmp_path, monkeypatch
):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    base, chat, cp = map(Checkpoint, families("llama"))
    licensed = tmp_path / "licensed"
    licensed.mkdir()
    for file in cp.folder.iterdir():
        (licensed / file.name).write_bytes(file.read_bytes())
    (licensed / "README.md").write_text("---\nlicense: llama2\n---\n# CP\n")
    merged = Checkpoint(licensed) + (chat - base)
    report = hub.push(merged, "lab/x", dry_run=True, folder=tmp_path / "out", licences={"chat": "mit"})
    assert "| licensed | llama2 |" in report.card and "| chat | mit |" in report.card
    assert Checkpoint(tmp_path / "out").names == cp.names  # stays, so that the push itself can take it
    assert push(merged, "lab/x", dry_run=True).files.keys() == report.files.keys()
    assert "vector.safetensors" in str(push(merged.vector, "lab/tau", dry_run=True).files)


def test_licences_come_from_the_described_families(tmp_path, monkeypatch):
    (tmp_path / "families").mkdir()
    (tmp_path / "families" / "f.yaml").write_text(
        "base: {source: a/base, licence: L2}\nchat: {source: a/chat}\ncp: {ko: {source: b/cp, licence: MIT}}\n"
    )
    monkeypatch.setattr("chatvec_lab.paths.DATA", tmp_path)
    assert hub._licences({"a/base": None, "b/cp": None, "a/chat": None}, {}, None, None) == {
        "a/base": "L2", "b/cp": "MIT", "a/chat": None,
    }  # fmt: skip
    family = load_family(tmp_path / "families" / "f.yaml")
    monkeypatch.setattr("chatvec_lab.paths.DATA", tmp_path / "nowhere")
    assert hub._licences({"b/cp": None}, {}, family, None) == {"b/cp": "MIT"}


def test_what_is_not_ours_or_not_whole_is_not_pushed(families, saved, tmp_path):
    base = families("llama")[0]
    with pytest.raises(ValueError, match="was not written by chatvec_lab"):
        hub.push(base, "lab/x", dry_run=True)
    with pytest.raises(TypeError, match="is a source as it is"):
        hub.push(Checkpoint(base), "lab/x", dry_run=True)
    with pytest.raises(FileNotFoundError, match="no folder"):
        hub.push(tmp_path / "nothing", "lab/x", dry_run=True)
    with pytest.raises(ValueError, match="licences names gpt; the sources are"):
        hub.push(saved / "merged", "lab/x", dry_run=True, licences={"gpt": "mit"})
    for file in (saved / "merged").iterdir():
        if file.name != "model-00001-of-00002.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = next(p.name for p in sorted((saved / "merged").glob("*.safetensors")))
    (tmp_path / shard).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=f"is not whole: its manifest.json names {shard}"):
        hub.push(tmp_path, "lab/x", dry_run=True)
    with pytest.raises(ValueError, match="Repo id"):
        hub.push(saved / "merged", "no/good/name", dry_run=True)
