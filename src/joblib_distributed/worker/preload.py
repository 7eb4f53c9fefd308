"""Runs in each worker process of the embedded cluster when it starts.

See Also
--------
joblib_distributed.driver.embedded : names it as dask's ``preload``.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType


def dask_setup(worker: object) -> None:  # noqa: ARG001 - dask's signature
    """Leave Ctrl-C to the driver.

    A terminal sends SIGINT to the whole process group. It is the driver's to say what
    that means for which task; a worker that ended by itself would not come back.
    """
    if threading.current_thread() is threading.main_thread():
        # Not SIG_IGN, which programs started by tasks would inherit.
        signal.signal(signal.SIGINT, _ignore)


def _ignore(number: int, frame: FrameType | None) -> None:
    pass
