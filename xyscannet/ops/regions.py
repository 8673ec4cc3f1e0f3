"""Compiled kernels as OpenMP's parallel regions, without Python between a task and the next.

A thread that asks Python for its next task waits for the interpreter's lock and passes the kernel's arguments anew: 32
tasks on two threads cost 0.2 ms. Here a few machine instructions, made once for each kind of argument list, count the
tasks and call the kernel's own code by numba's calling convention: the address of the result, the address of the
exception, then the arguments, tuples and arrays taken apart; not zero is returned where it failed.
"""

from __future__ import annotations

import array
import ctypes
import struct
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ir
import numba
import numpy as np

_I32, _I64, _REAL = ir.IntType(32), ir.IntType(64), ir.DoubleType()
_COUNTER, _TASKS, _CODE, _FAILED, _ARGUMENTS = range(5)  # of what a region is given, 64 bits each


@cache
def _engine() -> llvm.ExecutionEngine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


@cache
def _region(kinds: str) -> int:
    """The address of `void region(int64 *given)` for kernels whose arguments are of these kinds: i(nteger), r(eal)."""
    module = ir.Module(f"xyscan_{kinds}")
    given = ir.FunctionType(ir.VoidType(), [_I64.as_pointer()])
    region = ir.Function(module, given, f"xyscan_region_{kinds}")
    region.args[0].name = "given"
    start, head, body, failed, end = map(
        region.append_basic_block, ("start", "head", "body", "failed", "end")
    )

    build = ir.IRBuilder(start)

    def place(index: int) -> ir.Value:
        return build.gep(region.args[0], [ir.Constant(_I64, index)])

    arguments = []
    for index, kind in enumerate(kinds, _ARGUMENTS):
        value = build.load(place(index))
        arguments.append(build.bitcast(value, _REAL) if kind == "r" else value)
    types = [_I64, _I64, *(argument.type for argument in arguments), _I64, _I64]
    kernel = build.inttoptr(build.load(place(_CODE)), ir.FunctionType(_I32, types).as_pointer())
    tasks, counter, failure = build.load(place(_TASKS)), place(_COUNTER), place(_FAILED)
    results = [build.ptrtoint(build.alloca(_I64), _I64) for _ in range(2)]
    build.branch(head)

    build.position_at_end(head)
    one = ir.Constant(_I64, 1)
    task = build.atomic_rmw("add", counter, one, "monotonic")
    build.cbranch(build.icmp_signed("<", task, tasks), body, end)

    build.position_at_end(body)
    status = build.call(kernel, [*results, *arguments, task, build.add(task, one)])
    build.cbranch(build.icmp_signed("==", status, ir.Constant(_I32, 0)), head, failed)

    build.position_at_end(failed)
    build.atomic_rmw("add", failure, one, "monotonic")
    build.branch(end)

    build.position_at_end(end)
    build.ret_void()

    engine = _engine()
    compiled = llvm.parse_assembly(str(module))
    engine.add_module(compiled)
    engine.finalize_object()
    return engine.get_function_address(region.name)


def _take_apart(arguments: tuple, values: list[int], kinds: list[str], signature: list) -> bool:
    """Append what a kernel is given for the arguments, and what kind each is; False where one is of no known kind."""
    for argument in arguments:
        kind = type(argument)
        if kind is int:
            values.append(argument)
            kinds.append("i")
            signature.append(int)
        elif kind is tuple:
            signature.append(len(argument))
            if not _take_apart(argument, values, kinds, signature):
                return False
        elif kind is np.ndarray and argument.flags.carray:
            values += (0, 0, argument.size, argument.itemsize, argument.ctypes.data)
            values += argument.shape
            values += argument.strides
            kinds.append("i" * (5 + 2 * argument.ndim))
            signature.append((argument.dtype.char, argument.ndim))
        elif kind is float:
            values.append(struct.unpack("q", struct.pack("d", argument))[0])
            kinds.append("r")
            signature.append(float)
        else:
            return False
    return True


_codes: dict[tuple, tuple[int, int]] = {}
_lock = threading.Lock()


def _code(kernel: Callable, arguments: tuple, kinds: list[str], signature: tuple) -> tuple[int, int]:
    """The addresses of the region and of the kernel compiled for arguments of this signature."""
    key = kernel, signature
    if key not in _codes:
        with _lock:
            types = (*map(numba.typeof, arguments), numba.int64, numba.int64)
            kernel.compile(types)
            compiled = kernel.overloads[types]
            address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
            _codes[key] = _region("".join(kinds)), address
    return _codes[key]


def run_region(parallel: Callable, kernel: Any, arguments: tuple, tasks: int, threads: int) -> bool:
    """Run kernel(*arguments, task, task + 1) for each task, on OpenMP's threads.

    Args:
        parallel: `GOMP_parallel`.
        kernel: what `compiled` made.
        arguments: integers, floats, contiguous arrays, and tuples of these.

    Returns:
        whether all of it was done; if not, the kernel is no compiled one, an argument is something else, or a task
        failed. Nothing is raised: tasks may be run once more.
    """
    if not isinstance(kernel, numba.core.dispatcher.Dispatcher):
        return False
    values, kinds, signature = [0, tasks, 0, 0], [], []
    if not _take_apart(arguments, values, kinds, signature):
        return False
    region, values[_CODE] = _code(kernel, arguments, kinds, tuple(signature))
    given = array.array("q", values)
    parallel(ctypes.c_void_p(region), ctypes.c_void_p(given.buffer_info()[0]), threads, 0)
    return not given[_FAILED]
