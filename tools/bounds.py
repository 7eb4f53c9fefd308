"""Runs the suite on the oldest releases that pyproject.toml admits.

Makes an environment of its own beside the checkout, ``.venv-bounds-3.10`` for instance,
with each runtime dependency at its lower bound. Run it with the oldest Python, too.
"""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def lower_bounds() -> list[str]:
    """Return the runtime dependencies, pinned to the least version they admit."""
    text = (ROOT / "pyproject.toml").read_text()
    (block,) = re.findall(r"^dependencies = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    pins = [
        f"{name}=={least}" for name, least in re.findall(r'"([\w-]+)>=([\w.]+)', block)
    ]
    dask = next(pin for pin in pins if pin.startswith("distributed"))
    # The two are released together, and distributed asks for exactly its own dask.
    return [*pins, dask.replace("distributed", "dask")]


def main() -> int:
    version = ".".join(map(str, sys.version_info[:2]))
    folder = ROOT / f".venv-bounds-{version}"
    venv.create(folder, with_pip=True, clear=True)
    python = str(folder / "bin" / "python")
    pins = lower_bounds()
    print(f"Python {version} with {' '.join(pins)}", flush=True)
    install = [python, "-m", "pip", "install", "--quiet", "-e", f"{ROOT}[test]", *pins]
    subprocess.run(install, check=True)
    command = [python, "-m", "pytest", "-q", *sys.argv[1:]]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
