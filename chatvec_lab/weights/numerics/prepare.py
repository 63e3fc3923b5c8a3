"""Compile the kernels before their first use, which then needs no compiler: half a minute on two cores, once a machine.

python -m chatvec_lab.weights.numerics.prepare
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from chatvec_lab.weights.numerics import added, arrays, draws, lanes, machine, sums, votes


def kernels() -> list[machine.Kernel]:
    """Those that a merge of bfloat16, float16 or float32 models needs; what takes longest to compile comes first."""
    bfloat16, float16, float32 = np.dtype(np.uint16), np.dtype(np.float16), np.dtype(np.float32)
    found = [
        v
        for module in (sums, votes, added, arrays, draws)
        for v in vars(module).values()
        if isinstance(v, machine.Kernel)
    ]
    kinds = (bfloat16, float16, float32)
    found += [lanes.kernel("lane", kind, kind) for kind in kinds] + [lanes.kernel("lane", bfloat16, float32)]
    return found + [lanes.kernel("differences", kind, float32) for kind in kinds]


def main() -> None:
    """A process a core, since a compiler has one thread; what is compiled is kept, and so found by all others."""
    processes = min(os.cpu_count() or 1, 4)
    with ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_say_nothing
    ) as pool:
        list(pool.map(_load, range(len(kernels()))))


def _say_nothing() -> None:
    """Who set this going knows why it takes seconds."""
    machine._tell = lambda: None


def _load(number: int) -> None:
    kernels()[number].load()


if __name__ == "__main__":
    main()
