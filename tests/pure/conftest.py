"""Fixtures of the tests that need no cluster."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

DEADLINE = 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB, and of 20 files and folders."""
    folder = tmp_path / "small"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("no mount command")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=21", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, timeout=DEADLINE)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    yield folder
    # Lazily: a failed test may have something mapped.
    subprocess.run(["umount", "-l", str(folder)], check=True, timeout=DEADLINE)
