"""A dask array is prepared on a cluster, then searched with scikit-learn on the same.

Where a client is the current one, joblib needs no address.
"""

from __future__ import annotations

import dask.array as da
import joblib
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import GridSearchCV

import joblib_distributed
from cluster import parser


def main() -> None:
    given = parser(__doc__).parse_args()
    pixels, y = load_digits(return_X_y=True)
    client = joblib_distributed.get_client(scheduler_host=given.scheduler)
    with client.as_current(), joblib.parallel_config(backend="dask.distributed"):
        raw = da.from_array(pixels, chunks=(300, -1))
        scaled = ((raw - raw.mean(axis=0)) / (raw.std(axis=0) + 1e-9)).compute(
            scheduler=client
        )
        grid = {"alpha": [1e-4, 1e-3, 1e-2], "penalty": ["l2", "l1"]}
        search = GridSearchCV(SGDClassifier(random_state=0), grid, cv=3)
        search.fit(scaled, y)
    print(f"best score: {search.best_score_:.4f} with {search.best_params_}")


if __name__ == "__main__":
    main()
