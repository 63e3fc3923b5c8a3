"""Compiled kernels without their compiler: machine code that numba made once is kept, and later loaded by itself.

Loading takes a hundredth of a second, importing numba and its own cache a third of one, in each process. A kernel takes
addresses and numbers; what it computes is in the modules `compiled_*` beside this one, which are imported only to
compile. What is kept is for this processor, these sources and these versions, and is used only where nobody else
could have written it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

import llvmlite.binding as llvm
import numpy as np

_C = {
    "q": ctypes.c_int64,
    "I": ctypes.c_uint32,
    "Q": ctypes.c_uint64,
    "f": ctypes.c_float,
    "d": ctypes.c_double,
}
_NUMBA = {"q": "int64", "I": "uint32", "Q": "uint64", "f": "float32", "d": "float64"}
_OF_C = {"memset", "memcpy", "memmove"}  # what a kernel may call
# numba frees what an array owned when its last reference goes; arrays at addresses own nothing
_NEVER = "define void @NRT_MemInfo_call_dtor(ptr %0) {\n  ret void\n}"
_LOCK = threading.Lock()
_ENGINES = []  # they own the memory of what was loaded


def address(raw: np.ndarray | None) -> int:
    """Where an array lies, for a kernel; 0 for None."""
    return 0 if raw is None else raw.__array_interface__["data"][0]


class Kernel:
    """The function `name` of the module that `source` imports, a `compiled_*`; it returns a whole number.

    `kinds` has a letter for each argument: q, I, Q for int64 (and addresses), uint32, uint64; f, d for floats.
    """

    def __init__(self, source: Callable[[], ModuleType], name: str, kinds: str):
        self.source, self.name, self.kinds = source, name, kinds
        self._call = None

    def __call__(self, *arguments) -> int:
        result, fault = ctypes.c_int64(), ctypes.c_void_p()  # no kernel raises, but all have a place for it
        (self._call or self.load())(ctypes.byref(result), ctypes.byref(fault), *arguments)
        return result.value

    def load(self):
        """The function, loaded or, where its code is not kept, compiled."""
        with _LOCK:
            if self._call is None:
                files = [folder / f"{self.name}-{self._key()}" for folder in _folders()]
                address = next(filter(None, map(_kept, files)), None) or self._compiled(files)
                kinds = [_C[kind] for kind in self.kinds]
                self._call = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *kinds)(
                    address
                )
        return self._call

    def _key(self) -> str:
        """What machine code depends on."""
        return hashlib.sha256(repr((self.name, self.kinds, _surroundings())).encode()).hexdigest()[:32]

    def _compiled(self, files: list[Path]) -> int:
        """The address of the function, compiled by numba now; its code is kept in the first file that can be written."""
        from numba import njit

        _tell()
        function = getattr(self.source(), self.name)
        signature = f"int64({', '.join(_NUMBA[kind] for kind in self.kinds)})"
        made = njit(signature, nogil=True, error_model="numpy")(function)
        [whole] = made.overloads.values()
        symbol = whole.fndesc.llvm_func_name
        code = _alone(made.inspect_llvm(made.signatures[0]), symbol)
        if code is None:  # it calls what only numba has
            _ENGINES.append(made)
            return whole._asdict()["library"].get_pointer_to_function(symbol)
        for file in files:  # where none can be written it is compiled again next time
            with suppress(OSError):
                _keep(file, symbol.encode(), code)
                break
        return _loaded(symbol, code)


@cache
def _tell() -> None:
    """Say to who sits before a terminal why the first use takes seconds."""
    if sys.stderr.isatty():
        print("Compiling kernels for this processor, once: some ten seconds ...", file=sys.stderr, flush=True)


def _alone(text: str, symbol: str) -> bytes | None:
    """Machine code of one function of a module without the rest (its wrapper for Python); None if it needs the rest."""
    module, machine = llvm.parse_assembly(text), _machine()
    module.link_in(llvm.parse_assembly(_NEVER))
    for function in module.functions:  # only this one is asked for
        if not function.is_declaration and function.name != symbol:
            function.linkage = "internal"
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(0)))
    outside = {function.name for function in module.functions if function.is_declaration}
    is_alone = all(name in _OF_C or name.startswith("llvm.") for name in outside)
    return machine.emit_object(module) if is_alone else None


def features() -> str:
    """What the processor can do, with its widest vectors, which LLVM spares for the clock rates of the first that had them."""
    found = llvm.get_host_cpu_features()
    return found.flatten() + (",-prefer-256-bit" if found.get("avx512f") else "")


def _machine() -> llvm.TargetMachine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu = llvm.get_host_cpu_name()
    return llvm.Target.from_default_triple().create_target_machine(cpu, features(), opt=3, jit=True)


def _loaded(symbol: str, code: bytes) -> int:
    """The address of a function in machine code."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _ENGINES.append(engine)
    return engine.get_function_address(symbol)


@cache
def _surroundings() -> tuple:
    sources = sorted(Path(__file__).parent.glob("compiled_*.py"))
    versions = [metadata.version(name) for name in ("numba", "llvmlite")]
    told = ("NUMBA_CPU", "NUMBA_ENABLE", "NUMBA_OPT")  # not the number of threads, of which a kernel has one
    forced = sorted(item for item in os.environ.items() if item[0].startswith(told))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return digest, versions, forced, llvm.get_process_triple(), llvm.get_host_cpu_name(), features()


@cache
def _folders() -> list[Path]:
    """Beside Python's own compiled code, or in the user's cache."""
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return [Path(__file__).parent / "__pycache__", Path(user).absolute() / "chatvec_lab" / "kernels"]


def _kept(file: Path) -> int | None:
    """The address of a function whose code was kept, or None: for a file that is not there, or not whole, or that others
    than we and the system's administrator could have written.
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
        with open(handle, "rb") as stream:
            found = os.fstat(handle)
            others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if found.st_uid not in (0, os.geteuid()) or others or not stat.S_ISREG(found.st_mode):
                return None
            digest, _, content = stream.read().partition(b"\n")
    except OSError:
        return None
    if digest != hashlib.sha256(content).hexdigest().encode():
        return None
    symbol, _, code = content.partition(b"\n")
    return _loaded(symbol.decode(), code)


def _keep(file: Path, symbol: bytes, code: bytes) -> None:
    """Write a file that only we can write, whole or not at all."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = symbol + b"\n" + code
    handle, temporary = tempfile.mkstemp(dir=file.parent)
    try:
        with open(handle, "wb") as stream:
            os.fchmod(handle, 0o644)
            stream.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise
