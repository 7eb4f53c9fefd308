"""Puts our backend in the place of joblib's own, in every process of the tests.

Python imports this module when it starts, as `run.py` puts its folder on the path. A
plugin of pytest is not enough: the tests start processes of their own, dask's workers,
loky's and scripts, which ask joblib for "dask", too.
"""

import joblib._dask

import joblib_distributed

joblib._dask.DaskDistributedBackend = joblib_distributed.DaskDistributedBackend
joblib_distributed.register("dask")
