"""Runs a Python program as ``python`` would, in a process that has begun already."""

from __future__ import annotations

import importlib.machinery
import io
import os
import runpy
import sys
import types
from collections.abc import Sequence


def run_script(path: str, arguments: Sequence[str]) -> None:
    """Do as ``python path arguments``; what the program raises is raised.

    Raises
    ------
    OSError
        If there is no such file, or it cannot be read.
    """
    whole = os.path.abspath(path)
    with io.open_code(whole) as file:
        source = file.read()
    _begin([path, *arguments], os.path.dirname(os.path.realpath(path)))
    _run(source, whole)


def run_module(name: str, arguments: Sequence[str]) -> None:
    """Do as ``python -m name arguments``; what the program raises is raised.

    Raises
    ------
    ImportError
        If there is no such module.
    """
    _begin([name, *arguments], os.getcwd())
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _begin(argv: list[str], folder: str) -> None:
    sys.argv[:] = argv
    if not getattr(sys.flags, "safe_path", False):
        # In place of where this command lies, or of the folder that it was called in.
        sys.path[:1] = [folder]
    hook = sys.excepthook

    def without_ours(
        kind: type[BaseException],
        error: BaseException,
        traceback: types.TracebackType | None,
    ) -> None:
        mine = _of_program(traceback)
        hook(kind, error.with_traceback(mine), mine)

    sys.excepthook = without_ours


def _run(source: bytes, path: str) -> None:
    code = compile(source, path, "exec", dont_inherit=True)
    program = types.ModuleType("__main__")
    program.__file__ = path
    program.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
    vars(program)["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = program
    exec(code, vars(program))


#: Functions that run a program; what they were called by is not the program's.
_RUNNERS = (_run.__code__, run_module.__code__, run_script.__code__)


def _of_program(
    traceback: types.TracebackType | None,
) -> types.TracebackType | None:
    """Leave out what was there before the program, as if it had been run by itself."""
    mine = at = traceback
    while at is not None:
        if at.tb_frame.f_code in _RUNNERS:
            mine = at.tb_next
        at = at.tb_next
    # What `runpy` has of its own, in a file or frozen.
    while mine is not None and mine.tb_frame.f_globals.get("__name__") == "runpy":
        mine = mine.tb_next
    return mine
