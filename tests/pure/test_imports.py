"""Who may import what: the rules of the house, read from its source."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest

import joblib_distributed
from joblib_distributed import driver

PACKAGE = Path(joblib_distributed.__file__).parent

#: Lines after which a module is to be divided.
MOST_LINES = 450

#: Names that say nothing about what is in a module.
MEANINGLESS = {"utils", "util", "core", "common", "helpers", "misc", "tools", "base"}

MODULES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text())
    for path in sorted(PACKAGE.rglob("*.py"))
}

PURE = [
    name
    for name in MODULES
    if name.startswith("data/")
    or name
    in (
        "options.py",
        "errors.py",
        "driver/ahead.py",
        "driver/call.py",
        "driver/events.py",
        "driver/batching.py",
        "driver/entries.py",
        "driver/findings.py",
        "driver/flights.py",
        "driver/heartbeats.py",
        "driver/keys.py",
        "driver/lanes.py",
        "driver/outgoing.py",
        "driver/refusals.py",
        "driver/results.py",
        "driver/sending.py",
        "driver/sent.py",
        "driver/supply.py",
        "driver/turns.py",
        "driver/verdicts.py",
    )
]

#: The modules that may name `distributed.Client`: where it comes from, what it is for.
WITH_CLIENT = ("driver/sources.py", "driver/cluster.py")


def imports(module: str) -> Iterator[tuple[str, int]]:
    """Dotted names of all that a module imports, anywhere in it, with the line."""
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def imports_of(module: str, *packages: str) -> list[str]:
    """Say which of these packages a module imports, and where."""
    return [
        f"{module}:{line} imports {name}"
        for name, line in imports(module)
        if any(name == p or name.startswith(f"{p}.") for p in packages)
    ]


def attributes(module: str) -> Iterator[tuple[str, str, int]]:
    """``(owner, attribute, line)`` of each ``owner.attribute``, of the last two names."""
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Attribute):
            owner = node.value
            if isinstance(owner, ast.Attribute):
                yield owner.attr, node.attr, node.lineno
            elif isinstance(owner, ast.Name):
                yield owner.id, node.attr, node.lineno


@pytest.mark.parametrize("module", MODULES)
def test_imports_are_absolute(module: str) -> None:
    relative = [
        node.lineno
        for node in ast.walk(MODULES[module])
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


@pytest.mark.parametrize(
    "module", [m for m in MODULES if m.startswith(("worker/", "data/"))]
)
def test_nothing_of_the_driver_reaches_the_workers(module: str) -> None:
    assert imports_of(module, "joblib_distributed.driver") == []


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("data/")])
def test_data_belongs_to_neither_side(module: str) -> None:
    assert imports_of(module, "joblib_distributed.worker") == []


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_import_neither_joblib_nor_distributed(module: str) -> None:
    assert imports_of(module, "joblib", "distributed", "dask") == []


@pytest.mark.parametrize(
    "module",
    [
        "driver/call.py",
        "driver/events.py",
        "driver/batching.py",
        "driver/entries.py",
        "driver/findings.py",
        "driver/flights.py",
        "driver/heartbeats.py",
        "driver/keys.py",
        "driver/lanes.py",
        "driver/outgoing.py",
        "driver/results.py",
        "driver/sending.py",
        "driver/sent.py",
        "driver/supply.py",
        "driver/verdicts.py",
    ],
)
def test_decisions_are_made_without_threads_clocks_and_input(module: str) -> None:
    impure = ("threading", "time", "queue", "asyncio", "concurrent", "socket", "random")
    assert imports_of(module, *impure) == []


@pytest.mark.parametrize("module", ["options.py", "errors.py"])
def test_options_and_errors_import_nothing_else_of_ours(module: str) -> None:
    allowed = {"options.py": "joblib_distributed.errors."}.get(module, "-")
    others = [
        name
        for name, _ in imports(module)
        if name.startswith("joblib_distributed") and not name.startswith(allowed)
    ]
    assert others == []


@pytest.mark.parametrize("module", [m for m in MODULES if m not in WITH_CLIENT])
def test_only_two_modules_name_the_client(module: str) -> None:
    found = imports_of(
        module, "distributed.Client", "distributed.client", "dask.distributed"
    )
    found += [
        f"{module}:{line} says {owner}.{name}"
        for owner, name, line in attributes(module)
        if (owner, name) in {("distributed", "Client"), ("distributed", "client")}
    ]
    assert found == []


@pytest.mark.parametrize(
    "module",
    [m for m in MODULES if m not in ("driver/cluster.py", "driver/embedded.py")],
)
def test_only_two_modules_know_how_clusters_are_made(module: str) -> None:
    makers = ("LocalCluster", "Nanny", "Scheduler", "SpecCluster", "deploy")
    assert imports_of(module, *(f"distributed.{maker}" for maker in makers)) == []


@pytest.mark.parametrize("module", [m for m in MODULES if m != "driver/joblib_hooks.py"])
def test_only_the_hooks_touch_private_names_of_joblib(module: str) -> None:
    private = [
        f"{module}:{line} imports {name}"
        for name, line in imports(module)
        if re.match(r"joblib(\..+)?\._", name)
    ]
    private += [
        f"{module}:{line} says {owner}.{name}"
        for owner, name, line in attributes(module)
        if owner in ("parallel", "joblib", "callback", "batch") and name.startswith("_")
    ]
    assert private == []


#: The modules that may write to the user's streams: each says what.
SHOWING = ("driver/telling.py", "driver/printing.py", "driver/progress.py")


@pytest.mark.parametrize("module", [m for m in MODULES if m not in SHOWING])
def test_only_some_modules_write_to_the_users_streams(module: str) -> None:
    found = [
        f"{module}:{line} says {owner}.{name}"
        for owner, name, line in attributes(module)
        if owner == "sys" and name in ("stderr", "stdout")
    ]
    found += [
        f"{module}:{node.lineno} prints"
        for node in ast.walk(MODULES[module])
        if isinstance(node, ast.Name) and node.id == "print"
    ]
    assert found == []


@pytest.mark.parametrize("module", MODULES)
def test_only_declared_dependencies_are_imported(module: str) -> None:
    declared = {
        re.split(r"[^\w-]", requirement)[0]
        for requirement in requires("joblib-distributed") or ()
        if "extra ==" not in requirement
    }
    # Each distributed needs its own dask; a name that differs from its package's.
    ours = {"joblib_distributed", "dask", *["yaml"] * ("pyyaml" in declared)}
    assert [
        name
        for name, _ in imports(module)
        if name.split(".")[0] not in declared | ours | sys.stdlib_module_names
    ] == []


@pytest.mark.parametrize("module", MODULES)
def test_module_is_named_after_what_it_does(module: str) -> None:
    assert Path(module).stem not in MEANINGLESS


@pytest.mark.parametrize("module", MODULES)
def test_module_is_not_too_long(module: str) -> None:
    lines = (PACKAGE / module).read_text().count("\n")
    assert lines <= MOST_LINES, f"{module} has {lines} lines: divide it"


def drawn_layers() -> list[str]:
    """Modules of the driver, top to bottom, as its docstring lists them."""
    return re.findall(r"^ {4}(\w+)\.py ", driver.__doc__ or "", flags=re.MULTILINE)


def test_every_module_of_the_driver_is_in_the_drawing() -> None:
    real = {Path(m).stem for m in MODULES if m.startswith("driver/")} - {"__init__"}
    assert sorted(drawn_layers()) == sorted(real)


@pytest.mark.parametrize("module", drawn_layers())
def test_a_layer_imports_only_what_is_below_it(module: str) -> None:
    layers = drawn_layers()
    allowed = layers[layers.index(module) + 1 :]
    prefix = "joblib_distributed.driver."
    used = {
        name.removeprefix(prefix).split(".")[0]
        for name, _ in imports(f"driver/{module}.py")
        if name.startswith(prefix)
    }
    assert used <= set(allowed)
