"""A randomized search over a support vector machine, on scikit-learn's digits."""

from __future__ import annotations

import time

from joblib import Parallel, delayed
from scipy.stats import loguniform
from sklearn.datasets import load_digits
from sklearn.model_selection import RandomizedSearchCV
from sklearn.svm import SVC

from cluster import on_cluster, parser

DISTRIBUTIONS = {
    "C": loguniform(1e-2, 1e4),
    "gamma": loguniform(1e-6, 1e0),
    "tol": loguniform(1e-5, 1e-1),
    "class_weight": [None, "balanced"],
}


def make_search(candidates: int, n_jobs: int | None = None) -> RandomizedSearchCV:
    """Return the search: the same candidates in every run."""
    return RandomizedSearchCV(
        SVC(), DISTRIBUTIONS, n_iter=candidates, cv=3, random_state=0, n_jobs=n_jobs
    )


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--candidates", type=int, default=50)
    arguments.add_argument(
        "--compare", action="store_true", help="run on one core first, print the speed-up"
    )
    given = arguments.parse_args()
    X, y = load_digits(return_X_y=True)

    alone = None
    if given.compare:
        start = time.perf_counter()
        make_search(given.candidates, n_jobs=1).fit(X, y)
        alone = time.perf_counter() - start
        print(f"one core: {alone:.1f} s")

    with on_cluster(given.scheduler):
        # The first call starts the workers, and has them import scikit-learn.
        start = time.perf_counter()
        Parallel()(delayed(make_search)(1) for _ in range(2))
        print(f"start of the workers: {time.perf_counter() - start:.1f} s")

        start = time.perf_counter()
        search = make_search(given.candidates).fit(X, y)
        together = time.perf_counter() - start

    print(f"on the cluster: {together:.1f} s for {3 * given.candidates} fits")
    best = ", ".join(f"{name}={value}" for name, value in search.best_params_.items())
    print(f"best score: {search.best_score_:.4f} with {best}")
    if alone is not None:
        print(f"speed-up against one core: {alone / together:.2f}")


if __name__ == "__main__":
    main()
