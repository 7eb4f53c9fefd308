"""Nested grid searches in a row: no error, and no thread left behind."""

from __future__ import annotations

import argparse
import sys
import threading
import time

import joblib
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV

import joblib_distributed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=100)
    given = parser.parse_args()
    data, target = load_iris(return_X_y=True)
    forest = RandomForestClassifier(n_estimators=4, random_state=0, n_jobs=-1)
    search = GridSearchCV(forest, {"max_depth": [2, 4]}, cv=2, n_jobs=-1)
    scores = set()
    start = time.perf_counter()
    with joblib.parallel_config(backend="dask.distributed", n_workers=2):
        search.fit(data, target)
        client = joblib_distributed.get_client(n_workers=2)
        here, there = threading.active_count(), client.run(threading.active_count)
        for _ in range(given.searches):
            scores.add(search.fit(data, target).best_score_)
        print(f"{given.searches} searches in {time.perf_counter() - start:.1f} s")
        print(f"best scores: {scores}")
        print(f"threads here: {here} before, {threading.active_count()} after")
        print(f"threads of the workers: {list(there.values())} before,", end=" ")
        left = client.run(threading.active_count)
        print(f"{list(left.values())} after")
    ours = [t for t in threading.enumerate() if t.name.startswith("joblib-")]
    for thread in ours:
        thread.join(5)  # the last call has returned, and they are about to end
    left = [t.name for t in ours if t.is_alive()]
    print(f"threads of ours left here: {left or 'none'}")
    return 0 if len(scores) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
