"""What the ledger keeps of tasks that are not delivered."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblib_distributed.data.outcome import Kind, Outcome, not_run
from joblib_distributed.data.tasks import PackedTask, PlainTasks, Tasks
from joblib_distributed.driver.entries import Delivery, Entry, Waiting, matched

NOT_RUN = not_run(1)


def packed(index: int) -> PackedTask:
    return PackedTask(index, "f", b"key", b"packed f", b"arguments %d" % index)


def plain(index: int, size: int) -> PlainTasks:
    calls = [(i,) for i in range(index, index + size)]
    return PlainTasks(index, "f", b"key", b"packed f", calls)


#: A delivery like any other.
SOME = Delivery(0, 0)


def entry(tasks: Tasks, delivery: Delivery = SOME) -> Entry:
    return Entry(tasks, delivery, retries_left=0)


def value(plain: int = 0) -> Outcome:
    return Outcome(Kind.VALUE, 0.5, b"value", plain=plain)


ERROR = Outcome(Kind.ERROR, 0.5, b"error")


def spans(entries: Iterable[Entry]) -> list[tuple[int, int]]:
    """Return first index and size of each entry, whose tasks say the same."""
    entries = list(entries)
    for one in entries:
        if isinstance(one.tasks, PlainTasks):
            first = one.tasks.index
            assert list(one.tasks.calls) == [(first + i,) for i in range(one.tasks.size)]
    return [(one.tasks.index, one.tasks.size) for one in entries]


# ------------------------------------------------------------------------------ delivery
def test_a_delivery_knows_how_many_tasks_have_no_value() -> None:
    delivery = Delivery(3, 7)
    assert delivery.left == 7
    delivery.put(plain(2, 3), value(3))
    assert delivery.left == 4
    delivery.put(packed(6), value())
    assert delivery.left == 3


def test_values_of_a_delivery_are_in_the_order_of_its_tasks() -> None:
    delivery = Delivery(0, 5)
    given = {
        13: (plain(13, 2), Outcome(Kind.VALUE, 0.1, b"c", plain=2)),
        10: (packed(10), Outcome(Kind.VALUE, 0.2, b"a")),
        11: (plain(11, 2), Outcome(Kind.VALUE, 0.3, b"b", plain=2)),
    }
    for tasks, outcome in given.values():
        delivery.put(tasks, outcome)
    assert delivery.left == 0
    tasks, outcomes = delivery.values()
    assert tasks == [given[i][0] for i in (10, 11, 13)]
    assert outcomes == [given[i][1] for i in (10, 11, 13)]


# ----------------------------------------------------------------------------- entries
def test_all_of_an_entry_is_the_entry() -> None:
    for one in (entry(packed(3)), entry(plain(3, 4))):
        assert one.part(0, one.tasks.size) is one


def test_a_part_goes_its_own_way() -> None:
    delivery = Delivery(5, 0)
    whole = Entry(plain(3, 4), delivery, 2, losses=1, misses=3, worker="there")
    part = whole.part(1, 2)
    assert part == Entry(plain(4, 2), delivery, 2, losses=1, misses=3, worker="there")
    assert part.delivery is delivery
    part.retries_left -= 1
    part.worker = ""
    assert (whole.retries_left, whole.worker) == (2, "there")
    assert whole.tasks == plain(3, 4)


def test_singles_are_all_tasks_apart() -> None:
    assert spans(entry(plain(3, 3)).singles()) == [(3, 1), (4, 1), (5, 1)]
    only = entry(packed(3))
    assert [single is only for single in only.singles()] == [True]


# ----------------------------------------------------------------------------- matched
def match(
    entries: list[Entry], outcomes: list[Outcome]
) -> list[tuple[tuple[int, int], Outcome]]:
    found = list(matched(entries, outcomes))
    assert all(one.delivery is SOME for one, _ in found)
    return [(spans([one])[0], outcome) for one, outcome in found]


def test_nothing_is_matched_with_nothing() -> None:
    assert match([], []) == []


def test_each_task_is_matched_with_what_it_gave() -> None:
    given = [value(), ERROR, NOT_RUN]
    entries = [entry(packed(i)) for i in range(3)]
    found = list(matched(entries, given))
    assert [one for one, _ in found] == entries
    assert all(one is sent for (one, _), sent in zip(found, entries, strict=True))
    assert [outcome for _, outcome in found] == given


def test_plain_neighbours_that_gave_values_together_stay_together() -> None:
    sent = [entry(plain(0, 3)), entry(plain(3, 1))]
    given = [value(3), value(1)]
    found = list(matched(sent, given))
    assert [one is whole for (one, _), whole in zip(found, sent, strict=True)] == [
        True,
        True,
    ]
    assert [outcome for _, outcome in found] == given


def test_plain_neighbours_are_parted_where_one_gave_something_else() -> None:
    first, last, rest = value(3), value(2), not_run(4)
    assert match([entry(plain(5, 11))], [first, value(), last, ERROR, rest]) == [
        ((5, 3), first),
        ((8, 1), value()),
        ((9, 2), last),
        ((11, 1), ERROR),
        ((12, 4), rest),
    ]


def test_what_was_not_run_may_span_entries() -> None:
    sent = [entry(plain(0, 3)), entry(packed(3)), entry(plain(4, 2)), entry(packed(6))]
    done, rest = value(2), not_run(5)
    assert match(sent, [done, rest]) == [
        ((0, 2), done),
        ((2, 1), rest),
        ((3, 1), rest),
        ((4, 2), rest),
        ((6, 1), rest),
    ]
    assert [one for one, _ in matched(sent, [done, rest])][2:] == sent[1:]


@given(sizes=st.lists(st.integers(min_value=0, max_value=6), max_size=8), data=st.data())
def test_each_task_is_matched_once_whatever_the_cuts(
    sizes: list[int], data: st.DataObject
) -> None:
    """0 is a task that is not plain."""
    sent = []
    total = 0
    for size in sizes:
        sent.append(entry(plain(total, size) if size else packed(total)))
        total += size or 1
    given: list[Outcome] = []
    while sum(g.size for g in given) < total:
        left = total - sum(g.size for g in given)
        size = data.draw(st.integers(min_value=1, max_value=left))
        given.append(not_run(size)._replace(packed=b"%d" % len(given)))
    expected = [g for g in given for _ in range(g.size)]
    found = match(sent, given)
    assert [i for (first, size), _ in found for i in range(first, first + size)] == list(
        range(total)
    )
    assert [g for (_, size), g in found for _ in range(size)] == expected


# ------------------------------------------------------------------------------ waiting
def waiting_for(*batches: list[Entry]) -> Waiting:
    """Return batches that all are wanted."""
    waiting = Waiting(lambda one: True)
    for batch in batches:
        waiting.append(batch)
    return waiting


def singles(*indices: int) -> list[Entry]:
    return [entry(packed(index)) for index in indices]


def test_nothing_waits_at_first() -> None:
    waiting = waiting_for()
    assert not waiting
    assert waiting.size == 0


def test_batches_are_taken_as_they_were_put_in() -> None:
    waiting = waiting_for(singles(0, 1), [entry(plain(2, 50))], singles(52))
    assert waiting.size == 53
    assert spans(waiting.take(None)) == [(0, 1), (1, 1)]
    assert spans(waiting.take(None)) == [(2, 50)]
    assert waiting
    assert waiting.size == 1
    assert spans(waiting.take(None)) == [(52, 1)]
    assert not waiting
    assert waiting.size == 0


def test_what_is_put_back_is_taken_first() -> None:
    waiting = waiting_for(singles(0))
    waiting.put_back(singles(1, 2))
    waiting.put_back(singles(3))
    assert waiting.size == 4
    assert [spans(waiting.take(None)) for _ in range(3)] == [
        [(3, 1)],
        [(1, 1), (2, 1)],
        [(0, 1)],
    ]


def test_putting_nothing_back_changes_nothing() -> None:
    waiting = waiting_for()
    waiting.put_back([])
    assert not waiting


def test_batches_are_merged_until_they_are_large_enough() -> None:
    waiting = waiting_for(singles(0), singles(1, 2), [entry(plain(3, 2))], singles(5))
    assert spans(waiting.take(5)) == [(0, 1), (1, 1), (2, 1), (3, 2)]
    assert waiting.size == 1
    assert spans(waiting.take(5)) == [(5, 1)]


def test_a_batch_that_is_too_large_is_cut() -> None:
    waiting = waiting_for([entry(plain(0, 10))], singles(10))
    sizes = []
    taken = []
    while waiting:
        taken.append(spans(waiting.take(4)))
        sizes.append(waiting.size)
    assert taken == [[(0, 4)], [(4, 4)], [(8, 2), (10, 1)]]
    assert sizes == [7, 3, 0]


def test_a_cut_falls_inside_or_between_entries() -> None:
    waiting = waiting_for([*singles(0), entry(plain(1, 3)), *singles(4, 5)])
    assert spans(waiting.take(3)) == [(0, 1), (1, 2)]
    assert spans(waiting.take(2)) == [(3, 1), (4, 1)]
    assert spans(waiting.take(1)) == [(5, 1)]
    waiting = waiting_for([entry(plain(0, 2)), entry(plain(2, 3)), *singles(5)])
    first = waiting.take(2)
    assert spans(first) == [(0, 2)]
    assert spans(waiting.take(None)) == [(2, 3), (5, 1)]


def test_what_was_cut_off_goes_before_what_came_later() -> None:
    waiting = waiting_for([entry(plain(0, 3))], singles(3))
    waiting.take(2)
    assert spans(waiting.take(None)) == [(2, 1)]
    assert spans(waiting.take(None)) == [(3, 1)]


def test_parts_keep_what_is_known_of_the_whole() -> None:
    whole = Entry(plain(0, 3), SOME, retries_left=2, losses=4)
    waiting = waiting_for([whole])
    assert waiting.take(1) == [Entry(plain(0, 1), SOME, 2, losses=4)]
    assert waiting.take(9) == [Entry(plain(1, 2), SOME, 2, losses=4)]


@pytest.mark.parametrize("bound", [{"along": True}, {"worker": "tcp://there:1"}])
def test_what_is_bound_is_not_merged(bound: dict[str, object]) -> None:
    def bound_batch() -> list[Entry]:
        return [Entry(plain(1, 5), SOME, 0, **bound), entry(packed(6))]  # type: ignore[arg-type]

    waiting = waiting_for(singles(0), bound_batch(), singles(7), singles(8))
    assert [spans(waiting.take(3)) for _ in range(4)] == [
        [(0, 1)],
        [(1, 3)],
        [(4, 2), (6, 1)],
        [(7, 1), (8, 1)],
    ]
    assert waiting.size == 0


def test_what_nobody_wants_is_not_taken() -> None:
    unwanted = Delivery(1, 0)
    waiting = Waiting(lambda one: one.delivery is not unwanted)
    waiting.append([entry(packed(0)), entry(packed(1), unwanted)])
    waiting.append([entry(plain(2, 5), unwanted)])
    waiting.append(singles(7))
    assert waiting.size == 8
    assert spans(waiting.take(None)) == [(0, 1)]
    assert waiting.take(None) == []
    assert waiting.size == 1
    assert spans(waiting.take(None)) == [(7, 1)]
    assert waiting.size == 0


def test_what_nobody_wants_leaves_its_place_to_others() -> None:
    unwanted = Delivery(1, 0)
    waiting = Waiting(lambda one: one.delivery is not unwanted)
    waiting.append([entry(plain(0, 5), unwanted), entry(packed(5))])
    waiting.append([entry(plain(6, 5), unwanted)])
    waiting.append([entry(plain(11, 5))])
    assert spans(waiting.take(3)) == [(5, 1), (11, 2)]
    assert waiting.size == 3
    waiting.clear()
    waiting.append([entry(plain(6, 5), unwanted)])
    assert waiting.take(3) == []
    assert waiting.size == 0


def test_what_is_bound_and_unwanted_binds_nobody() -> None:
    unwanted = Delivery(1, 0)
    waiting = Waiting(lambda one: one.delivery is not unwanted)
    waiting.append([Entry(packed(0), unwanted, 0, along=True), entry(packed(1))])
    waiting.append(singles(2))
    assert spans(waiting.take(2)) == [(1, 1), (2, 1)]


def test_all_is_forgotten() -> None:
    waiting = waiting_for(singles(0, 1), [entry(plain(2, 50))])
    waiting.clear()
    assert not waiting
    assert waiting.size == 0
    waiting.append(singles(52))
    assert waiting.size == 1


@given(
    batches=st.lists(
        st.lists(st.integers(min_value=0, max_value=7), min_size=1, max_size=4),
        max_size=8,
    ),
    numbers=st.lists(st.none() | st.integers(min_value=1, max_value=9), min_size=1),
)
def test_each_task_is_taken_once_and_in_order(
    batches: list[list[int]], numbers: list[int | None]
) -> None:
    """0 is a task that is not plain."""
    waiting = waiting_for()
    total = 0
    for sizes in batches:
        batch = []
        for size in sizes:
            batch.append(entry(plain(total, size) if size else packed(total)))
            total += size or 1
        waiting.append(batch)
    taken: list[int] = []
    turn = 0
    while waiting:
        assert waiting.size == total - len(taken)
        number = numbers[turn % len(numbers)]
        found = [
            i for first, n in spans(waiting.take(number)) for i in range(first, first + n)
        ]
        if number is not None:
            assert len(found) == min(number, total - len(taken))
        taken += found
        turn += 1
    assert taken == list(range(total))
    assert waiting.size == 0
