"""What is compiled ahead is what a merge of bfloat16, float16 or float32 models needs."""

import numpy as np

from chatvec_lab.weights.numerics import exact, machine, prepare

RAW = {np.dtype("uint16"): 0x3F80, np.dtype("float16"): 1.0, np.dtype("float32"): 1.0}  # one


def test_a_first_merge_finds_its_kernels_compiled(monkeypatch):
    prepare.main()
    monkeypatch.setattr(machine.Kernel, "_compiled", None)  # nothing is left to compile
    for kernel in prepare.kernels():
        monkeypatch.setattr(kernel, "_call", None)
        assert kernel.load() is not None
    for kind, one in RAW.items():
        ones, zeros = np.full(1000, one, kind), np.zeros(1000, kind)
        for out in {kind, np.dtype("float32")}:
            for parts, sum_ in ([(0.5, ones, zeros)], 1.5), ([(0.5, ones, zeros), (0.25, ones, zeros)], 1.75):
                found = exact.widen(exact.combine(ones, parts, np.empty(1000, out)))
                assert (found == sum_).all(), (kind, out)
