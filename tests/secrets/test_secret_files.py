"""What a cell leaves holds no secret, whatever the type of the file."""

import bz2
import gzip
import json
import lzma
import os
import pickle
import sqlite3
import zipfile

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from chatvec_lab.secrets.files import redact_files

TOKENS = ["hf_" + "Secret01" * 4, "q\"uo\\te's<&>_^~{}%", "wörter und 日本 1"]


def files_with(folder, token):
    """A file of each kind with the token in it, and a reader of it: {name: (write, read)}."""
    table = pd.DataFrame({"error": [f"refused {token}", "fine"], "list": [[token], ["b"]], "n": [1, 2]})
    table["kind"] = pd.Categorical([token, "c"])
    table.to_parquet(folder / "t.parquet", index=False)
    table.drop(columns="list").to_feather(folder / "t.feather")
    table.to_csv(folder / "t.csv", index=False)
    table.to_csv(folder / "t.csv.gz", index=False)
    table.to_html(folder / "t.html")
    table.to_json(folder / "t.json")
    table.to_json(folder / "t.jsonl", orient="records", lines=True)
    table.style.format(escape="latex").to_latex(folder / "t.tex")
    np.savez_compressed(folder / "t.npz", text=np.frombuffer(token.encode(), dtype=np.uint8))
    (folder / "t.pickle").write_bytes(pickle.dumps({"a": token, "b": b"\0"}))
    (folder / "t.log").write_text(f"one\n{token}\nthree\n", "utf-8")
    (folder / "t.unknown").write_text(f"one {token}", "utf-8")
    with zipfile.ZipFile(folder / "t.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.json", json.dumps({"token": token}))
        archive.writestr("inner.csv.gz", gzip.compress(token.encode()))
    import nbformat  # compiles a grammar: a second of every process's start

    output = nbformat.v4.new_output(
        "display_data",
        {"text/html": table.to_html(), "text/plain": str(table), "application/json": {"a": [token]}},
    )
    stream = nbformat.v4.new_output("stream", text=f"one\n{token}\n")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[output, stream])])
    nbformat.write(notebook, folder / "t.ipynb")
    database = sqlite3.connect(folder / "t.sqlite")
    database.execute("create table t (a text)")
    database.execute("insert into t values (?)", [token])
    database.commit()
    database.close()
    figure, axes = plt.subplots()
    axes.set_title("a figure")
    figure.savefig(folder / "t.pdf", metadata={"Title": token if token.isascii() else "x"})
    figure.savefig(folder / "t.svg", metadata={"Title": token})
    plt.close(figure)


def texts(folder):
    """All that a reader gets out of the files."""
    yield folder / "t.parquet", pd.read_parquet(folder / "t.parquet").astype(str).to_csv()
    yield folder / "t.feather", pd.read_feather(folder / "t.feather").astype(str).to_csv()
    yield folder / "t.csv", "".join(pd.read_csv(folder / "t.csv").astype(str).to_numpy().ravel())
    yield folder / "t.csv.gz", "".join(pd.read_csv(folder / "t.csv.gz").astype(str).to_numpy().ravel())
    yield folder / "t.json", str(json.loads((folder / "t.json").read_text("utf-8")))
    lines = [json.loads(line) for line in (folder / "t.jsonl").read_text("utf-8").splitlines()]
    yield folder / "t.jsonl", "".join(f"{line['error']} {line['list'][0]}" for line in lines)
    yield folder / "t.npz", np.load(folder / "t.npz")["text"].tobytes().decode("utf-8", "replace")
    yield folder / "t.pickle", pickle.loads((folder / "t.pickle").read_bytes())["a"]
    with zipfile.ZipFile(folder / "t.zip") as archive:
        yield folder / "t.zip", json.loads(archive.read("inner.json"))["token"]
        yield folder / "t.zip", gzip.decompress(archive.read("inner.csv.gz")).decode()
    import nbformat

    notebook = nbformat.read(folder / "t.ipynb", as_version=4)
    data = notebook.cells[0].outputs[0].data
    yield (
        folder / "t.ipynb",
        data["text/plain"] + notebook.cells[0].outputs[1].text + str(data["application/json"]),
    )
    yield folder / "t.ipynb", data["text/html"]
    database = sqlite3.connect(folder / "t.sqlite")
    yield folder / "t.sqlite", database.execute("select a from t").fetchone()[0]
    database.close()
    for name in ("t.log", "t.unknown", "t.html", "t.tex", "t.svg"):
        yield folder / name, (folder / name).read_text("utf-8")


@pytest.mark.parametrize("token", TOKENS)
def test_every_type_of_file_loses_the_token_and_can_still_be_read(tmp_path, monkeypatch, token):
    monkeypatch.setenv("SOME_TOKEN", token)
    files_with(tmp_path, token)
    before = {path: text for path, text in texts(tmp_path)}
    assert redact_files(tmp_path) == ["SOME_TOKEN"]
    after = list(texts(tmp_path))
    assert len({path for path, _ in after}) == len(before)
    for path, text in after:
        assert token not in text and text != before.get(path), path
    for path in tmp_path.iterdir():
        assert token.encode() not in path.read_bytes(), path
    assert "&lt;SOME_TOKEN&gt;" in (tmp_path / "t.html").read_text("utf-8")
    assert r"<SOME\_TOKEN>" in (tmp_path / "t.tex").read_text("utf-8")
    assert redact_files(tmp_path) == [], "once is enough"


def test_what_holds_no_secret_keeps_its_bytes_and_its_mode(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", TOKENS[0])
    files_with(tmp_path, "harmless")
    (tmp_path / "t.log").chmod(0o640)
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in tmp_path.iterdir()}
    assert redact_files(tmp_path) == []
    assert before == {path: (path.read_bytes(), path.stat().st_ino) for path in tmp_path.iterdir()}
    (tmp_path / "secret.txt").write_text(TOKENS[0])
    (tmp_path / "secret.txt").chmod(0o640)
    redact_files(tmp_path)
    assert (tmp_path / "secret.txt").stat().st_mode & 0o777 == 0o640


def test_links_are_not_followed_and_names_are_cleaned(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", TOKENS[0])
    elsewhere = tmp_path / "mine.txt"
    elsewhere.write_text(TOKENS[0])
    folder = tmp_path / "cell"
    folder.mkdir()
    os.symlink(elsewhere, folder / "link.txt")
    (folder / f"of-{TOKENS[0]}.txt").write_text("x")
    redact_files(folder)
    assert elsewhere.read_text() == TOKENS[0]
    assert sorted(path.name for path in folder.iterdir()) == ["link.txt", "of-_SOME_TOKEN_.txt"]


def test_a_compressed_stream_that_holds_it_is_removed_and_named(tmp_path, monkeypatch):
    import zlib

    monkeypatch.setenv("SOME_TOKEN", TOKENS[0])
    stream = zlib.compress(TOKENS[0].encode())
    (tmp_path / "f.pdf").write_bytes(
        b"%PDF-1.4\n1 0 obj <</Filter /FlateDecode>>\nstream\n" + stream + b"\nendstream"
    )
    assert redact_files(tmp_path) == ["SOME_TOKEN"]
    assert [path.name for path in tmp_path.iterdir()] == ["f.pdf.removed"]


@pytest.mark.parametrize("kind", ["t.parquet", "t.json", "t.zip", "t.csv.gz", "t.ipynb"])
def test_torn_files_stop_nothing(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("SOME_TOKEN", TOKENS[0])
    files_with(tmp_path, TOKENS[0])
    content = (tmp_path / kind).read_bytes()
    for path in tmp_path.iterdir():
        path.unlink()
    for cut in (4, len(content) // 2, len(content) - 5):
        (tmp_path / kind).write_bytes(content[:cut])
        redact_files(tmp_path)
        assert not (tmp_path / kind).exists() or TOKENS[0].encode() not in (tmp_path / kind).read_bytes()


def test_other_packings_are_opened(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", TOKENS[0])
    for name, packer in (("t.csv.bz2", bz2), ("t.json.xz", lzma)):
        (tmp_path / name).write_bytes(packer.compress(f"a,{TOKENS[0]},b".encode()))
    assert redact_files(tmp_path) == ["SOME_TOKEN"]
    for name, packer in (("t.csv.bz2", bz2), ("t.json.xz", lzma)):
        assert packer.decompress((tmp_path / name).read_bytes()) == b"a,<SOME_TOKEN>,b"


def test_names_of_folders_and_links_are_cleaned_too(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", TOKENS[0])
    folder = tmp_path / f"run {TOKENS[0]}"
    (folder / TOKENS[0]).mkdir(parents=True)
    (folder / TOKENS[0] / "a.txt").write_text(TOKENS[0])
    (folder / f"{TOKENS[0]}.link").symlink_to("a.txt")
    (tmp_path / "run _SOME_TOKEN_").mkdir()  # taken
    assert redact_files(tmp_path) == ["SOME_TOKEN"]
    there = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    new = "run _SOME_TOKEN__2"
    assert there == [
        "run _SOME_TOKEN_",
        new,
        f"{new}/_SOME_TOKEN_",
        f"{new}/_SOME_TOKEN_.link",
        f"{new}/_SOME_TOKEN_/a.txt",
    ]


def test_a_notebook_keeps_its_tags_and_lists(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", TOKENS[0])
    half, rest = TOKENS[0][:20], TOKENS[0][20:]
    output = {"output_type": "stream", "name": "stdout", "text": [f"one {half}\n", f"{rest} two\n", "three"]}
    cell = {"cell_type": "code", "id": "a", "execution_count": 1, "outputs": [output]}
    cell |= {"source": ["x = 1\n", "y = 2"], "metadata": {"tags": ["parameters", "hide"], "note": TOKENS[0]}}
    (tmp_path / "n.ipynb").write_text(
        json.dumps({"cells": [cell], "metadata": {"by": TOKENS[0]}, "nbformat": 4})
    )
    assert redact_files(tmp_path) == ["SOME_TOKEN"]
    found = json.loads((tmp_path / "n.ipynb").read_text())
    (kept,) = found["cells"]
    assert (
        kept["metadata"] == {"tags": ["parameters", "hide"], "note": "<SOME_TOKEN>"}
        and kept["source"] == cell["source"]
    )
    assert "".join(kept["outputs"][0]["text"]) == "one <SOME_TOKEN> two\nthree"
    assert found["metadata"] == {"by": "<SOME_TOKEN>"}
    (tmp_path / "s.json").write_text(json.dumps({"a": f"{half}\n  {rest}"}))
    assert redact_files(tmp_path) == ["SOME_TOKEN"] and json.loads((tmp_path / "s.json").read_text()) == {
        "a": "<SOME_TOKEN>"
    }
