"""What is compiled ahead is what a merge of bfloat16 models needs."""

import numpy as np

from chatvec_lab.weights.numerics import arrays, lanes, machine, prepare, sums


def test_a_first_merge_finds_its_kernels_compiled(monkeypatch):
    prepare.main()
    monkeypatch.setattr(machine.Kernel, "_compiled", None)  # nothing is left to compile
    for kernel in (sums._SINGLE, sums._DOUBLE, arrays._COUNTS):
        assert kernel.load() is not None
    assert lanes.kernel("lane", *[np.dtype("uint16")] * 2).load() is not None
