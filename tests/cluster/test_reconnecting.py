"""A client that has lost its scheduler, and cannot reach it for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed.client
import distributed.comm
import joblib
import pytest
from distributed import Client, LocalCluster
from joblib import Parallel, delayed

from joblib_distributed.driver import looks, reconnecting
from joblib_distributed.errors import ClusterClosedError
from support.relay import Relay
from support.tasks import in_thread, mark, marks, wait_for_file
from support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

#: Seconds for which dask itself would look.
DASKS_TIMEOUT = 0.5
#: Seconds of one try of ours.
TRY_TIMEOUT = 0.2
#: What is looked for longer than the test waits.
LONG = 300


@pytest.fixture
def relay(own_cluster: LocalCluster) -> Iterator[Relay]:
    port = int(own_cluster.scheduler_address.rsplit(":", 1)[1])
    with Relay(port) as relay:
        yield relay


@pytest.fixture
def client(relay: Relay) -> Iterator[Client]:
    """A client that by itself would give up its scheduler soon."""
    with Client(relay.address, set_as_default=False) as client:
        before, client._timeout = client._timeout, DASKS_TIMEOUT
        yield client
        client._timeout = before  # closing takes longer


def hold(folder: str, number: int) -> int:
    mark(folder, f"running-{number}")
    wait_for_file(folder + "/go", timeout=45)
    return number * 10


def call_in_thread(
    client: Client, folder: Path, scheduler_timeout: float
) -> Callable[[], Any]:
    def call() -> Any:
        with joblib.parallel_config(
            backend="dask.distributed",
            client=client,
            scheduler_timeout=scheduler_timeout,
        ):
            tasks = (delayed(hold)(str(folder), i) for i in range(4))
            return Parallel(n_jobs=2, batch_size=1)(tasks)

    result = in_thread(call)
    wait_until(lambda: len(marks(folder)) >= 2, 30, lambda: f"running: {marks(folder)}")
    return result


def lines(text: str) -> list[str]:
    """What we have said, among what dask logs."""
    return [line for line in text.splitlines() if line.startswith("joblib_distributed")]


def awaited(relay: Relay, seconds: str) -> str:
    return (
        f"joblib_distributed: the connection to the scheduler at {relay.address} is "
        f"lost. Waiting for it for up to {seconds} seconds "
        f"(scheduler_timeout={seconds}); calls go on when it is back."
    )


def test_a_call_outlasts_its_connection_for_as_long_as_it_may(
    client: Client,
    relay: Relay,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tries: list[float] = []
    connect = distributed.comm.connect

    async def note_and_connect(address: str, timeout: float, **arguments: Any) -> Any:
        tries.append(timeout)
        return await connect(address, timeout=timeout, **arguments)

    monkeypatch.setattr(reconnecting, "TRY_TIMEOUT", TRY_TIMEOUT)
    # Not what dask's client tries by: that has imported it by its name.
    monkeypatch.setattr(distributed.comm, "connect", note_and_connect)
    result = call_in_thread(client, tmp_path, LONG)
    relay.refuse()
    # Several times as long as dask's own patience, counted in tries that failed.
    enough = 3 * DASKS_TIMEOUT / TRY_TIMEOUT
    wait_until(
        lambda: len(tries) > enough or client.status == "closed",
        30,
        lambda: f"{len(tries)} tries",
    )
    assert client.status == "connecting"
    assert tries == [TRY_TIMEOUT] * len(tries)
    mark(str(tmp_path), "go")
    relay.heal()
    assert result() == [0, 10, 20, 30]
    assert client.status == "running"
    assert client._timeout == DASKS_TIMEOUT
    assert lines(capsys.readouterr().err) == [awaited(relay, "300")]


@pytest.mark.parametrize(("seconds", "said"), [(0, []), (0.5, ["0.5"])])
def test_a_call_ends_when_its_scheduler_was_lost_for_too_long(
    seconds: float,
    said: list[str],
    client: Client,
    relay: Relay,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    client._timeout = LONG
    result = call_in_thread(client, tmp_path, seconds)
    relay.refuse()
    with pytest.raises(ClusterClosedError) as caught:
        result()
    assert (
        f"scheduler at {relay.address} was lost, and could not be made again for "
        f"{seconds:g} seconds (scheduler_timeout={seconds:g})" in str(caught.value)
    )
    assert client.status == "closed"
    assert client._timeout == LONG
    assert lines(capsys.readouterr().err) == [awaited(relay, text) for text in said]
    mark(str(tmp_path), "go")


def test_who_closes_a_client_that_has_lost_its_scheduler_is_told_so(
    client: Client, relay: Relay, tmp_path: Path
) -> None:
    result = call_in_thread(client, tmp_path, LONG)
    relay.refuse()
    wait_until(lambda: client.status == "connecting", 30, lambda: client.status)
    client.close()
    with pytest.raises(ClusterClosedError, match="was closed while a joblib call was"):
        result()
    mark(str(tmp_path), "go")


def test_a_connection_that_is_reset_is_made_anew_without_a_word(
    client: Client,
    own_cluster: LocalCluster,
    relay: Relay,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = call_in_thread(client, tmp_path, LONG)
    before, name = client.scheduler_comm, client.id
    relay.reset()
    wait_until(
        lambda: client.status == "running" and client.scheduler_comm is not before,
        30,
        lambda: f"the client is {client.status}",
    )
    mark(str(tmp_path), "go")
    assert result() == [0, 10, 20, 30]
    assert client._timeout == DASKS_TIMEOUT
    assert lines(capsys.readouterr().err) == []
    # Under its old name the scheduler would mistake the end of the one for the other's.
    assert client.id.partition("+")[0] == name
    assert client.id != name
    sessions = own_cluster.scheduler.clients
    wait_until(lambda: name not in sessions, 30, lambda: f"sessions: {list(sessions)}")
    assert client.id in sessions


def test_a_connection_that_is_closed_before_it_is_secure_is_tried_again(
    client: Client, relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tornado then raises what dask does not expect."""
    result = call_in_thread(client, tmp_path, LONG)
    before, failed = client.scheduler_comm, []
    connect = distributed.client.connect

    async def fail_and_connect(*args: Any, **arguments: Any) -> Any:
        if len(failed) < 2:
            failed.append(args)
            raise ValueError("IOStream is not idle; cannot convert to SSL")
        return await connect(*args, **arguments)

    monkeypatch.setattr(distributed.client, "connect", fail_and_connect)
    relay.reset()
    wait_until(
        lambda: client.status == "running" and client.scheduler_comm is not before,
        30,
        lambda: f"the client is {client.status}",
    )
    assert len(failed) == 2
    mark(str(tmp_path), "go")
    assert result() == [0, 10, 20, 30]


def test_a_connection_by_which_no_end_is_told_is_made_anew(
    client: Client, relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler knows all that was sent, and answers whatever it is asked."""
    monkeypatch.setattr(looks, "ANSWER_TIMEOUT", 2.0)
    result = call_in_thread(client, tmp_path, LONG)
    deaf = client.scheduler_comm
    relay.deafen(int(deaf.comm.local_address.rsplit(":", 1)[1]))
    mark(str(tmp_path), "go")
    assert result() == [0, 10, 20, 30]
    assert client.scheduler_comm is not deaf


def test_a_client_without_what_it_rests_on_is_left_alone() -> None:
    class Bare:
        pass

    class WithoutTimeout:
        async def _reconnect(self) -> None:
            pass

    for client in (Bare(), WithoutTimeout()):
        reconnecting.reconnect_for(client, LONG)
        assert vars(client) == {}
