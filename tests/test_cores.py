"""Cores that a process may use: its affinity, and cgroup quotas as files of both versions state them."""

import os

import pytest

from chatvec_lab import cores


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("own", "limits", "wanted"),
    [
        ("0::/job/step", {"job": "250000 100000", "job/step": "max 100000"}, 3),  # the group above counts too
        ("0::/job/step", {"job": "400000 100000", "job/step": "50000 100000"}, 1),
        ("0::/of/the/host", {".": "200000 100000"}, 2),  # in a container its own group is the topmost
        ("0::/", {".": "max 100000"}, float("inf")),
        ("0::/", {".": "nonsense"}, float("inf")),
        ("3:memory:/job\n0::/", {"job": "100000 100000"}, float("inf")),  # another controller's group
    ],
)
def test_version_2(tmp_path, own, limits, wanted):
    for place, text in limits.items():
        group(tmp_path / "groups" / place, cpu__max=text)
    (tmp_path / "own").write_text(own)
    assert cores.quota(tmp_path / "groups", tmp_path / "own") == wanted


@pytest.mark.parametrize(("allowed", "wanted"), [("150000", 2), ("-1", float("inf")), ("25000", 1)])
@pytest.mark.parametrize("mounted", ["cpu", "cpu,cpuacct"])
def test_version_1(tmp_path, allowed, wanted, mounted):
    group(
        tmp_path / "groups" / mounted / "job",
        **{"cpu__cfs_quota_us": allowed, "cpu__cfs_period_us": "100000"},
    )
    (tmp_path / "own").write_text("7:blkio:/job\n1:cpu,cpuacct:/job\n0::/")
    assert cores.quota(tmp_path / "groups", tmp_path / "own") == wanted


def test_without_cgroups_there_is_no_quota(tmp_path):
    assert cores.quota(tmp_path, tmp_path / "none") == float("inf")


@pytest.mark.parametrize(
    ("bound", "quota", "wanted"), [(16, 3, 3), (2, 3, 2), (4, float("inf"), 4), (1, 0, 1)]
)
def test_the_lesser_of_both_counts(monkeypatch, bound, quota, wanted):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)), raising=False)
    monkeypatch.setattr(cores, "quota", lambda: quota)
    assert cores.cores() == wanted


def test_of_this_process():
    assert 1 <= cores.cores() <= (os.cpu_count() or 1)
