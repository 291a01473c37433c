"""Budgets: parameters that a goal leaves, whatever it counts, and bytes of every dtype."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gacfx.allocation.budget import bytes_of, make_budget, wanted_ranks
from gacfx.core.goal import Goal
from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.graph.ops import DTYPES, dtype_text
from tests.unit import made_curves

TORCHS = sorted(
    {found for found in vars(torch).values() if isinstance(found, torch.dtype)}, key=str
)
"""Every dtype of this torch, once."""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_short_names_have_the_bytes_of_their_dtype(dtype: torch.dtype) -> None:
    assert bytes_of(DTYPES[dtype]) == torch.empty(0, dtype=dtype).element_size()


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, about dtypes that it will not keep
@pytest.mark.parametrize("dtype", TORCHS, ids=str)
def test_so_have_the_names_of_torch(dtype: torch.dtype) -> None:
    nbytes = torch.empty(0, dtype=dtype).element_size()
    assert bytes_of(str(dtype).removeprefix("torch.")) == nbytes
    assert bytes_of(dtype_text(dtype)) == nbytes


@pytest.mark.parametrize("name", ["bf17", "float", "", "16", "torch.bfloat16", "float0", "int24"])
def test_a_dtype_that_torch_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(PlanError, match=f"no dtype '{name}'; the curves come from another version"):
        bytes_of(name)


def test_what_is_not_targeted_counts_in_its_own_dtype() -> None:
    # Others: 100 in bf16 and 72 in fp32 are 488 bytes; each targeted parameter takes 2.
    budget = make_budget(made_curves.facts(), Goal(nbytes=488 + 2 * 100))
    assert (budget.limit_params, budget.unit, budget.amount) == (100, "bytes", "688 bytes")
    assert make_budget(made_curves.facts(), Goal(nbytes=488 + 2 * 100 + 1)).limit_params == 100
    assert make_budget(made_curves.facts(), Goal(nbytes=488 + 2 * 100 - 1)).limit_params == 99
    assert make_budget(made_curves.facts(), Goal(nbytes="1GiB")).limit_params == 128
    codes = made_curves.facts(others={"float8_e4m3fn": 100, "int64": 72})
    assert make_budget(codes, Goal(nbytes=100 + 8 * 72 + 20)).limit_params == 10


def test_bytes_below_what_is_not_targeted_are_refused() -> None:
    with pytest.raises(InfeasibleBudget, match="asks to remove 44 more than the 128 targeted"):
        make_budget(made_curves.facts(), Goal(nbytes=400))


def test_targets_of_several_dtypes_have_no_bytes_for_each() -> None:
    weights = made_curves.weight("layers.0.a"), made_curves.weight("layers.0.b", dtype="fp32")
    mixed = made_curves.facts(weights=weights)
    with pytest.raises(PlanError, match="several dtypes; give a goal in parameters"):
        make_budget(mixed, Goal(nbytes=600))
    assert make_budget(mixed, Goal(params=272)).limit_params == 100


@given(st.integers(0, 999), st.sampled_from(["targeted", "model"]))
def test_a_ratio_is_exact_in_the_decimal_that_was_asked(thousandths: int, of: str) -> None:
    goal = Goal(ratio=f"0.{thousandths:03d}", of=of)  # type: ignore[arg-type]
    whole = 128 if of == "targeted" else 300
    kept = int(whole * (1 - Fraction(thousandths, 1000)))
    if kept < whole - 128:
        with pytest.raises(InfeasibleBudget, match="a ratio of the model stays below 0.4267"):
            make_budget(made_curves.facts(), goal)
    else:
        assert make_budget(made_curves.facts(), goal).limit_params == kept - (whole - 128)


@given(st.integers(0, 99))
def test_wanted_ranks_keep_one_share_of_every_weight(percent: int) -> None:
    facts = made_curves.facts()
    budget = make_budget(facts, Goal(ratio=f"0.{percent:02d}"))
    assert wanted_ranks(facts, budget) == dict.fromkeys(
        made_curves.LOSSES, float(Fraction(budget.limit_params, 128) * 64 / 16)
    )
