"""Which cases of a parametrisation every run tries."""

from collections.abc import Iterable
from typing import Any

import pytest


def few(cases: Iterable[Any], *always: Any) -> list[Any]:
    """All cases in their order; only ``make test-exhaustive`` runs those that are not ``always``.

    A tuple is a case of several arguments.

    Raises:
        AssertionError: None of ``always`` is a case.
    """
    found = list(cases)
    assert any(each in found for each in always), f"none of {always} is a case"
    return [case if case in always else _later(case) for case in found]


def _later(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.exhaustive)
