"""One difference saved on a disk that is warm, cold, or slow: does a merge read, compute and write at the same time?

    python benchmarks/disk.py [--rounds 2] [--layers 8] [--rate 100] [--disks warm cold slow]

Three disks: *warm* (all inputs in the page cache), *cold* (their pages dropped before each run), and *slow*: a file
system of its own on a loop device, which the kernel lets read RATE MB a second and write as many (`blkio.throttle` of cgroup
v1), cold too. The slow one needs root, losetup and mkfs.ext4, and is skipped, saying why, where one of them is lacking.

Beside each save on the same disk: reading alone (`cat` of three), writing alone (with `sync`), both in turn, and both
together, which is the limit. Computing alone is a save from the page cache to a disk in memory. What could overlap is
the sum of these three less the longest of them; the share that did is (sum - seconds of the save) / (sum - longest).
The start of Python is in the seconds of a save. The price of fsync is the same save without waiting for the disk.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from merge import MAIN, WITHOUT, Run, measure
from scaling import drop
from shapes import WORK, make

MEMBERS = ("base", "chat", "cp")
MEMORY = Path("/dev/shm")
THROTTLE = Path(
    "/sys/fs/cgroup/blkio"
)  # of the topmost group, since the kernel writes back on nobody's account
NOT_WAITING = WITHOUT["having it on the disk"] + MAIN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rate", type=int, default=100, help="MB a second of the slow disk, each way")
    parser.add_argument(
        "--disks", nargs="+", choices=("warm", "cold", "slow"), default=["warm", "cold", "slow"]
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no device and no throttle stay
    models = make(WORK / f"shapes-{options.layers}", members=MEMBERS, layers=options.layers)
    with ExitStack() as stack:
        here = WORK / "out-disk"
        disks = {"warm": (models, here, False), "cold": (models, here, True)}
        disks = {disk: place for disk, place in disks.items() if disk in options.disks}
        try:
            if "slow" in options.disks:
                slow = stack.enter_context(throttled(models, options.rate * 1_000_000))
                disks[f"slow, {options.rate} MB/s"] = ({m: slow / m for m in MEMBERS}, slow / "out", True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no slow disk here: {getattr(error, 'stderr', '') or error}")
        plans = {disk: contestants(*place[:2]) for disk, place in disks.items()}
        in_memory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY)), "out")
        runs: dict[tuple[str, str], list[Run]] = {("memory", "computing"): []}
        for i in range(options.rounds + 1):
            run = _run(merge(models, in_memory, code=NOT_WAITING), models, in_memory, False)
            if i:  # the first round pays for the first touch of the files
                runs["memory", "computing"].append(run)
            for disk, plan in plans.items():
                if i == 0 and disk != "warm":
                    continue
                for name, command in plan.items():
                    run = _run(command, *disks[disk])
                    if i:
                        runs.setdefault((disk, name), []).append(run)
                        print(f"round {i}: {disk}, {name}: {run.wall:.2f} s", file=sys.stderr)
    told(runs, list(disks), options)


def contestants(models: dict[str, Path], out: Path) -> dict[str, list[str]]:
    """Commands by name; what only writes, writes zeros."""
    base, chat, cp = (f"{models[m]}/*.safetensors" for m in MEMBERS)
    size = sum(file.stat().st_size for file in models["cp"].glob("*.safetensors"))
    shell = {
        "reading": f"cat {base} {chat} {cp} > /dev/null",
        "writing": f"mkdir -p {out}; head -c {size} /dev/zero > {out}/x; sync {out}/x",
        "in turn": f"mkdir -p {out}; cat {base} {chat} > /dev/null; cat {cp} > {out}/x; sync {out}/x",
        "together": f"mkdir -p {out}; cat {base} {chat} > /dev/null & cat {cp} > {out}/x; sync {out}/x; wait",
    }
    return {name: ["sh", "-c", code] for name, code in shell.items()} | {
        "save": merge(models, out),
        "save, not waiting": merge(models, out, code=NOT_WAITING),
    }


def merge(models: dict[str, Path], out: Path, code: str = MAIN.removeprefix("; ")) -> list[str]:
    members = [word for m in MEMBERS for word in (f"--{m}", str(models[m]))]
    return [sys.executable, "-c", code, "merge", *members, "--scale", "0.7", "--out", str(out)]


def _run(command: list[str], models: dict[str, Path], out: Path, is_cold: bool) -> Run:
    if is_cold:
        drop([file for folder in models.values() for file in folder.glob("*.safetensors")])
    run = measure(command, out, HF_HUB_OFFLINE="1")
    shutil.rmtree(out, ignore_errors=True)  # what is not on the disk yet need not get there
    return run


@contextmanager
def throttled(models: dict[str, Path], rate: int) -> Iterator[Path]:
    """A file system with copies of the members that reads and writes `rate` bytes a second; gone afterwards."""
    limits = [THROTTLE / f"blkio.throttle.{way}_bps_device" for way in ("read", "write")]
    if lacking := [file.name for file in limits if not os.access(file, os.W_OK)]:
        raise OSError(f"no {lacking[0]} that may be written in {THROTTLE} (root, and cgroups of version 1)")
    size = sum(file.stat().st_size for folder in models.values() for file in folder.iterdir())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=WORK)))
        image, mount = folder / "image", folder / "mount"
        mount.mkdir()
        with image.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size * 3 // 2)  # three members, one result, and room
        device = _tool("losetup", "--find", "--show", "--direct-io=on", str(image))
        stack.callback(_tool, "losetup", "--detach", device)
        _tool("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)
        _tool("mount", device, str(mount))
        stack.callback(_tool, "umount", str(mount))
        for member, source in models.items():
            shutil.copytree(source, mount / member)
        _tool("sync", "--file-system", str(mount))
        number = Path(f"/sys/class/block/{Path(device).name}/dev").read_text().strip()
        for file in limits:
            stack.callback(file.write_text, f"{number} 0\n")  # no limit
            file.write_text(f"{number} {rate}\n")
        yield mount


def _tool(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def told(runs: dict[tuple[str, str], list[Run]], disks: list[str], options: argparse.Namespace) -> None:
    def wall(disk: str, name: str) -> float:
        return statistics.median(run.wall for run in runs[disk, name])

    computing = wall("memory", "computing")
    cpu = statistics.median(run.cpu for run in runs["memory", "computing"])
    print(
        f"{options.layers} layers, {options.rounds} rounds, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; "
        f"computing alone {computing:.2f} s wall, {cpu:.2f} s CPU"
    )
    print(
        "| disk | reading | writing | in turn | together (limit) | save | x limit | x in turn | CPU | overlapped | "
        "not waiting | price of fsync |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for disk in disks:
        steps = (wall(disk, "reading"), computing, wall(disk, "writing"))
        save, limit, free = wall(disk, "save"), wall(disk, "together"), wall(disk, "save, not waiting")
        overlapped = (sum(steps) - save) / (sum(steps) - max(steps))
        cpu = statistics.median(run.cpu for run in runs[disk, "save"])
        print(
            f"| {disk} | {steps[0]:.2f} | {steps[2]:.2f} | {wall(disk, 'in turn'):.2f} | {limit:.2f} | {save:.2f} s | "
            f"{save / limit:.2f} | {save / wall(disk, 'in turn'):.2f} | {cpu:.2f} | {overlapped:.0%} | {free:.2f} | "
            f"{save - free:+.2f} s |"
        )


if __name__ == "__main__":
    main()
