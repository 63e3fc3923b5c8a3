"""The replies in the page: all of them, in few bytes, without secrets, and a filter for each point."""

import base64
import gzip
import json

import numpy as np

from chatvec_lab.report import gather, replies


def unpacked(data):
    """The table in a packed block, read as the page's script does."""
    block = gzip.decompress(base64.b64decode(data))
    header, body = block.split(b"\n", 1)
    header, columns, at = json.loads(header), {}, 0
    for column in header["columns"]:
        codes = np.zeros(header["rows"], int)
        for byte in range(column["width"]):
            codes |= np.frombuffer(body, "u1", header["rows"], at).astype(int) << (8 * byte)
            at += header["rows"]
        columns[column["name"]] = [[None, *column["values"]][code] for code in codes]
    assert at == len(body)
    return header, columns


def test_every_reply_is_there_as_it_was_written(finished):
    asked = gather.content(finished())["replies"]
    packed = replies.packed(asked)
    header, columns = unpacked(packed["data"])
    assert (packed["rows"], packed["step"]) == (len(asked.table), 1) and len(asked.table) == 6 * 10 * (3 + 4)
    assert columns["response"] == list(asked.table.response) and columns["correct"] == list(
        asked.table.correct
    )
    assert [m["name"] for m in header["measures"]] == ["correct", "judge"]
    assert {m["name"]: m["verdict"] for m in header["measures"]} == {"correct": True, "judge": False}
    assert set(columns["model"]) >= {"CP", "CP + τ", "CP + 0.5 τ"}


def test_models_with_tau_have_the_scale_of_their_cell(finished):
    table = gather.content(finished())["replies"].table
    rows = table[table.notebook == "04_following"]
    assert set(rows[rows.model == "CP + τ"].scale) == {"0.5"} and set(rows[rows.model == "CP"].scale) == {""}


def test_too_many_replies_are_thinned_by_prompt_so_that_models_stay_beside_each_other(finished):
    asked = gather.content(finished())["replies"]
    packed = replies.packed(asked, largest=1000)
    _, columns = unpacked(packed["data"])
    assert packed["step"] > 1 and packed["rows"] < packed["scored"] == len(asked.table)
    models = {}
    for prompt, model in zip(columns["prompt"], columns["model"], strict=True):
        models.setdefault(prompt, set()).add(model)
    assert all({"CP", "CP + τ"} <= found for found in models.values())


def test_a_secret_is_not_packed(finished, monkeypatch):
    out = finished()
    monkeypatch.setenv("EVIL_API_KEY", "狗是動物。-but-a-secret-1234567890")
    import pandas

    file = next(out.glob("cells/04_following/*/tables/replies.parquet"))
    rows = pandas.read_parquet(file)
    rows.loc[0, "response"] = "my key is 狗是動物。-but-a-secret-1234567890!"
    rows.to_parquet(file)
    _, columns = unpacked(replies.packed(gather.content(out)["replies"])["data"])
    assert "my key is <EVIL_API_KEY>!" in columns["response"]


def test_a_point_leads_to_its_replies_or_nowhere(finished):
    asked = gather.content(finished())["replies"]
    keys = {"model": "CP", "language": "zh"}
    assert asked.where("04_following", keys, "correct") == {
        "notebook": "04_following",
        **keys,
        "measure": "correct",
    }
    assert asked.where("03_sweep", {"scale": "0.5"}) == {"notebook": "03_sweep", "scale": "0.5"}
    unknown = [("03_sweep", {"scale": "0.75"}, ""), ("no", {"model": "CP"}, "")]
    unknown += [("04_following", {"part": "mlp"}, ""), ("04_following", {"model": "CP"}, "toxic")]
    for notebook, keys, metric in unknown:
        assert asked.where(notebook, keys, metric) is None
