"""How many cores this process may use: those that it is bound to, and no more than its cgroup's quota allows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import ceil, inf
from pathlib import Path


def cores() -> int:
    """Whole cores, at least one; a quota of one and a half counts as two.

    >>> cores() >= 1
    True
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(bound, quota())))


def quota(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Cores that the cgroup of this process, and those above it, allow; infinite without a quota or off Linux.

    `groups` is where cgroups are mounted (version 2, or version 1 with a folder a controller), `own` the list of those
    that this process is in. In a container its own group is often mounted as the topmost.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return inf
    least = inf
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        for root in (groups / "cpu", groups / controllers) if controllers else (groups,):
            place = root / path.lstrip("/")
            for folder in (place, *place.parents[: len(place.parts) - len(root.parts)]):
                least = min([least, *_limits(folder)])
    return ceil(least) if least < inf else inf


def _limits(folder: Path) -> Iterator[float]:
    """The quota of one group over its period, by either version's files."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            allowed, period = " ".join((folder / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        if allowed.isdigit() and period.isdigit() and int(period):  # not "max", not -1
            yield int(allowed) / int(period)
