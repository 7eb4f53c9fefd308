"""joblib on dask.distributed: every result, exactly once, whatever single thing breaks.

General layout
--------------
- ``options.py``, ``errors.py``: what users give and what they get; import nothing else.
- ``data/``: tasks and outcomes as bytes; used on both sides.
- ``driver/``: the user's process. Imports ``data/`` and names of ``worker/`` to send.
- ``worker/``: the cluster's workers. Imports ``data/``, never ``driver/``.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError as _PackageNotFoundError
from importlib.metadata import version as _version

import joblib as _joblib

from joblib_distributed import errors
from joblib_distributed.data.payload import _invoke as _invoke  # pickles refer to it
from joblib_distributed.data.wire import SENT as _SENT
from joblib_distributed.driver.backend import DaskDistributedBackend
from joblib_distributed.driver.sources import get_client, shutdown
from joblib_distributed.driver.traffic import Traffic, traffic_of_last_call
from joblib_distributed.options import Options

try:
    __version__ = _version("joblib-distributed")
except _PackageNotFoundError:
    __version__ = _SENT

#: Names under which the backend is registered when this package is imported.
BACKEND_NAMES = ("dask.distributed", "distributed")


def register(name: str, make_default: bool = False) -> None:
    """Register the backend with joblib under a further name.

    Parameters
    ----------
    name : str
        The name for ``parallel_config(backend=name)``. ``"dask"`` replaces the backend
        that joblib bundles.
    make_default : bool
        Whether calls that name no backend use it, too.
    """
    _joblib.register_parallel_backend(
        name, DaskDistributedBackend, make_default=make_default
    )


for _name in BACKEND_NAMES:
    register(_name)

__all__ = [
    "BACKEND_NAMES",
    "DaskDistributedBackend",
    "Options",
    "Traffic",
    "__version__",
    "errors",
    "get_client",
    "register",
    "shutdown",
    "traffic_of_last_call",
]
