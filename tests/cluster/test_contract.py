"""joblib's contract, on real worker processes."""

from __future__ import annotations

from joblib import Parallel, delayed


def square(x: int) -> int:
    return x * x


def test_results_are_in_order(backend: object) -> None:
    assert Parallel()(delayed(square)(i) for i in range(100)) == [
        i * i for i in range(100)
    ]
