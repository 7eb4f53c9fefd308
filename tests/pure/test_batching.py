"""How many tasks go in the next batch."""

from __future__ import annotations

import pytest

from joblib_distributed.driver.batching import (
    MEMORY,
    MOST_TASKS,
    TARGET_DURATION,
    TARGET_NBYTES,
    BatchPolicy,
)


def policy_after(tasks: int, seconds: float, nbytes: int) -> BatchPolicy:
    policy = BatchPolicy()
    policy.record(tasks, seconds, nbytes)
    return policy


def test_one_task_while_nothing_is_known() -> None:
    assert BatchPolicy().batch_size() == 1


def test_one_batch_is_enough_to_jump_to_the_right_size() -> None:
    assert TARGET_DURATION == 0.2
    assert policy_after(1, 0.001, 0).batch_size() == 200
    assert policy_after(50, 0.5, 0).batch_size() == 20


@pytest.mark.parametrize("seconds", [0.2, 0.201, 1.0, 3600.0])
def test_long_tasks_go_one_by_one(seconds: float) -> None:
    assert policy_after(1, seconds, 0).batch_size() == 1


def test_no_more_bytes_than_the_target() -> None:
    assert policy_after(1, 1e-9, TARGET_NBYTES // 4).batch_size() == 4
    assert policy_after(10, 1e-9, TARGET_NBYTES).batch_size() == 10


def test_an_argument_larger_than_the_target_still_goes() -> None:
    assert policy_after(1, 1e-9, 10 * TARGET_NBYTES).batch_size() == 1


def test_the_tighter_of_both_targets_counts() -> None:
    assert policy_after(1, TARGET_DURATION / 8, TARGET_NBYTES // 2).batch_size() == 2
    assert policy_after(1, TARGET_DURATION / 2, TARGET_NBYTES // 8).batch_size() == 2


@pytest.mark.parametrize("seconds", [0.0, 1e-12])
def test_never_more_than_the_most(seconds: float) -> None:
    assert policy_after(1, seconds, 0).batch_size() == MOST_TASKS


def test_empty_batch_teaches_nothing() -> None:
    assert policy_after(0, 0.0, 0).batch_size() == 1


def test_means_are_weighted_towards_the_present() -> None:
    policy = policy_after(100, 0.1, 0)
    policy.record(100, 0.4, 0)
    per_task = (MEMORY * 0.1 + 0.4) / (MEMORY * 100 + 100)
    assert policy.batch_size() == int(TARGET_DURATION / per_task)


def test_a_change_of_pace_is_followed() -> None:
    policy = policy_after(1000, 0.2, 0)
    sizes = []
    for _ in range(20):
        policy.record(1, 1.0, 0)
        sizes.append(policy.batch_size())
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1
