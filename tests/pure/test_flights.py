"""The attempts of a call that are out."""

from __future__ import annotations

import math

import pytest

from joblib_distributed.data.payload import Packer
from joblib_distributed.driver.batching import BOX, DOUBT, FLIGHTS, PATIENCE, BatchPolicy
from joblib_distributed.driver.entries import Delivery, Entry
from joblib_distributed.driver.flights import Flights


def entries(number: int) -> list[Entry]:
    packer = Packer()
    delivery = Delivery(0, number)
    return [Entry(packer.pack_task((abs, (i,), {})), delivery, 0) for i in range(number)]


def believer() -> BatchPolicy:
    policy = BatchPolicy(threads=2)
    policy.believe(1e-5)
    return policy


def test_what_rests_on_a_belief_has_little_time() -> None:
    flights = Flights("call", believer())
    sent = flights.send(entries(2), solo=False)
    assert sent.box == DOUBT
    assert flights.doubt(sent.key) == pytest.approx(FLIGHTS * DOUBT, abs=0.002)
    assert flights.doubt(sent.key) > FLIGHTS * DOUBT, "it is looked at when it is due"


def test_what_is_alone_is_not_doubted() -> None:
    flights = Flights("call", believer())
    assert flights.doubt(flights.send(entries(1), solo=False).key) == math.inf


def test_what_is_known_is_not_doubted() -> None:
    policy = believer()
    policy.record(1, 1e-5, 0)
    flights = Flights("call", policy)
    sent = flights.send(entries(2), solo=False)
    assert (sent.box, flights.doubt(sent.key)) == (PATIENCE * BOX, math.inf)


def test_without_a_policy_there_is_no_hurry() -> None:
    flights = Flights("call", None)
    sent = flights.send(entries(2), solo=False)
    assert (sent.box, flights.doubt(sent.key)) == (None, math.inf)
