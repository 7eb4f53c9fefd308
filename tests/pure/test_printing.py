"""What tasks print: caught on the worker, shown at the driver."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from joblib_distributed.data.printed import (
    LOG,
    STDERR,
    STDOUT,
    Chunk,
    Printed,
    Wanted,
    pack_chunk,
    pack_record,
    unpack_record,
)
from joblib_distributed.data.process import process_token
from joblib_distributed.driver.printing import TOPICS, Listeners, Screen
from joblib_distributed.driver.printing import wanted as wanted_here
from joblib_distributed.worker import printing as module
from joblib_distributed.worker.printing import (
    CHUNK,
    INTERVAL,
    LONGEST,
    MOST,
    MOST_CHUNKS,
    Output,
    printing,
)

WANTED = Wanted("topic", b"another process", logging.INFO)


class Worker:
    """Does at once what its loop is given, but for what is for later."""

    def __init__(self) -> None:
        self.loop = self
        self.events: list[tuple[str, bytes]] = []
        self.later: list[tuple[float, Callable[[], None]]] = []

    def add_callback(self, act: Callable[..., object], *arguments: object) -> None:
        act(*arguments)

    def call_later(self, seconds: float, act: Callable[[], None]) -> None:
        self.later.append((seconds, act))

    def log_event(self, topic: str, message: bytes) -> None:
        self.events.append((topic, message))


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    worker = Worker()
    monkeypatch.setattr(module, "current_worker", lambda: worker)
    return worker


@contextlib.contextmanager
def caught(task: int = 0, wanted: Wanted = WANTED) -> Iterator[list[Printed]]:
    """Give what is printed in the block, when it has ended."""
    found: list[Printed] = []
    with printing(wanted, "call", "attempt", lambda: task) as rest:
        yield found
    chunk = rest()
    found += chunk.printed if chunk is not None else []


@pytest.mark.usefixtures("worker")
def test_what_is_printed_is_caught_with_its_task(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with caught(task=3) as found:
        print("to stdout")
        print("to stderr", file=sys.stderr)
        print("and", end=" ")
        print("again")
    assert found == [
        Printed(STDOUT, 3, "to stdout\n"),
        Printed(STDERR, 3, "to stderr\n"),
        Printed(STDOUT, 3, "and again\n"),
    ]
    print("not caught any more")
    assert capsys.readouterr() == ("not caught any more\n", "")


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    "wanted", [Wanted(), WANTED._replace(process=process_token())], ids=["off", "here"]
)
def test_what_is_not_wanted_goes_where_it_goes(
    capsys: pytest.CaptureFixture[str], wanted: Wanted
) -> None:
    stdout = sys.stdout
    with caught(wanted=wanted) as found:
        assert sys.stdout is stdout
        print("as before")
    assert found == []
    assert capsys.readouterr().out == "as before\n"


@pytest.mark.usefixtures("worker")
def test_an_attempt_that_prints_nothing_sends_nothing() -> None:
    with printing(WANTED, "call", "attempt", int) as rest:
        print(end="")
    assert rest() is None


@pytest.mark.usefixtures("worker")
def test_two_threads_are_told_apart() -> None:
    barrier = threading.Barrier(2)
    found: dict[int, list[Printed]] = {}

    def run(task: int) -> None:
        with caught(task) as mine:
            for _ in range(3):
                barrier.wait(10)
                print(task)
            barrier.wait(10)
        found[task] = mine

    threads = [threading.Thread(target=run, args=(task,)) for task in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == {t: [Printed(STDOUT, t, f"{t}\n" * 3)] for t in (1, 2)}


@pytest.mark.usefixtures("worker")
def test_what_a_thread_of_a_tasks_prints_is_the_tasks() -> None:
    done: list[list[Printed]] = []

    def task() -> None:
        with caught() as found:
            thread = threading.Thread(target=print, args=("from a thread",))
            thread.start()
            thread.join(10)
        done.append(found)

    runner = threading.Thread(target=task)
    runner.start()
    runner.join(10)
    assert done == [[Printed(STDOUT, 0, "from a thread\n")]]


def test_what_the_engine_prints_is_not(
    worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    started, ended = threading.Event(), threading.Event()

    def task() -> None:
        with caught():
            started.set()
            ended.wait(10)

    runner = threading.Thread(target=task)
    runner.start()
    assert started.wait(10)
    print("in the main thread")  # where a worker's event loop is
    ended.set()
    runner.join(10)
    assert capsys.readouterr().out == "in the main thread\n"
    assert worker.events == []


@pytest.mark.usefixtures("worker")
def test_streams_behave_as_streams() -> None:
    with caught() as found:
        assert sys.stdout.write("abc") == 3
        sys.stdout.writelines(["1", "2\n"])
        sys.stdout.flush()
        assert not sys.stdout.isatty()
        assert sys.stdout.encoding == module._catching._streams["stdout"][0].encoding
        with pytest.raises(TypeError, match="must be str, not bytes"):
            sys.stdout.write(b"x")  # type: ignore[arg-type]
    assert found == [Printed(STDOUT, 0, "abc12\n")]


@pytest.mark.usefixtures("worker")
def test_bytes_that_are_no_text_are_shown_as_they_are() -> None:
    with caught() as found:
        data = "ä".encode()
        assert sys.stdout.buffer.write(b"x\xff" + data[:1]) == 3
        sys.stdout.buffer.write(data[1:] + b"\n")
        sys.stdout.buffer.flush()
    assert found == [Printed(STDOUT, 0, "x\\xffä\n")]


@pytest.mark.usefixtures("worker")
def test_a_task_may_put_its_own_stream_there() -> None:
    mine = io.StringIO()
    before = sys.stdout
    try:
        with caught() as found:
            with contextlib.redirect_stdout(mine):
                print("mine")
            print("not mine")
            sys.stdout = mine  # and leave it
        assert sys.stdout is mine
    finally:
        sys.stdout = before
    assert mine.getvalue() == "mine\n"
    assert found == [Printed(STDOUT, 0, "not mine\n")]


# ------------------------------------------------------------------------------- logging
@contextlib.contextmanager
def silent_root() -> Iterator[logging.Logger]:
    """Have no handler, not even pytest's, and Python's own level."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    root.setLevel(logging.WARNING)
    try:
        yield root
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.mark.usefixtures("worker")
def test_records_are_caught_from_the_level_that_is_wanted_on() -> None:
    logger = logging.getLogger("a.b")
    with silent_root() as root:
        with caught(task=2) as found:
            logger.debug("not wanted")
            logger.info("wanted: %d", 1)
        assert (root.level, root.handlers) == (logging.WARNING, [])
    assert [(p.kind, p.task) for p in found] == [(LOG, 2)]
    assert unpack_record(found[0].what).getMessage() == "wanted: 1"


@pytest.mark.usefixtures("worker")
def test_records_of_others_are_treated_as_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # In another thread than the main one, where it would be the engine's.
    output = Output("call", "other", int, lambda chunk: None, lambda s, act: None)
    with silent_root():
        module._catching.begin(output, logging.INFO)
        try:
            logging.getLogger("engine").info("not shown")
            logging.getLogger("engine").warning("shown by Python's last resort")
        finally:
            module._catching.end(output)
    assert capsys.readouterr().err == "shown by Python's last resort\n"


# -------------------------------------------------------------------------------- chunks
class Scene:
    """One attempt's output, with its worker's loop done by hand."""

    def __init__(self) -> None:
        self.sent: list[Chunk] = []
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.task = 0
        self.output = Output(
            "call",
            "attempt",
            lambda: self.task,
            self.sent.append,
            lambda seconds, act: self.later.append((seconds, act)),
        )

    def print(self, text: str) -> None:
        self.output.add(STDOUT, text)

    def texts(self) -> list[list[str]]:
        return [[printed.what for printed in chunk.printed] for chunk in self.sent]


def test_what_was_printed_is_sent_after_a_moment() -> None:
    scene = Scene()
    scene.print("a\n")
    scene.print("b\n")
    ((seconds, act),) = scene.later
    assert (seconds, scene.sent) == (INTERVAL, [])
    act()
    assert scene.texts() == [["a\nb\n"]]
    scene.print("c\n")
    assert len(scene.later) == 2
    rest = scene.output.end()
    assert rest is not None
    assert rest[0::2] == ("call", 1, True)
    assert rest.printed == [Printed(STDOUT, 0, "c\n")]
    # The engine may run an attempt again, under the same key.
    assert rest.attempt.startswith("attempt ")
    assert rest.attempt == scene.sent[0].attempt
    other = Scene()
    other.print("x")
    again = other.output.end()
    assert again is not None
    assert again.attempt != rest.attempt
    scene.later[1][1]()  # too late
    scene.print("too late, too")
    assert scene.texts() == [["a\nb\n"]]


def test_much_is_sent_at_once_and_in_pieces() -> None:
    scene = Scene()
    line = "x" * 99 + "\n"
    for _ in range(CHUNK // 100 + 1):
        scene.print(line)
    texts = [text for chunk in scene.texts() for text in chunk]
    assert "".join(texts) == line * (CHUNK // 100 + 1)
    assert [len(text) for text in texts] == [CHUNK, len("".join(texts)) - CHUNK]
    scene.print("y" * 3 * CHUNK + "\n")
    assert max(len(text) for chunk in scene.texts() for text in chunk) == CHUNK


def test_few_chunks_are_sent_before_the_end() -> None:
    scene = Scene()
    text = "".join(f"{number}\n" for number in range(200_000))
    for start in range(0, len(text), 1000):
        scene.print(text[start : start + 1000])
    assert len(scene.sent) == MOST_CHUNKS
    rest = scene.output.end()
    assert rest is not None
    assert [c.number for c in (*scene.sent, rest)] == list(range(MOST_CHUNKS + 1))
    assert "".join(p.what for c in (*scene.sent, rest) for p in c.printed) == text


@pytest.mark.usefixtures("worker")
def test_bytes_can_be_wrapped_as_any() -> None:
    with caught() as found:
        wrapped = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")
        wrapped.write("wrapped\n")
        wrapped.flush()
        del wrapped  # which closes what it wraps
        print("and on")
    assert found == [Printed(STDOUT, 0, "wrapped\nand on\n")]


class Text(str):
    """A text of the user's, which the driver may not be able to unpickle."""


@pytest.mark.usefixtures("worker")
def test_only_plain_text_is_sent() -> None:
    with caught() as found:
        sys.stdout.write(Text("x"))
    assert type(found[0].what) is str


@pytest.mark.usefixtures("worker")
def test_what_an_initializer_has_put_around_a_stream_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Tee:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def write(self, text: str) -> None:
            self.stream.write(f"tee: {text}")

    monkeypatch.setattr(module._catching, "_streams", {})
    before = sys.stdout
    try:
        with caught() as first:
            sys.stdout = Tee(sys.stdout)  # type: ignore[assignment]
            print("1")
        with caught() as second:
            print("2")
    finally:
        sys.stdout = before
    for number, found in ((1, first), (2, second)):
        text = "".join(p.what for p in found)
        assert text.replace("tee: \n", "\n") == f"tee: {number}\n"


@pytest.mark.usefixtures("worker")
def test_a_task_can_set_up_logging(tmp_path: Path) -> None:
    with silent_root() as root:
        with caught() as found:
            logging.basicConfig(filename=tmp_path / "task.log", level=logging.DEBUG)
            logging.getLogger("a").debug("to the file")
        assert root.level == logging.DEBUG
        for handler in root.handlers:
            handler.close()
    assert found == []
    assert "to the file" in (tmp_path / "task.log").read_text()


@pytest.mark.usefixtures("worker")
def test_who_wants_more_has_it_beside_who_wants_less() -> None:
    """Two drivers on one worker process."""
    with silent_root() as root:
        with caught(wanted=WANTED._replace(level=logging.ERROR)), caught() as found:
            logging.getLogger("a").info("wanted")
        assert root.level == logging.WARNING
    assert [unpack_record(p.what).getMessage() for p in found] == ["wanted"]


@pytest.mark.usefixtures("worker")
def test_a_nested_call_in_the_same_process_is_caught_too() -> None:
    """Its driver is this worker, which shows what comes as the outer task's."""
    here = WANTED._replace(process=process_token())
    with caught(task=1) as outer:
        with caught(task=2, wanted=here) as inner:
            print("inner")
        print("outer")
    assert (inner, outer) == (
        [Printed(STDOUT, 2, "inner\n")],
        [Printed(STDOUT, 1, "outer\n")],
    )


def test_half_a_line_waits_for_its_end() -> None:
    scene = Scene()
    scene.print("a\nhal")
    scene.later[0][1]()
    scene.print("f\n")
    scene.later[1][1]()
    assert scene.texts() == [["a\n"], ["half\n"]]
    scene.print("no end")
    scene.later[2][1]()
    rest = scene.output.end()
    assert rest is not None
    assert [printed.what for printed in rest.printed] == ["no end"]


def test_but_not_for_ever() -> None:
    scene = Scene()
    scene.print("." * LONGEST)
    assert scene.texts() == [["." * LONGEST]]


def test_chunks_say_which_task_printed_what() -> None:
    scene = Scene()
    for task in (0, 0, 1):
        scene.task = task
        scene.print(f"{task}\n")
    rest = scene.output.end()
    assert rest is not None
    assert rest.printed == [Printed(STDOUT, 0, "0\n0\n"), Printed(STDOUT, 1, "1\n")]


def test_who_prints_too_much_is_told_so() -> None:
    scene = Scene()
    for _ in range(3):
        scene.print("x" * (MOST // 2 - 1) + "\n")
    scene.output.add(LOG, b"record")
    rest = scene.output.end()
    assert rest is not None
    everything = [p.what for c in (*scene.sent, rest) for p in c.printed]
    assert sum(map(len, everything[:-1])) == MOST
    left = MOST // 2 + len(b"record")
    assert (
        f"{left} more characters that tasks have printed are not shown"
        in (everything[-1])
    )


# ---------------------------------------------------------------------------- the driver
class Tally:
    def __init__(self) -> None:
        self.chunks: list[Chunk] = []

    def note_printed(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)


class Client:
    def __init__(self) -> None:
        self.id = "client-1"
        self.scheduler_comm = object()
        self.topics: list[str] = []

    def subscribe_topic(self, topic: str, handler: object) -> None:
        self.topics.append(topic)


def test_a_call_is_told_what_its_tasks_print() -> None:
    listeners, client = Listeners(), Client()
    first, second = Tally(), Tally()
    topic = listeners.add(client, "one", first)
    assert listeners.add(client, "two", second) == topic
    assert client.topics == [topic]
    chunk = Chunk("two", "attempt", 0, [Printed(STDOUT, 0, "x")], True)
    for call in ("two", "of another client"):
        listeners.hear((0.0, (call, pack_chunk(chunk))))
    assert (first.chunks, second.chunks) == ([], [chunk])
    del second
    listeners.hear((0.0, ("two", pack_chunk(chunk))))  # its call is over


def test_all_clients_have_but_few_topics() -> None:
    """The scheduler never forgets one."""
    topics = set()
    for number in range(500):
        client = Client()
        client.id = f"client-{number}"
        topics.add(Listeners().add(client, "call", Tally()))
    assert len(topics) == TOPICS


def test_a_scheduler_that_was_lost_is_told_anew() -> None:
    listeners, client, tally = Listeners(), Client(), Tally()
    topic = listeners.add(client, "one", tally)
    client.scheduler_comm = object()
    listeners.add(client, "two", tally)
    assert client.topics == [topic] * 2


def test_a_client_that_is_closed_is_left_to_its_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise Exception("Tried sending message after closing.")

    client = Client()
    monkeypatch.setattr(client, "subscribe_topic", refuse)
    assert Listeners().add(client, "one", Tally())


def test_what_is_wanted_is_what_this_process_would_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger(), "level", logging.DEBUG)
    assert wanted_here("topic") == Wanted("topic", process_token(), logging.DEBUG)


def show(*printed: Printed, has_prefix: bool = False) -> None:
    screen = Screen(has_prefix)
    for each in printed:
        screen.show(each)


def test_each_stream_is_shown_on_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    show(Printed(STDOUT, 0, "out\n"), Printed(STDERR, 1, "err"), Printed(STDOUT, 2, "2"))
    assert capsys.readouterr() == ("out\n2", "err")


def test_each_line_says_of_which_task_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show(
        Printed(STDOUT, 0, "a\nb\n"),
        Printed(STDOUT, 7, "half "),
        Printed(STDOUT, 7, "of\nit"),
        Printed(STDOUT, 8, "x\n"),
        Printed(STDERR, 7, "other stream\n"),
        has_prefix=True,
    )
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "[task 0] a",
        "[task 0] b",
        "[task 7] half of",
        "[task 7] it",
        "[task 8] x",
    ]
    assert err == "[task 7] other stream\n"


def test_what_the_screen_has_no_letters_for_is_shown_as_it_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    show(Printed(STDOUT, 0, "ä \udcff\n"))
    assert stream.buffer.getvalue() == b"\\xe4 \\udcff\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [None, "closed", "broken"])
def test_a_screen_that_fails_is_gone_without(
    monkeypatch: pytest.MonkeyPatch, stream: Any
) -> None:
    if stream == "closed":
        stream = io.StringIO()
        stream.close()
    elif stream == "broken":

        def write(text: str) -> None:
            raise BrokenPipeError

        stream = SimpleNamespace(write=write)
    monkeypatch.setattr(sys, "stdout", stream)
    show(Printed(STDOUT, 0, "x"))


def test_records_are_handled_as_if_they_were_logged_here(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def packed(level: int) -> Printed:
        record = logging.LogRecord("a.b", level, "x.py", 1, "text", (), None)
        return Printed(LOG, 0, pack_record(record))

    with caplog.at_level(logging.WARNING, "a"):
        show(packed(logging.INFO), packed(logging.ERROR))
    assert [(r.name, r.levelno, r.getMessage()) for r in caplog.records] == [
        ("a.b", logging.ERROR, "text")
    ]
