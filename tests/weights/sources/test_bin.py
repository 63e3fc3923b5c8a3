"""`.bin` files that lie about their storages, their archive or their size: each named, nothing unpacked."""

import io
import pickle
import struct
import zipfile

import pytest
import torch

from chatvec_lab import Checkpoint
from chatvec_lab.weights.sources.bin import bin_entries


@pytest.fixture
def file(tmp_path):
    torch.save({"a": torch.arange(8.0), "b": torch.arange(8.0) + 100}, tmp_path / "pytorch_model.bin")
    return tmp_path / "pytorch_model.bin"


def members(file):
    with zipfile.ZipFile(file) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def rewrite(file, content, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def test_a_tensor_longer_than_its_storage_is_refused(file):
    content = members(file)
    name = next(n for n in content if n.endswith("data.pkl"))
    # a's shape (8,) becomes (16,): it would go on into b's bytes
    content[name] = content[name].replace(b"K\x08\x85", b"K\x10\x85", 1)
    rewrite(file, content)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin.*'a' is longer than its storage"):
        bin_entries(file)


def test_a_storage_that_is_shorter_than_it_says_is_refused(file):
    content = members(file)
    name = next(n for n in content if n.endswith("data/0"))
    content[name] = content[name][:-4]
    rewrite(file, content)
    with pytest.raises(
        ValueError, match=r"pytorch_model\.bin.*storage of 'a' should have 32 bytes and has 28"
    ):
        bin_entries(file)


def test_what_is_compressed_is_not_unpacked(file):
    content = members(file)
    name = next(n for n in content if n.endswith("data.pkl"))
    content[name] = content[name] + bytes(50_000_000)
    rewrite(file, content, zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 1_000_000
    with pytest.raises(ValueError, match=r"pytorch_model\.bin.*is compressed"):
        bin_entries(file)


def test_a_memo_number_reserves_no_memory(file):
    content = members(file)
    name = next(n for n in content if n.endswith("data.pkl"))
    content[name] = content[name][:2] + b"N" + b"r" + struct.pack("<I", 0x7FFFFFFF) + b"0" + content[name][2:]
    rewrite(file, content)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is damaged \(a memo number"):
        bin_entries(file)


def test_a_directory_that_points_to_another_member_is_refused(file):
    raw = bytearray(file.read_bytes())
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        infos = {info.filename.rpartition("/")[2]: info for info in archive.infolist()}
        start = archive.start_dir
    at = start
    while raw[at : at + 4] == b"PK\x01\x02":
        lengths = struct.unpack("<HHH", raw[at + 28 : at + 34])
        if raw[at + 46 : at + 46 + lengths[0]].endswith(b"data/0"):
            raw[at + 42 : at + 46] = struct.pack("<I", infos["1"].header_offset)
        at += 46 + sum(lengths)
    file.write_bytes(raw)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin.*data/0 does not begin where the archive says"):
        bin_entries(file)


def test_a_damaged_pickle_is_named(file):
    content = members(file)
    name = next(n for n in content if n.endswith("data.pkl"))
    for cut in (1, 20, len(content[name]) // 2, len(content[name]) - 1):
        rewrite(file, content | {name: content[name][:cut]})
        with pytest.raises(ValueError, match=r"pytorch_model\.bin is damaged"):
            _ = Checkpoint(file.parent).names
    rewrite(file, content | {name: pickle.dumps({3: 4})})
    assert bin_entries(file) == {}


@pytest.mark.parametrize("key", ["state_dict", "model", "module"])
def test_tensors_one_level_down_are_told_so(file, key):
    torch.save({key: {"a": torch.ones(2)}, "step": 3}, file)
    with pytest.raises(ValueError, match=rf"pytorch_model\.bin holds its tensors one level down, in '{key}'"):
        bin_entries(file)


def test_a_kind_of_tensor_that_is_not_read_is_not_called_foreign_code(file):
    torch.save({"a": torch.ones(2, 2).to(torch.float8_e4m3fn)}, file)
    with pytest.raises(ValueError, match=r"a kind that is not read from this format.*8-bit floats"):
        bin_entries(file)


def test_a_file_without_a_tensor_is_no_model(file):
    torch.save({"step": 3}, file)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin holds no tensor"):
        _ = Checkpoint(file.parent).names
