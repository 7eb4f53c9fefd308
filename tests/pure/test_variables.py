"""Context variables of the caller."""

from __future__ import annotations

import contextvars
import decimal
import sys
import threading
from types import ModuleType
from typing import Any

import pytest

from joblib_distributed.data import variables
from joblib_distributed.data.variables import MOST, Variable, holding, pack_variables


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the user's, with variables."""
    module = ModuleType("jd_variables")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(variables, "_places", {})
    return module


def packed_of(name: str) -> list[Variable]:
    return [each for each in pack_variables() if each.module == name]


def in_fresh_context(function: Any) -> Any:
    return contextvars.Context().run(function)


def test_a_variable_of_a_module_holds(module: ModuleType) -> None:
    module.VAR = var = contextvars.ContextVar("anything")  # type: ignore[attr-defined]

    def packed() -> tuple[Variable, ...]:
        var.set({"a": 1})
        return pack_variables()

    found = in_fresh_context(packed)
    assert [each[:2] for each in found] == [("jd_variables", "VAR")]

    def held() -> Any:
        with holding(found):
            inside = var.get()
        return inside, var.get("nothing")

    assert in_fresh_context(held) == ({"a": 1}, "nothing")


def test_what_it_was_before_comes_back(module: ModuleType) -> None:
    module.VAR = var = contextvars.ContextVar("x")  # type: ignore[attr-defined]
    var.set(1)
    found = packed_of("jd_variables")
    var.set(2)
    with pytest.raises(ZeroDivisionError), holding(found):
        assert var.get() == 1
        raise ZeroDivisionError
    assert var.get() == 2


def test_one_that_is_kept_nowhere_stays_here(module: ModuleType) -> None:
    var: contextvars.ContextVar[int] = contextvars.ContextVar("local")
    var.set(1)
    assert packed_of("jd_variables") == []
    module.VAR = var  # type: ignore[attr-defined]
    sys.modules["jd_another"] = ModuleType("jd_another")  # one was imported since
    try:
        assert len(packed_of("jd_variables")) == 1
    finally:
        del sys.modules["jd_another"]


@pytest.mark.parametrize(
    "value", [threading.Lock(), b"x" * (MOST + 1)], ids=["lock", "large"]
)
def test_a_value_that_cannot_travel_stays_here(module: ModuleType, value: object) -> None:
    module.VAR = var = contextvars.ContextVar("x")  # type: ignore[attr-defined]
    var.set(value)
    assert packed_of("jd_variables") == []


def test_a_value_that_is_unknown_elsewhere_is_passed_over(module: ModuleType) -> None:
    module.VAR = var = contextvars.ContextVar("x", default=0)  # type: ignore[attr-defined]
    unknown = [
        Variable("jd_nowhere", "VAR", b""),
        Variable("jd_variables", "OTHER", b""),
        Variable("jd_variables", "VAR", b"no pickle"),
    ]
    with holding(unknown):
        assert var.get() == 0


def test_decimal_precision_is_not_the_callers_alone() -> None:
    """Kept by C code, nowhere to be found: as it is."""
    with decimal.localcontext(prec=3):
        assert [each for each in pack_variables() if "decimal" in each.module] == []
