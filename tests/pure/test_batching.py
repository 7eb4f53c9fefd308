"""How many tasks go in the next batch, and how many batches are on their way."""

from __future__ import annotations

import math
from collections import deque
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblib_distributed.driver.batching import (
    BOX,
    BOX_PER_THREAD,
    COST,
    DOUBT,
    FIRST_FLIGHTS,
    FLIGHTS,
    LEAST,
    MEMORY,
    MOST_NBYTES,
    MOST_TASKS,
    PATIENCE,
    SLICE,
    BatchPolicy,
)


def policy_after(
    tasks: int, seconds: float, nbytes: int, threads: int = 1
) -> BatchPolicy:
    policy = BatchPolicy(threads)
    policy.record(tasks, seconds, nbytes)
    return policy


def policy_of_milliseconds(threads: int) -> BatchPolicy:
    """Return what is known once tasks have taken a millisecond each."""
    return policy_after(1000, 1.0, 0, threads)


# --------------------------------------------------------- what joblib is to hand over


def test_one_task_while_nothing_is_known() -> None:
    assert BatchPolicy().batch_size() == 1


def test_one_batch_is_enough_to_jump_to_the_right_size() -> None:
    assert BOX == 0.2
    assert policy_after(1, 0.001, 0).batch_size() == 200
    assert policy_after(50, 0.5, 0).batch_size() == 20


@pytest.mark.parametrize("seconds", [0.2, 0.201, 1.0, 3600.0])
def test_long_tasks_go_one_by_one(seconds: float) -> None:
    assert policy_after(1, seconds, 0).batch_size() == 1


def test_no_more_bytes_than_the_target() -> None:
    assert policy_after(1, 1e-9, MOST_NBYTES // 4).batch_size() == 4
    assert policy_after(10, 1e-9, MOST_NBYTES).batch_size() == 10


def test_an_argument_larger_than_the_target_still_goes() -> None:
    assert policy_after(1, 1e-9, 10 * MOST_NBYTES).batch_size() == 1


def test_the_tighter_of_both_targets_counts() -> None:
    assert policy_after(1, BOX / 8, MOST_NBYTES // 2).batch_size() == 2
    assert policy_after(1, BOX / 2, MOST_NBYTES // 8).batch_size() == 2


@pytest.mark.parametrize("seconds", [0.0, 1e-12])
def test_never_more_than_the_most(seconds: float) -> None:
    assert policy_after(1, seconds, 0).batch_size() == MOST_TASKS


def test_empty_batch_teaches_nothing() -> None:
    assert policy_after(0, 0.0, 0).batch_size() == 1


def test_means_are_weighted_towards_the_present() -> None:
    policy = policy_after(100, 0.1, 0)
    policy.record(100, 0.4, 0)
    per_task = (MEMORY * 0.1 + 0.4) / (MEMORY * 100 + 100)
    assert policy.batch_size() == int(BOX / per_task)


def test_a_change_of_pace_is_followed() -> None:
    policy = policy_after(1000, 0.2, 0)
    sizes = []
    for _ in range(20):
        policy.record(1, 1.0, 0)
        sizes.append(policy.batch_size())
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1


# ---------------------------------------------------------- large buffers that are read
def test_no_more_bytes_of_large_buffers_than_the_target() -> None:
    policy = policy_of_milliseconds(threads=2)
    policy.note_read(10, 10 * MOST_NBYTES // 4)
    assert (policy.batch_size(), policy.next_size(1000, 0)) == (16, 16)
    assert policy.lacking(0) == 2 * 16


@pytest.mark.parametrize(
    ("threads", "most"),
    [(1, 2**25), (2, 2**25), (4, 2**28 // 12), (10, 2**28 // 30), (11, 2**23)],
)
def test_many_threads_share_what_the_store_takes_ahead(threads: int, most: int) -> None:
    assert int(BatchPolicy(threads).most_stored) == most


def test_large_buffers_of_more_than_the_target_go_one_by_one() -> None:
    policy = policy_of_milliseconds(threads=2)
    policy.note_read(1, 4 * MOST_NBYTES + 1)
    assert (policy.batch_size(), policy.next_size(1000, 99)) == (1, 1)
    assert policy.lacking(0) == 0


def test_buffers_that_the_store_has_do_not_count() -> None:
    policy = policy_of_milliseconds(threads=2)
    policy.note_read(10, 0)
    assert (policy.batch_size(), policy.next_size(1000, 0)) == (200, 200)


def test_what_was_read_long_ago_counts_less() -> None:
    policy = policy_of_milliseconds(threads=2)
    policy.note_read(10, 10 * MOST_NBYTES)
    policy.note_read(10, 0)
    left = MEMORY * 10 * MOST_NBYTES
    assert policy.batch_size() == int(policy.most_stored * (MEMORY * 10 + 10) / left)
    for _ in range(30):
        policy.note_read(10, 0)
    assert policy.batch_size() == 200


def test_what_is_read_teaches_nothing_of_how_long_it_takes() -> None:
    policy = BatchPolicy(2)
    policy.note_read(1000, 1)
    assert (policy.mean, policy.batch_size(), policy.lacking(0)) == (None, 1, 0)
    assert policy.next_size(1000, 0) is None


# ------------------------------------------------------------ an iterable that is slow
def test_an_iterable_is_not_read_for_longer_than_a_slice() -> None:
    policy = policy_of_milliseconds(threads=4)
    policy.note_slice(10, 0.01)
    assert policy.batch_size() == round(SLICE / 0.001) // 4
    # What has been read is put together all the same.
    assert policy.next_size(10_000, 0) == 200


def test_a_fast_iterable_is_read_as_far_as_there_is_use_for_it() -> None:
    policy = policy_of_milliseconds(threads=4)
    policy.note_slice(10, 1e-9)
    assert policy.batch_size() == 200
    policy.note_slice(10, 0.0)
    assert policy.batch_size() == 200


def test_an_iterable_that_takes_longer_than_a_slice_for_a_task_is_read_by_one() -> None:
    policy = policy_of_milliseconds(threads=4)
    policy.note_slice(1, 60.0)
    assert policy.batch_size() == 1


def test_an_iterable_that_becomes_fast_is_read_further() -> None:
    policy = policy_of_milliseconds(threads=1)
    policy.note_slice(1, 1.0)
    for _ in range(30):
        policy.note_slice(100, 0.001)
    assert policy.batch_size() == 200


# -------------------------------------------------------------------------- the box
def test_a_box_is_the_same_for_few_threads() -> None:
    assert [BatchPolicy(threads).box for threads in (1, 4, 31)] == [BOX] * 3


def test_the_box_grows_with_many_threads() -> None:
    """One scheduler serves them all."""
    assert BatchPolicy(63).box == 63 * BOX_PER_THREAD > BOX
    assert BatchPolicy(1000).box == pytest.approx(6.4)


def test_patience_is_a_multiple_of_the_box() -> None:
    assert PATIENCE > 1
    assert BatchPolicy(4).patience == PATIENCE * BOX
    assert BatchPolicy(100).patience == PATIENCE * 100 * BOX_PER_THREAD


def test_batches_fill_the_box_of_many_threads() -> None:
    policy = policy_of_milliseconds(1)
    assert (policy.batch_size(), policy.next_size(10**6, 0)) == (200, 200)
    policy.threads = 125
    assert (policy.batch_size(), policy.next_size(10**6, 0)) == (800, 800)


# ----------------------------------------------------------------- what is sent at a time
@pytest.mark.parametrize(
    ("threads", "most"), [(1, FIRST_FLIGHTS), (4, FIRST_FLIGHTS), (10, 10 * FLIGHTS)]
)
def test_while_nothing_is_known_some_go_as_they_are(threads: int, most: int) -> None:
    policy = BatchPolicy(threads)
    assert [policy.next_size(100, n) for n in range(most)] == [None] * most
    assert policy.next_size(100, most) == 0
    assert policy.next_size(100, most + 1) == 0


@pytest.mark.parametrize("in_flight", [0, 2, 999])
def test_long_tasks_all_go_at_once_each_apart(in_flight: int) -> None:
    """The scheduler may see what is to come, however much that is."""
    assert policy_after(1, 0.201, 0, threads=2).next_size(100, in_flight) == 1
    assert policy_after(1, 0.201, 0, threads=2).next_size(100, 1000) == 0
    assert policy_after(1, 1.0, 0, threads=300).next_size(100, 1199) == 1
    assert policy_after(1, 1.0, 0, threads=300).next_size(100, 1200) == 0


def test_a_task_that_takes_half_the_box_is_not_long() -> None:
    policy = policy_after(1, BOX / 2, 0, threads=2)
    assert [policy.next_size(100, n) for n in range(5)] == [2, 2, 2, 2, 0]


def test_what_is_long_depends_on_the_box() -> None:
    assert policy_after(1, 0.3, 0, threads=4).next_size(1000, 9) == 1
    assert policy_after(1, 0.15, 0, threads=100).next_size(1000, 9) == 4


def test_large_arguments_are_as_long_tasks() -> None:
    assert policy_after(1, 1e-9, MOST_NBYTES + 1, threads=2).next_size(9, 9) == 1


def test_each_thread_has_a_batch_and_another() -> None:
    policy = policy_of_milliseconds(threads=3)
    assert [policy.next_size(10**6, n) for n in range(8)] == [*[200] * 6, 0, 0]


def test_little_work_waits_for_the_threads_that_are_busy() -> None:
    policy = policy_of_milliseconds(threads=2)
    enough = round(LEAST / 0.001)
    assert policy.next_size(enough - 1, 1) != 0
    assert policy.next_size(enough - 1, 2) == 0
    assert policy.next_size(enough, 2) != 0


def test_tasks_that_take_no_time_wait_for_a_free_thread() -> None:
    policy = policy_after(100, 0.0, 0, threads=2)
    assert [policy.next_size(10**6, n) for n in (0, 1, 2)] == [MOST_TASKS, MOST_TASKS, 0]


def test_shares_shrink_when_the_end_comes_near() -> None:
    policy = policy_of_milliseconds(threads=2)
    waiting = [10_000, 800, 799, 400, 41, 40]
    assert [policy.next_size(n, 0) for n in waiting] == [200, 200, 200, 100, 11, 10]


def test_shares_are_not_smaller_than_what_is_worth_a_batch() -> None:
    worth = round(LEAST / 0.001)
    waiting = [4 * worth, 3 * worth, worth + 6, worth, worth - 1, 1]
    assert [policy_of_milliseconds(2).next_size(n, 0) for n in waiting] == [
        *[worth] * 4,
        worth - 1,
        1,
    ]
    assert policy_after(1, LEAST, 0, 2).next_size(4, 0) == 1


def test_what_would_be_left_and_is_not_worth_a_batch_goes_along() -> None:
    worth = round(LEAST / 0.001)
    waiting = [worth + worth // 2 + 1, worth + worth // 2, worth + 1]
    policy = policy_of_milliseconds(2)
    assert [policy.next_size(n, 0) for n in waiting] == [worth, *waiting[1:]]
    # But no more than a batch may have.
    policy = policy_after(1, 0.003, MOST_NBYTES // 3, 2)
    assert policy.next_size(4, 0) == 3


def test_what_is_worth_a_batch_may_be_more_than_fits_into_one() -> None:
    assert policy_after(1, 1e-9, MOST_NBYTES // 4, 2).next_size(100, 0) == 4
    assert policy_after(1, 1e-12, 0, 2).next_size(2 * MOST_TASKS, 0) == MOST_TASKS


def test_a_policy_without_threads_sends_something() -> None:
    """All workers may be gone when a call starts; nothing else would ever be sent."""
    assert policy_after(1, 0.001, 0, threads=0).next_size(100, 0) != 0


# ---------------------------------------------------------- what an earlier call has told
def believer(seconds: float, threads: int = 2) -> BatchPolicy:
    policy = BatchPolicy(threads)
    policy.believe(seconds)
    return policy


def test_what_is_believed_parts_the_first_batches() -> None:
    policy = believer(0.001)
    worth = round(LEAST / 0.001)
    waiting = [10 * worth, 5, 2, 1]
    assert [policy.next_size(n, 0) for n in waiting] == [5 * worth, 3, 1, 1]
    assert [policy.next_size(400, n) for n in (1, 3, 4)] == [200, 200, 0]


def test_threads_that_are_believed_to_be_busy_are_not_sent_less_than_a_box() -> None:
    """What comes first tells how much each should get of the rest."""
    policy = believer(0.001)
    assert [policy.next_size(n, 2) for n in (199, 200)] == [0, 200]
    assert policy.next_size(199, 1) == 199


def test_what_is_believed_to_be_next_to_nothing_goes_in_two_batches() -> None:
    """Together it is worth less than a batch costs; 8 threads are not told for that."""
    policy = believer(1e-5, threads=8)
    assert [policy.next_size(64, 0), policy.next_size(32, 1)] == [32, 32]
    assert [policy.next_size(20, n) for n in (2, 7)] == [20, 20]
    few = round(LEAST / 1e-3)
    policy = believer(1e-3, threads=4)
    assert [policy.next_size(few - 1, 0), policy.next_size(few, 0)] == [5, 3]


def test_there_is_little_patience_with_a_mere_belief() -> None:
    policy = believer(1e-3)
    assert [policy.patience_with(n) for n in (1, 25, 100, 1000)] == [
        DOUBT, DOUBT, 0.2, PATIENCE * BOX,
    ]  # fmt: skip
    policy.record(1, 1e-3, 0)
    assert policy.patience_with(1) == PATIENCE * BOX


def test_what_is_believed_does_not_fill_more_than_a_box() -> None:
    """If it is true, the rest would only be given back; and it may be large."""
    believed = believer(0.001).next_size(10**6, 0)
    assert believed is not None
    assert believed <= round(BOX / 0.001)


def test_what_is_believed_does_not_read_further_than_that() -> None:
    policy = believer(0.001)
    assert (policy.batch_size(), policy.lacking(0)) == (200, 400)


def test_as_many_tasks_as_threads_are_never_put_together() -> None:
    """They may wait for each other, and took no time because they met."""
    policy = believer(1e-6, threads=8)
    assert [policy.next_size(8 - n, n) for n in range(8)] == [1] * 8


def test_tasks_that_are_believed_to_be_long_are_not_put_together() -> None:
    policy = believer(10.0)
    assert [policy.next_size(1000, n) for n in (0, 7, 8)] == [1, 1, 0]
    assert (policy.batch_size(), policy.lacking(0)) == (1, 0)


def test_what_is_believed_gives_way_to_what_is_known() -> None:
    policy = believer(10.0)
    policy.record(1000, 1.0, 0)
    assert policy.next_size(400, 0) == policy_of_milliseconds(2).next_size(400, 0)
    assert policy.mean == 0.001
    assert not policy.is_belief


# ---------------------------------------------------------------- what joblib is to add
def test_nothing_is_lacking_while_nothing_is_known() -> None:
    assert BatchPolicy(4).lacking(0) == 0


def test_long_tasks_are_not_read_ahead() -> None:
    assert policy_after(1, BOX / 2 + 0.001, 0, threads=4).lacking(0) == 0
    assert policy_after(1, BOX / 2, 0, threads=4).lacking(0) == 8


def test_a_full_batch_for_each_thread_is_to_wait() -> None:
    policy = policy_of_milliseconds(threads=4)
    assert [policy.lacking(n) for n in (0, 100, 799, 800, 5000)] == [800, 700, 1, 0, 0]


def test_no_more_is_lacking_than_threads_can_be_sent() -> None:
    assert policy_after(1, 0.0, 0, threads=3).lacking(0) == 3 * MOST_TASKS
    assert policy_after(1, 1e-9, MOST_NBYTES // 4, threads=3).lacking(0) == 12


# ------------------------------------------------------------------------------ progress
seconds = st.sampled_from([0.0, 1e-6, 1e-4, 0.001, 0.01, 0.1, 0.5, 3.0])


@given(
    handed=st.lists(st.lists(seconds, min_size=1, max_size=20), min_size=1, max_size=20),
    threads=st.integers(min_value=1, max_value=100),
    believed=st.none() | seconds,
    nbytes=st.sampled_from([0, 10, MOST_NBYTES // 3, 2 * MOST_NBYTES]),
    random=st.randoms(use_true_random=False),
)
def test_every_task_is_sent_until_it_has_been_run(
    handed: list[list[float]],
    threads: int,
    believed: float | None,
    nbytes: int,
    random: Random,
) -> None:
    """A ledger, and workers that give back what they have no time for."""
    policy = BatchPolicy(threads)
    if believed is not None:
        policy.believe(believed)
    tasks = [took for batch in handed for took in batch]
    numbers = iter(range(len(tasks)))
    waiting = deque([next(numbers) for _ in batch] for batch in handed)
    in_flight: list[list[int]] = []
    done: list[int] = []
    while waiting or in_flight:
        while waiting:
            size = policy.next_size(sum(map(len, waiting)), len(in_flight))
            if size == 0:
                break
            batch = waiting.popleft()
            if size is not None:
                assert 1 <= size <= MOST_TASKS
                while waiting and len(batch) < size:
                    batch += waiting.popleft()
                if len(batch) > size:
                    waiting.appendleft(batch[size:])
            in_flight.append(batch[:size])
        assert in_flight, "tasks wait, and nothing will ever send them"
        batch = in_flight.pop(random.randrange(len(in_flight)))
        run = begun_in_time(batch, tasks, policy.patience)
        policy.record(len(run), math.fsum(tasks[i] for i in run), nbytes * len(run))
        done += run
        if batch[len(run) :]:
            waiting.appendleft(batch[len(run) :])
    assert sorted(done) == list(range(len(tasks)))


def begun_in_time(batch: list[int], tasks: list[float], patience: float) -> list[int]:
    passed = 0.0
    for number, task in enumerate(batch):
        if number and passed > patience:
            return batch[:number]
        passed += tasks[task]
    return batch


# ------------------------------------------------------------------- what has not ended
def test_a_task_that_runs_on_ends_a_belief() -> None:
    """What is next is not to wait behind others that take as long."""
    policy = BatchPolicy(threads=2)
    policy.believe(1e-5)
    assert policy.next_size(1000, 0) == 500
    policy.note_running("a", 2 * BOX)
    assert not policy.is_belief
    assert policy.mean == 2 * BOX
    # All that waits is shown to the scheduler, one by one.
    assert [policy.next_size(1000, n) for n in (0, 2, 100, 999)] == [1] * 4
    assert (policy.batch_size(), policy.lacking(1000)) == (1, 0)


def test_a_few_short_tasks_are_no_reason_to_take_what_runs_for_an_exception() -> None:
    """As when two of two threads are busy, and joblib's first tasks were short."""
    policy = BatchPolicy(threads=2)
    for _ in range(8):
        policy.record(1, 0.02, 0)
    assert policy.batch_size() == 10
    policy.note_running("a", 3.0)
    policy.note_running("b", 3.0)
    assert policy.next_size(14, 2) == 1


@pytest.mark.parametrize("seconds", [BOX, 3.0, 3600.0])
def test_one_straggler_among_thousands_says_little_however_long_it_takes(
    seconds: float,
) -> None:
    policy = BatchPolicy(threads=2)
    for _ in range(30):
        policy.record(200, 0.2, 0)
    before = policy.batch_size()
    policy.note_running("a", seconds)
    assert before / 2 < policy.batch_size() < before
    policy.note_ended("a")
    assert policy.batch_size() == before


def test_a_straggler_that_has_ended_is_soon_forgotten() -> None:
    policy = BatchPolicy(threads=2)
    for _ in range(30):
        policy.record(200, 0.2, 0)
    policy.note_running("a", 600.0)
    policy.note_ended("a")
    policy.record(1, 600.0, 0)
    batches = 0
    while policy.batch_size() < 100:
        size = policy.next_size(10_000, 0)
        assert size is not None
        policy.record(size, size * 0.001, 0)
        batches += 1
    assert batches < 50


def test_many_that_run_on_are_no_stragglers() -> None:
    policy = BatchPolicy(threads=100)
    for _ in range(30):
        policy.record(200, 0.2, 0)
    for number in range(100):
        policy.note_running(str(number), 3.0)
    assert policy.batch_size() <= 6


def test_what_has_not_filled_a_batch_yet_says_nothing() -> None:
    policy = policy_after(1, 0.001, 0)
    policy.note_running("a", 0.9 * BOX)
    assert policy.mean == 0.001


@pytest.mark.parametrize(
    ("believed", "doubtful"),
    [(1e-5, DOUBT), (0.03, 0.06), (10.0, PATIENCE * BOX)],
)
def test_what_takes_longer_than_was_believed_ends_the_belief(
    believed: float, doubtful: float
) -> None:
    policy = believer(believed)
    policy.note_running("a", 0.99 * doubtful)
    assert (policy.is_belief, policy.mean) == (True, believed)
    policy.note_running("a", doubtful)
    assert (policy.is_belief, policy.mean) == (False, doubtful)


def test_tasks_known_to_take_long_are_not_taken_for_shorter_while_they_run() -> None:
    policy = policy_after(1, 60.0, 0)
    policy.note_running("a", 1.0)
    assert policy.mean == 60.0


def test_what_has_ended_without_a_result_is_forgotten() -> None:
    policy = BatchPolicy(threads=2)
    policy.believe(1e-5)
    policy.note_running("a", 5.0)
    policy.note_ended("a")
    policy.note_ended("unknown")
    assert policy.mean is None
    assert policy.next_size(100, 0) is None


# ------------------------------------------------------------------------- many threads
def test_as_many_tasks_tell_of_the_next_as_run_at_a_time() -> None:
    """The first to end are the shortest: so few of them would tell of all."""
    policy = BatchPolicy(threads=1000)
    for seconds in (1.0, 3.0) * 500:
        policy.record(1, seconds, 0)
    assert policy.mean == pytest.approx(2.0)
    few = BatchPolicy(threads=2)
    for seconds in (1.0, 3.0) * 500:
        few.record(1, seconds, 0)
    assert few.mean == pytest.approx(1 + 2 / (1 + MEMORY))


def test_what_is_older_than_that_is_forgotten() -> None:
    policy = BatchPolicy(threads=100)
    for _ in range(100):
        policy.record(1, 1.0, 0)
    for _ in range(400):
        policy.record(1, 5.0, 0)
    assert policy.mean is not None
    assert 4.8 < policy.mean < 5.0


def test_batches_of_many_threads_are_long_enough_to_be_sent_in_time() -> None:
    """At the end of a call, when the rest is shared out."""
    threads = 1000
    policy = policy_after(10_000, 10.0, 0, threads)
    enough = round(COST * threads / 0.001)
    assert policy.next_size(5 * enough, threads) == enough
    assert policy.next_size(enough // 2, 0) == enough // 2
    assert COST * 10 < LEAST  # few threads need not care


# ------------------------------------------------- so that all threads end at one time
def steady(threads: int = 2) -> BatchPolicy:
    """Return what is known once batches have taken what was expected of them."""
    policy = policy_of_milliseconds(threads)
    policy.record(1000, 1.0, 0)
    return policy


def test_a_thread_gets_what_it_lacks_for_all_to_end_together() -> None:
    policy = steady()
    # 0.04 s ahead, of 0.16 s: until 0.1 s from now.
    assert policy.next_size(120, 2, [0.0, 0.04]) == 80
    assert policy.next_size(40, 3, [0.04, 0.08]) == 40


def test_but_no_more_than_the_box() -> None:
    assert steady().next_size(1000, 2, [0.0, 0.5]) == 200


def test_a_thread_that_has_enough_gets_nothing_until_another_has_less() -> None:
    policy = steady()
    assert policy.next_size(20, 3, [0.3, 0.1]) == 0
    assert policy.next_size(20, 2, [0.1, 0.3]) == 20
    # There is always somebody to tell of an end, or something is sent.
    assert policy.next_size(20, 1, [0.3, 0.1]) != 0


def test_tasks_of_any_duration_are_shared_out_in_smaller_and_smaller_pieces() -> None:
    """What they take together is not foreseen: half of what is lacking, then of that."""
    policy = policy_of_milliseconds(2)
    policy.record(100, 0.3, 0)
    assert policy.next_size(200, 2, [0.0, 0.0]) == 50


def test_so_many_are_sent_at_once_as_together_take_about_what_is_expected() -> None:
    policy = policy_of_milliseconds(2)
    policy.record(100, 0.1 + LEAST * 9.9**0.5, 0)  # variance: LEAST**2 / 10 each
    # Half of the 18 that each should get is less, and so is what is worth a batch.
    assert policy.next_size(36, 0, [0.0, 0.0]) == 10
    assert policy.next_size(44, 0, [0.0, 0.0]) == 11


def test_little_that_is_foreseen_does_not_wait_for_a_thread_to_be_free() -> None:
    policy = steady()
    few = round(LEAST / 0.001) - 1
    assert policy.next_size(few, 2, [0.001, 0.1]) == few
    assert policy_of_milliseconds(2).next_size(few, 2, [0.001, 0.1]) == 0


def test_nothing_is_foreseen_while_a_task_runs_on() -> None:
    policy = steady()
    policy.note_running("a", 1.0)
    few = 5
    assert policy.next_size(few, 2, [0.001, 0.1]) == 0
