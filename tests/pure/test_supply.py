"""Which host gets a buffer from whom."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from joblib_distributed.driver import supply
from joblib_distributed.driver.supply import (
    DRIVER,
    DRIVER_TRANSFERS,
    HOST_TRANSFERS,
    Directory,
    Transfer,
)


def want(directory: Directory, name: str, *hosts: str) -> list[Transfer]:
    """Have hosts want a buffer; return what begins."""
    for host in hosts:
        directory.want(name, host)
    return list(directory.start())


def arrive(directory: Directory, *transfers: Transfer) -> list[Transfer]:
    """End transfers well; return what begins."""
    for transfer in transfers:
        directory.arrived(transfer)
    return list(directory.start())


def holding(directory: Directory, name: str, *hosts: str) -> None:
    """Bring a buffer to hosts, one after the other."""
    for host in hosts:
        (transfer,) = want(directory, name, host)
        assert arrive(directory, transfer) == []


def first_with(name: str, *hosts: str) -> Directory:
    """Return a directory that knows that hosts have a buffer."""
    directory = Directory()
    holding(directory, name, *hosts)
    return directory


# ---------------------------------------------------------------------------- who sends
def test_a_buffer_that_no_host_has_comes_from_the_driver() -> None:
    assert want(Directory(), "x", "a") == [Transfer("x", "a", DRIVER)]


def test_the_driver_sends_a_buffer_to_one_host_and_hosts_pass_it_on() -> None:
    directory = Directory()
    assert want(directory, "x", "a", "b") == [Transfer("x", "a", DRIVER)]
    assert want(directory, "x", "c") == []
    # The driver could send; but "a" has it now.
    assert arrive(directory, Transfer("x", "a", DRIVER)) == [
        Transfer("x", "b", "a"),
        Transfer("x", "c", "a"),
    ]


def test_a_host_with_a_buffer_serves_one_that_comes_later() -> None:
    directory = first_with("x", "a")
    assert want(directory, "x", "b") == [Transfer("x", "b", "a")]


def test_what_was_not_used_for_longest_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supply, "REMEMBERED", 3)
    directory = first_with("x", "a")
    holding(directory, "y", "a", "b")
    (transfer,) = want(directory, "x", "c")  # "a" gives it, and is used by that
    assert transfer.source == "a"
    directory.target_failed(transfer)
    holding(directory, "z", "d")
    assert directory.hosts == {"a", "b", "d"}
    assert want(directory, "y", "e") == [Transfer("y", "e", "b")]
    assert want(directory, "x", "e") == [Transfer("x", "e", "a")]
    holding(directory, "u", "d")
    holding(directory, "v", "d")
    assert directory.hosts == {"a", "b", "d", "e"}  # the first two give to the last
    assert len(directory._holders) == 3
    # The driver sends it once more.
    assert want(directory, "w", "e") == [Transfer("w", "e", DRIVER)]


def test_holders_are_as_many_as_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supply, "REMEMBERED", 5)
    directory = Directory()
    for number in range(20):
        holding(directory, f"name{number}", "a", "b")
    assert sum(map(len, directory._holders.values())) == len(directory._used) == 5
    holding(directory, "name0", "a")


def test_holders_of_a_buffer_double_with_each_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supply, "HOST_TRANSFERS", 1)
    directory = Directory()
    under_way = want(directory, "x", *"abcdefghijklmno")
    rounds = []
    while under_way:
        rounds.append([transfer.source for transfer in under_way])
        under_way = arrive(directory, *under_way)
    assert rounds == [[DRIVER], ["a"], ["a", "b"], [*"abcd"], [*"abcdefg"]]


def test_the_driver_sends_different_buffers_at_the_same_time() -> None:
    directory = Directory()
    directory.want("x", "a")
    directory.want("y", "a")
    assert list(directory.start()) == [
        Transfer("x", "a", DRIVER),
        Transfer("y", "a", DRIVER),
    ]


def test_what_has_begun_is_not_begun_again() -> None:
    directory = Directory()
    assert len(want(directory, "x", "a")) == 1
    assert want(directory, "x", "a", "a") == []
    assert arrive(directory, Transfer("x", "a", DRIVER)) == []


# -------------------------------------------------------------------------------- limits
def test_the_driver_makes_so_many_transfers_at_a_time() -> None:
    directory = Directory()
    names = [f"x{i}" for i in range(DRIVER_TRANSFERS + 2)]
    for name in names:
        directory.want(name, "a")
    begun = list(directory.start())
    assert begun == [Transfer(n, "a", DRIVER) for n in names[:DRIVER_TRANSFERS]]
    assert arrive(directory, begun[1]) == [Transfer(names[-2], "a", DRIVER)]
    directory.target_failed(begun[0])
    assert list(directory.start()) == [Transfer(names[-1], "a", DRIVER)]


def test_a_host_makes_so_many_transfers_at_a_time() -> None:
    directory = first_with("x", "a")
    hosts = [f"b{i}" for i in range(HOST_TRANSFERS + 1)]
    begun = want(directory, "x", *hosts)
    assert begun == [Transfer("x", host, "a") for host in hosts[:HOST_TRANSFERS]]
    assert arrive(directory, begun[0]) == [Transfer("x", hosts[-1], "a")]


def test_the_limit_of_a_host_is_that_of_all_its_buffers() -> None:
    directory = first_with("x", "a")
    holding(directory, "y", "a")
    begun = want(directory, "x", *(f"b{i}" for i in range(HOST_TRANSFERS)))
    assert len(begun) == HOST_TRANSFERS
    # Not from the driver either: a host has it.
    assert want(directory, "y", "c") == []
    directory.target_failed(begun[0])
    assert list(directory.start()) == [Transfer("y", "c", "a")]


def test_the_next_holder_serves_when_the_first_is_busy() -> None:
    directory = first_with("x", "a", "b")
    hosts = [f"c{i}" for i in range(HOST_TRANSFERS + 1)]
    assert [t.source for t in want(directory, "x", *hosts)] == [
        *["a"] * HOST_TRANSFERS,
        "b",
    ]


def test_wishes_are_met_in_their_order() -> None:
    directory = Directory()
    names = [f"x{i}" for i in range(DRIVER_TRANSFERS)]
    begun = [want(directory, name, "a")[0] for name in names]
    assert want(directory, "z", "a") == []
    assert want(directory, "y", "a") == []
    # A wish that is made again keeps its place.
    assert want(directory, "z", "a") == []
    assert arrive(directory, begun[0]) == [Transfer("z", "a", DRIVER)]
    assert arrive(directory, begun[1]) == [Transfer("y", "a", DRIVER)]


def test_a_wish_whose_source_is_busy_keeps_no_other_one_waiting() -> None:
    directory = Directory()
    assert want(directory, "x", "a", "b") == [Transfer("x", "a", DRIVER)]
    assert want(directory, "y", "c") == [Transfer("y", "c", DRIVER)]


# ------------------------------------------------------------------------------ failures
def test_another_holder_is_asked_when_one_cannot_give_the_buffer() -> None:
    directory = first_with("x", "a", "b")
    (transfer,) = want(directory, "x", "c")
    assert transfer == Transfer("x", "c", "a")
    directory.source_failed(transfer)
    assert list(directory.start()) == [Transfer("x", "c", "b")]
    # Nor is "a" asked by anybody else.
    assert want(directory, "x", "d") == [Transfer("x", "d", "b")]


def test_the_driver_sends_again_when_no_holder_can_give_the_buffer() -> None:
    directory = first_with("x", "a")
    (transfer,) = want(directory, "x", "b")
    directory.source_failed(transfer)
    assert list(directory.start()) == [Transfer("x", "b", DRIVER)]


def test_a_holder_that_lacks_one_buffer_still_serves_others() -> None:
    directory = first_with("x", "a")
    holding(directory, "y", "a")
    directory.source_failed(want(directory, "x", "b")[0])
    assert want(directory, "y", "b") == [
        Transfer("x", "b", DRIVER),
        Transfer("y", "b", "a"),
    ]


def test_a_host_that_cannot_take_a_buffer_is_left_until_it_asks_again() -> None:
    directory = first_with("x", "a")
    (transfer,) = want(directory, "x", "b")
    directory.target_failed(transfer)
    assert list(directory.start()) == []
    assert not directory.has_arrived_since("x", "b", 0)
    assert want(directory, "x", "b") == [transfer]


def test_the_driver_may_send_to_another_host_when_one_could_not_take_it() -> None:
    directory = Directory()
    (transfer,) = want(directory, "x", "a", "b")
    directory.target_failed(transfer)
    assert list(directory.start()) == [Transfer("x", "b", DRIVER)]


# ------------------------------------------------------------------------------ arrivals
def test_a_host_that_asks_again_is_no_holder_any_more() -> None:
    """It has evicted the buffer."""
    directory = first_with("x", "a")
    assert want(directory, "x", "a") == [Transfer("x", "a", DRIVER)]
    # Nor does anybody get it from there before it is back.
    assert want(directory, "x", "b") == []
    assert not directory.has_arrived_since("x", "a", 0)


def test_what_arrived_is_told_from_what_was_there_before() -> None:
    directory = Directory()
    assert directory.arrivals == 0
    assert not directory.has_arrived_since("x", "a", 0)
    holding(directory, "x", "a")
    assert directory.arrivals == 1
    assert directory.has_arrived_since("x", "a", 0)
    assert not directory.has_arrived_since("x", "a", 1)
    holding(directory, "y", "b")
    assert directory.arrivals == 2
    assert directory.has_arrived_since("y", "b", 1)
    assert not directory.has_arrived_since("y", "a", 0)
    assert not directory.has_arrived_since("x", "b", 0)
    assert not directory.has_arrived_since("x", "a", 1)


# --------------------------------------------------------------- whatever happens, when
names = st.sampled_from(["x", "y", "z"])
hosts = st.sampled_from(["a", "b", "c", "d", "e"])
picks = st.integers(min_value=0, max_value=10**6)


class DirectoryMachine(RuleBasedStateMachine):
    """Wishes, arrivals and failures in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Directory()
        self.wanted: set[tuple[str, str]] = set()
        self.under_way: dict[tuple[str, str], Transfer] = {}
        #: Who has each buffer, as far as is known.
        self.holders: dict[str, set[str]] = {}

    def holders_of(self, name: str) -> set[str]:
        return self.holders.setdefault(name, set())

    def busy(self, source: str) -> int:
        return sum(t.source == source for t in self.under_way.values())

    def begin(self) -> None:
        for transfer in self.directory.start():
            pair = transfer.name, transfer.host
            assert pair in self.wanted, "nobody wants this"
            assert pair not in self.under_way, "it is under way"
            self.wanted.remove(pair)
            self.check_source(transfer)
            self.under_way[pair] = transfer

    def check_source(self, transfer: Transfer) -> None:
        if transfer.source == DRIVER:
            assert not self.holders_of(transfer.name), "a host has it"
            assert not self.sent_by_driver(transfer.name), "the driver sends it twice"
            assert self.busy(DRIVER) < DRIVER_TRANSFERS
        else:
            assert transfer.source in self.holders_of(transfer.name)
            assert transfer.source != transfer.host
            assert self.busy(transfer.source) < HOST_TRANSFERS

    def sent_by_driver(self, name: str) -> bool:
        return any(t.name == name and t.source == DRIVER for t in self.under_way.values())

    def end(self, number: int) -> Transfer:
        pair = list(self.under_way)[number % len(self.under_way)]
        return self.under_way.pop(pair)

    @rule(name=names, host=hosts)
    def want(self, name: str, host: str) -> None:
        self.directory.want(name, host)
        self.holders_of(name).discard(host)
        if (name, host) not in self.under_way:
            self.wanted.add((name, host))
        self.begin()

    @precondition(lambda self: self.under_way)
    @rule(number=picks)
    def arrive(self, number: int) -> None:
        transfer = self.end(number)
        before = self.directory.arrivals
        self.directory.arrived(transfer)
        self.holders_of(transfer.name).add(transfer.host)
        assert self.directory.has_arrived_since(transfer.name, transfer.host, before)
        self.begin()

    @precondition(lambda self: any(t.source for t in self.under_way.values()))
    @rule(number=picks)
    def fail_source(self, number: int) -> None:
        pairs = [pair for pair, t in self.under_way.items() if t.source != DRIVER]
        transfer = self.under_way.pop(pairs[number % len(pairs)])
        self.directory.source_failed(transfer)
        self.holders_of(transfer.name).discard(transfer.source)
        self.wanted.add((transfer.name, transfer.host))
        self.begin()

    @precondition(lambda self: self.under_way)
    @rule(number=picks)
    def fail_target(self, number: int) -> None:
        self.directory.target_failed(self.end(number))
        self.begin()

    @invariant()
    def nothing_waits_without_need(self) -> None:
        for name, _ in self.wanted:
            if self.holders_of(name):
                busy = [self.busy(host) for host in self.holders_of(name)]
                assert busy == [HOST_TRANSFERS] * len(busy)
            else:
                full = self.busy(DRIVER) == DRIVER_TRANSFERS
                assert full or self.sent_by_driver(name)

    def teardown(self) -> None:
        """Have all that is under way arrive: then nothing is wanted."""
        for _ in range(100):
            if self.under_way:
                self.arrive(0)
        assert not self.wanted
        assert self.directory._under_way == {}
        assert list(self.directory.start()) == []


TestDirectory = DirectoryMachine.TestCase
TestDirectory.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)
