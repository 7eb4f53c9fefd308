"""The backend's options."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import pickle
from typing import Any

import numpy as np
import pytest

from joblib_distributed.errors import (
    OptionNameError,
    OptionTypeError,
    OptionValueError,
)
from joblib_distributed.options import NAMES, Memory, Options, check_names

DEFAULTS = {
    "client": None,
    "scheduler_host": None,
    "n_workers": None,
    "threads_per_worker": None,
    "embedded_tls": None,
    "scatter": (),
    "retries": 0,
    "deaths_allowed": 3,
    "priority": 0,
    "resources": None,
    "workers": None,
    "allow_other_workers": False,
    "wait_for_workers_timeout": 10,
    "frozen_after": 10,
    "race_stragglers": False,
    "scheduler_timeout": 300,
    "cap_n_jobs": True,
    "initializer": None,
    "initargs": (),
    "modules": True,
    "output": True,
    "progress": False,
}


def fields(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in NAMES}


def changed(options: Options) -> dict[str, Any]:
    """What is not as by default."""
    return {k: v for k, v in fields(options).items() if v != DEFAULTS[k]}


def test_defaults() -> None:
    assert fields(Options()) == DEFAULTS
    assert list(DEFAULTS) == list(NAMES)


def test_options_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().retries = 3  # type: ignore[misc]


# ------------------------------------------------------------------------------- values
@pytest.mark.parametrize(
    ("name", "value"),
    [
        # Named, as each process that collects the tests has another object.
        pytest.param("client", object(), id="client-object"),
        ("scheduler_host", "host:8786"),
        ("scheduler_host", "tls://host:8786"),
        ("scheduler_host", pathlib.Path("scheduler.json")),
        ("n_workers", 1),
        ("threads_per_worker", 16),
        ("embedded_tls", None),
        ("embedded_tls", True),
        ("embedded_tls", False),
        ("retries", 100),
        ("priority", -3),
        ("priority", 2.5),
        ("priority", math.inf),
        ("resources", {"GPU": 1, "memory": 2.5e9}),
        ("resources", {}),
        ("workers", "tcp://127.0.0.1:1"),
        ("workers", ["alice", "bob"]),
        ("workers", ("alice",)),
        ("workers", {"alice"}),
        ("wait_for_workers_timeout", 0),
        ("wait_for_workers_timeout", 0.5),
        ("wait_for_workers_timeout", math.inf),
        ("frozen_after", 0),
        ("frozen_after", 2.5),
        ("frozen_after", math.inf),
        ("race_stragglers", True),
        ("deaths_allowed", 0),
        ("deaths_allowed", 100),
        ("scheduler_timeout", 0),
        ("scheduler_timeout", 2.5),
        ("scheduler_timeout", math.inf),
        ("cap_n_jobs", False),
        ("initializer", print),
        ("initargs", (1, "a")),
        ("progress", True),
        ("progress", "auto"),
    ],
    ids=str,
)
def test_value_is_taken_as_it_is(name: str, value: object) -> None:
    assert changed(Options.from_keywords({name: value})) == (
        {name: value} if value != DEFAULTS[name] else {}
    )


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        (
            {"scheduler_host": 8786},
            OptionTypeError,
            "scheduler_host must be 'HOST:PORT', an address or the path of a scheduler "
            "file, got 8786 (int).",
        ),
        (
            {"scheduler_host": ""},
            OptionValueError,
            "scheduler_host is an empty string. Leave it out to use the current client "
            "or an embedded cluster, or give 'HOST:PORT'.",
        ),
        (
            {"n_workers": 2.0},
            OptionTypeError,
            "n_workers must be a whole number, got 2.0 (float).",
        ),
        (
            {"n_workers": True},
            OptionTypeError,
            "n_workers must be a whole number, got True (bool).",
        ),
        (
            {"n_workers": 0},
            OptionValueError,
            "n_workers must be at least 1, got 0.",
        ),
        (
            {"threads_per_worker": "4"},
            OptionTypeError,
            "threads_per_worker must be a whole number, got '4' (str).",
        ),
        (
            {"threads_per_worker": -1},
            OptionValueError,
            "threads_per_worker must be at least 1, got -1.",
        ),
        (
            {"embedded_tls": 1},
            OptionTypeError,
            "embedded_tls must be True or False, got 1 (int).",
        ),
        (
            {"embedded_tls": "no"},
            OptionTypeError,
            "embedded_tls must be True or False, got 'no' (str).",
        ),
        (
            {"retries": None},
            OptionTypeError,
            "retries must be a whole number, got None (NoneType).",
        ),
        (
            {"retries": 1.5},
            OptionTypeError,
            "retries must be a whole number, got 1.5 (float).",
        ),
        (
            {"retries": -1},
            OptionValueError,
            "retries must be at least 0, got -1.",
        ),
        (
            {"priority": "high"},
            OptionTypeError,
            "priority must be a number, got 'high' (str).",
        ),
        (
            {"priority": False},
            OptionTypeError,
            "priority must be a number, got False (bool).",
        ),
        (
            {"priority": math.nan},
            OptionValueError,
            "priority must be at least -inf, got nan.",
        ),
        (
            {"resources": ["GPU"]},
            OptionTypeError,
            "resources must be a dict such as {'GPU': 1}, got ['GPU'] (list).",
        ),
        (
            {"resources": {"GPU": "one"}},
            OptionTypeError,
            "resources['GPU'] must be a number, got 'one' (str).",
        ),
        (
            {"resources": {"GPU": -1}},
            OptionValueError,
            "resources['GPU'] must be at least 0, got -1.",
        ),
        (
            {"workers": []},
            OptionTypeError,
            "workers must be the address or name of a worker, or a non-empty list of "
            "them, got [].",
        ),
        (
            {"workers": ["alice", 3]},
            OptionTypeError,
            "workers must be the address or name of a worker, or a non-empty list of "
            "them, got ['alice', 3].",
        ),
        (
            {"workers": 3},
            OptionTypeError,
            "workers must be the address or name of a worker, or a non-empty list of "
            "them, got 3.",
        ),
        (
            {"workers": {"alice": 1}},
            OptionTypeError,
            "workers must be the address or name of a worker, or a non-empty list of "
            "them, got {'alice': 1}.",
        ),
        (
            {"workers": "alice", "allow_other_workers": 1},
            OptionTypeError,
            "allow_other_workers must be True or False, got 1 (int).",
        ),
        (
            {"allow_other_workers": True},
            OptionValueError,
            "allow_other_workers=True says that workers= is only a preference, but "
            "workers= was not given. Name the preferred workers, or leave both out.",
        ),
        (
            {"wait_for_workers_timeout": None},
            OptionTypeError,
            "wait_for_workers_timeout must be a number, got None (NoneType).",
        ),
        (
            {"wait_for_workers_timeout": -1},
            OptionValueError,
            "wait_for_workers_timeout must be at least 0, got -1.",
        ),
        (
            {"frozen_after": -0.5},
            OptionValueError,
            "frozen_after must be at least 0, got -0.5.",
        ),
        (
            {"frozen_after": math.nan},
            OptionValueError,
            "frozen_after must be at least 0, got nan.",
        ),
        (
            {"frozen_after": True},
            OptionTypeError,
            "frozen_after must be a number, got True (bool).",
        ),
        (
            {"frozen_after": "never"},
            OptionTypeError,
            "frozen_after must be a number, got 'never' (str).",
        ),
        (
            {"frozen_after": None},
            OptionTypeError,
            "frozen_after must be a number, got None (NoneType).",
        ),
        (
            {"frozen_after": -math.inf},
            OptionValueError,
            "frozen_after must be at least 0, got -inf.",
        ),
        (
            {"race_stragglers": 1},
            OptionTypeError,
            "race_stragglers must be True or False, got 1 (int).",
        ),
        (
            {"deaths_allowed": -1},
            OptionValueError,
            "deaths_allowed must be at least 0, got -1.",
        ),
        (
            {"deaths_allowed": 1.0},
            OptionTypeError,
            "deaths_allowed must be a whole number, got 1.0 (float).",
        ),
        (
            {"deaths_allowed": math.inf},
            OptionTypeError,
            "deaths_allowed must be a whole number, got inf (float).",
        ),
        (
            {"deaths_allowed": True},
            OptionTypeError,
            "deaths_allowed must be a whole number, got True (bool).",
        ),
        (
            {"deaths_allowed": None},
            OptionTypeError,
            "deaths_allowed must be a whole number, got None (NoneType).",
        ),
        (
            {"scheduler_timeout": -1},
            OptionValueError,
            "scheduler_timeout must be at least 0, got -1.",
        ),
        (
            {"scheduler_timeout": math.nan},
            OptionValueError,
            "scheduler_timeout must be at least 0, got nan.",
        ),
        (
            {"scheduler_timeout": "5 minutes"},
            OptionTypeError,
            "scheduler_timeout must be a number, got '5 minutes' (str).",
        ),
        (
            {"scheduler_timeout": False},
            OptionTypeError,
            "scheduler_timeout must be a number, got False (bool).",
        ),
        (
            {"scheduler_timeout": None},
            OptionTypeError,
            "scheduler_timeout must be a number, got None (NoneType).",
        ),
        (
            {"cap_n_jobs": "yes"},
            OptionTypeError,
            "cap_n_jobs must be True or False, got 'yes' (str).",
        ),
        (
            {"progress": "yes"},
            OptionTypeError,
            "progress must be True, False or \"auto\", got 'yes' (str).",
        ),
        (
            {"scatter": "abc"},
            OptionTypeError,
            "scatter must be a list/tuple, got `str`: write scatter=[X] for a single "
            "object X.",
        ),
        (
            {"scatter": {1: 2}},
            OptionTypeError,
            "scatter must be a list/tuple, got `dict`: write scatter=[X] for a single "
            "object X.",
        ),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)
def test_value_that_cannot_be_meant(
    keywords: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        Options.from_keywords(keywords)
    assert type(caught.value) is error
    assert str(caught.value) == message
    with pytest.raises(error):
        Options().replace(keywords)


def test_workers_may_be_a_preference() -> None:
    options = Options(workers=["alice"], allow_other_workers=True)
    assert changed(options) == {"workers": ["alice"], "allow_other_workers": True}


@pytest.mark.parametrize(
    "workers",
    ["alice", ["alice"], ("alice",), {"alice"}, frozenset({"alice"})],
    ids=lambda workers: type(workers).__name__,
)
def test_workers_are_listed_for_dask(workers: Any) -> None:
    """It takes no set."""
    listed = Options(workers=workers).constraints()["workers"]
    assert (listed, type(listed)) == (["alice"], list)


def test_constraints() -> None:
    assert Options().constraints() == {
        "resources": None,
        "workers": None,
        "allow_other_workers": False,
    }
    options = Options(resources={"GPU": 1}, workers=("a", "b"), allow_other_workers=True)
    assert options.constraints() == {
        "resources": {"GPU": 1},
        "workers": ["a", "b"],
        "allow_other_workers": True,
    }


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({}, False),
        ({"resources": {}}, False),
        ({"resources": {"GPU": 1}}, True),
        ({"workers": "alice"}, True),
        ({"workers": {"alice"}}, True),
        ({"workers": ["alice"], "allow_other_workers": True}, False),
        (
            {
                "workers": ["alice"],
                "allow_other_workers": True,
                "resources": {"GPU": 1},
            },
            True,
        ),
        ({"n_workers": 2, "retries": 3, "priority": 1}, False),
    ],
)
def test_is_constrained(keywords: dict[str, Any], expected: bool) -> None:
    assert Options(**keywords).is_constrained is expected


@pytest.mark.parametrize(
    ("given", "kept"), [([1, 2], (1, 2)), ((1,), (1,)), ([], ()), (None, ())]
)
def test_scatter_becomes_a_tuple(given: Any, kept: tuple[object, ...]) -> None:
    assert Options(scatter=given).scatter == kept


def test_scattered_objects_are_kept_themselves() -> None:
    data = [1, 2]
    assert Options(scatter=[data]).scatter[0] is data


def test_numbers_of_numpy_become_plain_ones() -> None:
    options = Options(
        n_workers=np.int64(2),
        threads_per_worker=np.int8(3),
        retries=np.uint16(1),
        deaths_allowed=np.int32(4),
        priority=np.float32(0.5),
    )
    plain = (
        options.n_workers,
        options.threads_per_worker,
        options.retries,
        options.deaths_allowed,
    )
    assert plain == (2, 3, 1, 4)
    assert {type(number) for number in plain} == {int}
    assert (options.priority, type(options.priority)) == (0.5, float)


# -------------------------------------------------------------------------------- names
@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("retry", "retries"),
        ("deaths", "deaths_allowed"),
        ("frozen", "frozen_after"),
        ("stragglers", "race_stragglers"),
        ("scheduler_time", "scheduler_timeout"),
        ("n_worker", "n_workers"),
        ("nworkers", "n_workers"),
        ("worker", "workers"),
        ("threads", "threads_per_worker"),
        ("tls", "embedded_tls"),
        ("scheduler", "scheduler_host"),
        ("host", "scheduler_host"),
        ("wait_timeout", "wait_for_workers_timeout"),
        ("timeout", "wait_for_workers_timeout"),
        ("resource", "resources"),
        ("Priority", "priority"),
        ("cap_njobs", "cap_n_jobs"),
        ("allow_other_worker", "allow_other_workers"),
        ("scater", "scatter"),
        ("Client", "client"),
        ("tmp_folder", "temp_folder"),
        ("initialiser", "initializer"),
        ("max_bytes", "max_nbytes"),
    ],
)
def test_unknown_name_is_told_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(OptionNameError) as caught:
        Options.from_keywords({wrong: 3})
    assert str(caught.value) == (
        f"Unknown option {wrong}=3 of the dask.distributed backend. Did you mean "
        f"'{nearest}'? The options are: {', '.join(NAMES)}."
    )


@pytest.mark.parametrize("name", ["zzz", "", "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"])
def test_a_name_like_none_of_ours_is_still_refused(name: str) -> None:
    with pytest.raises(OptionNameError):
        check_names({name: 1})


def test_known_names_pass() -> None:
    check_names(DEFAULTS)


def test_unknown_name_is_found_before_a_wrong_value() -> None:
    with pytest.raises(OptionNameError):
        Options.from_keywords({"retries": "x", "retry": 1})


def test_replace_refuses_unknown_names() -> None:
    with pytest.raises(OptionNameError):
        Options().replace({"retry": 1})


# ------------------------------------------------------------------------------ replace
def test_replace_changes_only_what_is_given() -> None:
    options = Options(retries=2, priority=3)
    assert changed(options.replace({"retries": 5})) == {"retries": 5, "priority": 3}
    assert changed(options) == {"retries": 2, "priority": 3}


def test_replace_with_nothing_is_the_same() -> None:
    options = Options(retries=2)
    assert options.replace({}) is options


# ------------------------------------------------------------------- portable and nested
EVERYTHING: dict[str, Any] = {
    "client": object(),
    "scheduler_host": "host:1",
    "n_workers": 3,
    "threads_per_worker": 2,
    "embedded_tls": False,
    "scatter": (1, 2),
    "retries": 4,
    "deaths_allowed": 1,
    "priority": 5,
    "resources": {"GPU": 1},
    "workers": ["alice"],
    "allow_other_workers": True,
    "wait_for_workers_timeout": 7,
    "frozen_after": 3,
    "race_stragglers": True,
    "scheduler_timeout": 60,
    "cap_n_jobs": False,
    "initializer": print,
    "initargs": (1,),
    "modules": ("colorsys",),
    "output": "prefix",
    "progress": True,
}


def test_portable_leaves_out_what_stays_in_this_process() -> None:
    portable = Options(**EVERYTHING).portable()
    assert fields(portable) == {**EVERYTHING, "client": None, "scatter": ()}
    assert fields(pickle.loads(pickle.dumps(portable))) == fields(portable)


def test_nested_options_name_no_cluster_and_run_first() -> None:
    nested = Options(**EVERYTHING).nested()
    assert fields(nested) == {
        **EVERYTHING,
        "client": None,
        "scatter": (),
        "scheduler_host": None,
        "priority": 6,
        "progress": False,
    }
    assert nested.nested().priority == 7


def test_nested_default_differs_only_in_priority() -> None:
    assert changed(Options().nested()) == {"priority": 1}


# --------------------------------------------------------------------------- preferring
def test_a_worker_is_preferred_and_others_are_allowed() -> None:
    options = Options(retries=2)
    preferring = options.preferring("tcp://there:1")
    assert changed(preferring) == {
        "retries": 2,
        "workers": "tcp://there:1",
        "allow_other_workers": True,
    }
    assert not preferring.is_constrained
    assert changed(options) == {"retries": 2}


@pytest.mark.parametrize(
    ("keywords", "worker"),
    [
        ({}, ""),
        ({"workers": "alice"}, "tcp://there:1"),
        ({"workers": ["alice"], "allow_other_workers": True}, "tcp://there:1"),
        ({"resources": {"GPU": 1}}, "tcp://there:1"),
    ],
)
def test_what_the_user_said_of_workers_goes_before_a_preference(
    keywords: dict[str, Any], worker: str
) -> None:
    options = Options(**keywords)
    assert options.preferring(worker) is options


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"workers": "alice", "allow_other_workers": True}, {}),
        ({"workers": "alice"}, {"workers": "alice"}),
        ({"resources": {"GPU": 1}}, {"resources": {"GPU": 1}}),
    ],
)
def test_what_may_run_anywhere_prefers_nobody_but_runs_where_it_must(
    keywords: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert changed(Options(**keywords).preferring("", anywhere=True)) == expected


def test_a_folder_of_joblibs_is_made_whole_where_it_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for folder in ("here", pathlib.Path("here"), tmp_path / "here"):
        assert Memory.of({"temp_folder": folder}).temp_folder == str(tmp_path / "here")
    there = str(tmp_path / "home" / "there")
    assert Memory.of({"temp_folder": "~/there"}).temp_folder == there
    assert Memory.of({"temp_folder": None}).temp_folder is None
    assert Memory.of({}).temp_folder is None


# ----------------------------------------------------------------------------- avoiding
ALIVE = ["tcp://one:1", "tcp://two:1"]


def test_those_that_report_are_preferred_and_others_are_allowed() -> None:
    options = Options(retries=2)
    avoiding = options.avoiding(ALIVE)
    assert changed(avoiding) == {
        "retries": 2,
        "workers": ALIVE,
        "allow_other_workers": True,
    }
    assert not avoiding.is_constrained
    assert changed(options) == {"retries": 2}


@pytest.mark.parametrize(
    ("keywords", "others"),
    [
        ({}, []),
        ({"workers": "alice"}, ALIVE),
        ({"workers": ["tcp://one:1", "alice"]}, ALIVE),
        ({"resources": {"GPU": 1}}, ALIVE),
        (
            {"resources": {"GPU": 1}, "workers": ["alice"], "allow_other_workers": True},
            ALIVE,
        ),
    ],
)
def test_what_the_user_said_of_who_may_goes_before_avoiding(
    keywords: dict[str, Any], others: list[str]
) -> None:
    options = Options(**keywords)
    assert options.avoiding(others) is options


@pytest.mark.parametrize(
    ("preferred", "left"),
    [
        ("tcp://two:1", ["tcp://two:1"]),
        (["tcp://frozen:1", "tcp://two:1"], ["tcp://two:1"]),
        (("tcp://two:1", "tcp://one:1"), ALIVE),
        ("tcp://frozen:1", ALIVE),
        ({"alice"}, ALIVE),
    ],
    ids=str,
)
def test_a_preference_is_kept_for_those_that_report(
    preferred: Any, left: list[str]
) -> None:
    options = Options(workers=preferred, allow_other_workers=True)
    assert changed(options.avoiding(ALIVE)) == {
        "workers": left,
        "allow_other_workers": True,
    }


def test_a_host_that_has_the_buffers_is_preferred_among_those_that_report() -> None:
    assert Options().preferring("tcp://two:1").avoiding(ALIVE).workers == ["tcp://two:1"]
    assert Options().preferring("tcp://frozen:1").avoiding(ALIVE).workers == ALIVE


# ---------------------------------------------------------------- modules and output
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (True, True),
        (False, False),
        ([], ()),
        (["a.b", dataclasses], ("a.b", "dataclasses")),
        (("a",), ("a",)),
    ],
)
def test_modules_are_kept_by_name(given: Any, kept: object) -> None:
    assert Options(modules=given).modules == kept


@pytest.mark.parametrize("given", [None, "a", 3, [3], dataclasses])
def test_modules_are_named_in_a_list(given: Any) -> None:
    with pytest.raises(OptionTypeError) as caught:
        Options(modules=given)
    assert "modules must be True, False, or a list" in str(caught.value)
    assert repr(given) in str(caught.value)


@pytest.mark.parametrize("given", [None, "yes", 1, "PREFIX"])
def test_output_is_shown_or_not(given: Any) -> None:
    with pytest.raises(OptionTypeError) as caught:
        Options(output=given)
    assert 'output must be True, False or "prefix"' in str(caught.value)
    assert repr(given) in str(caught.value)
