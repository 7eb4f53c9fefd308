"""What the ledger of a call is told, and what it tells to do.

Events say what happened, in the past tense; instructions say what is to be done.

See Also
--------
joblib_distributed.driver.call : the ledger.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from joblib_distributed.data.outcome import Outcome
from joblib_distributed.data.printed import Chunk
from joblib_distributed.data.tasks import Tasks
from joblib_distributed.data.warned import Warned
from joblib_distributed.errors import ClusterError, JoblibDistributedError


@dataclasses.dataclass(frozen=True)
class Dispatched:
    """joblib handed over tasks whose results it wants together."""

    delivery: int
    tasks: Sequence[Tasks]


@dataclasses.dataclass(frozen=True)
class AttemptFinished:
    """The outcomes of an attempt are here."""

    key: str
    worker: str
    outcomes: Sequence[Outcome]
    #: What the tasks warned of.
    warned: Sequence[Warned] = ()
    #: The rest of what they have printed.
    printed: Chunk | None = None


@dataclasses.dataclass(frozen=True)
class AttemptKilled:
    """The engine gave an attempt up because the workers that ran it died."""

    key: str
    #: What is known of the last worker, for people; ends a sentence.
    detail: str
    #: How many workers died.
    deaths: int = 1


@dataclasses.dataclass(frozen=True)
class AttemptLost:
    """The engine forgot an attempt: cancelled by somebody, restarted, disconnected."""

    key: str


@dataclasses.dataclass(frozen=True)
class AttemptFailed:
    """The engine raised instead of running our function, or of giving what it gave."""

    key: str
    detail: str
    #: The exception of an input that the tasks depend on, if it is that.
    of_input: BaseException | None = None
    #: Whether its worker could not load our function: then none of its tasks has begun.
    never_began: bool = False


@dataclasses.dataclass(frozen=True)
class Looked:
    """What the scheduler says of attempts that have not been heard of for a while."""

    now: float
    #: The scheduler's state of each attempt, None for one it does not know.
    states: Mapping[str, str | None]
    #: Threads of the whole cluster.
    threads: int
    #: Whether the options of the call say which workers may run its tasks.
    constrained: bool = False
    #: When each attempt was sent, on the clock of `now`; or later, if not that much is
    #: known.
    sent_at: Mapping[str, float] = dataclasses.field(default_factory=dict)
    #: Attempts that workers have which have stopped reporting, or begin none.
    silent: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Recalled:
    """A worker has told how far it is with an attempt.

    And has given back what it had not begun, if the time of the batch was over.
    """

    key: str
    #: How many of its tasks the attempt keeps, the first ones.
    kept: int
    #: How long the worker has been at the last that it began, at least.
    seconds: float
    #: Its address.
    worker: str = ""
    #: Whether there are other workers that report.
    has_others: bool = False


@dataclasses.dataclass(frozen=True)
class Supplied:
    """A host has been given what it lacked for an attempt, or could not be."""

    key: str
    #: The worker on that host that knows of it.
    worker: str
    #: Whether the buffers are to be sent along with the tasks instead.
    along: bool = False


@dataclasses.dataclass(frozen=True)
class ClusterFailed:
    """Nothing can be sent any more."""

    error: ClusterError


@dataclasses.dataclass(frozen=True)
class Cancelled:
    """Nobody wants the rest of the call."""


Event = (
    Dispatched
    | AttemptFinished
    | AttemptKilled
    | AttemptLost
    | AttemptFailed
    | Looked
    | Recalled
    | Supplied
    | ClusterFailed
    | Cancelled
)


@dataclasses.dataclass(frozen=True)
class Send:
    """Submit an attempt under this fresh key."""

    key: str
    tasks: Sequence[Tasks]
    #: Whether it carries a suspect, beside which no other call's suspect may run.
    solo: bool = False
    #: Whether to send the buffers along that workers may not find on their hosts.
    with_buffers: bool = False
    #: Address of a worker whose host has them; empty if any worker is as good.
    worker: str = ""
    #: Seconds after which tasks not begun are to be given back; None if they are not.
    box: float | None = None
    #: Addresses of workers that should not run it, if others can.
    avoiding: frozenset[str] = frozenset()
    #: Whether the options' preference for workers is to be ignored, as none of them took
    #: it: the scheduler would wait for these to come back.
    anywhere: bool = False


@dataclasses.dataclass(frozen=True)
class GoOn:
    """There was more to send, but what happened meanwhile goes first.

    Heard by the thread of the ledger, not by itself, as is the next.
    """


@dataclasses.dataclass(frozen=True)
class Granted:
    """It is the turn of a suspect."""

    send: Send


@dataclasses.dataclass(frozen=True)
class Supply:
    """Bring buffers to a host that lacks them; a `Supplied` with this key follows."""

    #: Of the attempt that found that out.
    key: str
    tasks: Sequence[Tasks]
    #: What it lacks.
    missing: Outcome


@dataclasses.dataclass(frozen=True)
class Deliver:
    """Give joblib the values of a delivery, in the order of its tasks."""

    delivery: int
    tasks: Sequence[Tasks]
    outcomes: Sequence[Outcome]


@dataclasses.dataclass(frozen=True)
class DeliverError:
    """Give joblib an error instead: a task's own packed one, or one of ours."""

    delivery: int
    task: Tasks | None
    error: Outcome | JoblibDistributedError


@dataclasses.dataclass(frozen=True)
class Withhold:
    """Have an error raised after all results; its task's delivery is made without it."""

    error: JoblibDistributedError


@dataclasses.dataclass(frozen=True)
class Release:
    """Tell the engine to forget these attempts."""

    keys: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Recall:
    """Ask the workers that run these attempts how far they are; see `Recalled`.

    There may be no answer, and may be one to each.
    """

    keys: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Interrupt:
    """Stop whatever of the call is running on a worker."""

    #: Only these; empty for all of the call, for good.
    attempts: Sequence[str] = ()


Instruction = (
    Send | Supply | Deliver | DeliverError | Withhold | Release | Recall | Interrupt
)
