"""Headers of safetensors files: what the library refuses is refused here, naming file and tensor."""

import json
import random
import struct

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from chatvec_lab.weights.sources.safetensors import safetensors_entries


@pytest.fixture
def file(tmp_path):
    save_file({"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(6.0) + 7, "c": torch.ones(2, dtype=torch.bfloat16)},
              tmp_path / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
    return tmp_path / "model.safetensors"


def parts(file):
    raw = file.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def write(file, header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + body)


def library_refuses(file):
    try:
        with safe_open(file, "pt") as opened:
            opened.keys()
    except SafetensorError:
        return True
    return False


def overlap(header, body):
    header["b"]["data_offsets"] = header["a"]["data_offsets"]
    return header, body


def partial_overlap(header, body):
    begin, end = header["b"]["data_offsets"]
    header["b"]["data_offsets"] = [begin - 4, end - 4]
    return header, body


def gap(header, body):
    for name in header.keys() - {"__metadata__"}:
        begin, end = header[name]["data_offsets"]
        if begin:
            header[name]["data_offsets"] = [begin + 2, end + 2]
    return header, body + bytes(2)


def shifted(header, body):
    for name in header.keys() - {"__metadata__"}:
        header[name]["data_offsets"] = [n + 4 for n in header[name]["data_offsets"]]
    return header, bytes(4) + body


def twice(header, body):
    text = json.dumps(header)[:-1] + f',"a":{json.dumps(header["b"])}}}'
    return text.encode(), body


def behind(header, body):
    return header, body + bytes(8)


def boolean(header, body):
    header["c"]["shape"] = [True, 2]
    return header, body


def negative(header, body):
    header["a"]["shape"] = [-2, -3]
    return header, body


def huge(header, body):
    header["a"]["shape"] = [1 << 62, 1 << 62]
    return header, body


def fields(header, body):
    header["a"]["dtypes"] = header["a"].pop("dtype")
    return header, body


@pytest.mark.parametrize(
    "damage",
    [overlap, partial_overlap, gap, shifted, twice, behind, boolean, negative, huge, fields],
    ids=lambda f: f.__name__,
)
def test_a_header_that_the_library_refuses_is_refused_by_name(file, damage):
    write(file, *damage(*parts(file)))
    assert library_refuses(file)
    with pytest.raises(ValueError, match=r"model\.safetensors.*[Dd]ownload"):
        safetensors_entries(file)


def test_no_damage_that_the_library_sees_is_missed(file):
    """300 seeded changes of the header: what the library refuses is refused; what is read has its bytes."""
    header, body = parts(file)
    text, refused, rng = json.dumps(header).encode(), 0, random.Random(0)
    expected = {name: tuple(info["data_offsets"]) for name, info in header.items() if name != "__metadata__"}
    for _ in range(300):
        at = rng.randrange(len(text))
        changed = (
            text[:at] + rng.choice([b"", b"0", b"9", b",", b'"', text[at : at + 3] * 2]) + text[at + 1 :]
        )
        write(file, changed, body)
        if library_refuses(file):
            refused += 1
            with pytest.raises(ValueError, match=r"model\.safetensors"):
                safetensors_entries(file)
        else:
            start = len(file.read_bytes()) - len(body)
            places = {
                (e.offset - start, e.offset - start + e.nbytes) for e in safetensors_entries(file).values()
            }
            assert places == set(expected.values())
    assert refused > 100
