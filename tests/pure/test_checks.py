"""Which workers are looked at before a call."""

from __future__ import annotations

from joblib_distributed.driver.checks import check_workers


def test_workers_that_are_gone_are_forgotten() -> None:
    """Another one may come to the address, and addresses are many."""
    seen = {"tcp://there:1", "tcp://gone:1", "tcp://gone:2"}
    check_workers(None, seen, lambda: {"tcp://there:1": 2})
    assert seen == {"tcp://there:1"}
