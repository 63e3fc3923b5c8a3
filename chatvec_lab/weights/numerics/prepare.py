"""Compile the kernels before their first use, which then needs no compiler: some ten seconds, once a machine.

python -m chatvec_lab.weights.numerics.prepare
"""

import numpy as np

from chatvec_lab.weights.numerics import added, arrays, draws, lanes, sums, votes
from chatvec_lab.weights.numerics.machine import Kernel


def main() -> None:
    kernels = [
        v
        for module in (added, arrays, draws, sums, votes)
        for v in vars(module).values()
        if isinstance(v, Kernel)
    ]
    bfloat16, float32 = np.dtype(np.uint16), np.dtype(np.float32)
    kernels += [lanes.kernel("lane", bfloat16, bfloat16), lanes.kernel("differences", bfloat16, float32)]
    for kernel in kernels:
        kernel.load()


if __name__ == "__main__":
    main()
