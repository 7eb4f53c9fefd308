"""Each example runs, on the embedded cluster and on one from the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import CommandLineCluster

EXAMPLES = Path(__file__).parents[2] / "examples"

#: What each prints, for certain, and arguments that make it short.
EXPECTED = {
    "randomized_search.py": ("for 12 fits", ["--candidates=4"]),
    "sleeping_tasks.py": ("slept: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]", []),
    "nested_grid_search.py": ("best score: 0.8008", ["--trees=3"]),
    "preprocess_then_search.py": ("best score: 0.", []),
}


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONWARNINGS": "error::ResourceWarning"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_every_example_is_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*EXPECTED, "cluster.py"}


@pytest.mark.timeout(120)
@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_embedded(name: str) -> None:
    expected, arguments = EXPECTED[name]
    output = run(name, *arguments)
    assert expected in output
    assert "np.float64" not in output
    if name == "sleeping_tasks.py":
        assert "Using backend DaskDistributedBackend with" in output


@pytest.mark.timeout(120)
@pytest.mark.slow
# What differs is the address: it is the same line in all of them.
@pytest.mark.parametrize("name", ["randomized_search.py", "nested_grid_search.py"])
def test_on_command_line_processes(
    name: str, command_line_cluster: CommandLineCluster
) -> None:
    expected, arguments = EXPECTED[name]
    assert expected in run(
        name, f"--scheduler={command_line_cluster.host_and_port}", *arguments
    )
