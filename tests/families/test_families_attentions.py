"""Attentions that few families write so: their heads go, and slicing them is masking them."""

from typing import Any

import pytest
import torch

from benchmarks.families.models import families, ids, make
from gacfx.captured import captured
from gacfx.core.pruning import Heads, Sliced
from gacfx.core.structures import Structure
from gacfx.modules.install import swapped
from tests.families.narrow import decision_of, masked, sliced
from tests.families.test_families_prune import head_off, units_off

SPELLED = {
    "falcon": "keys and values are two heads of one weight, taken by numbers from its end",
    "gpt_bigcode": "sizes of all heads together, under names of their own",
    "gpt_neox_japanese": "a bias of the outputs that the attention holds and others add",
    "gptj": "how much of a head is turned",
    "longcat_flash": "two attentions in a layer, beside experts that are one node",
    "moshi": "linears inside of modules of their own",
    "openai-gpt": "no length of a head",
    "xlm": "a list of attentions, and mask.dim() beside its own dim",
}
"""Type of models -> what is odd."""


def heads_of(model: Any) -> list[Structure]:
    """The attentions of a model, and why they stay whole once their code was asked."""
    found = captured(model, structures=True, seq=17).structures
    return [each for each in found if each.kind == "heads"]


def fewer_heads(structure: Structure) -> Heads:
    """One head goes."""
    made = units_off(structure) if structure.units > 1 else head_off(structure)
    assert isinstance(made, Heads)
    return made


@pytest.mark.parametrize("name", SPELLED)
def test_heads_that_go_are_heads_that_are_zero(name: str) -> None:
    model: Any = make(families()[name]).double()
    structure = heads_of(model)[0]
    assert structure.refused == ""
    decision, tokens = fewer_heads(structure), ids(2, 11)
    factors, blocks = sliced(model, structure, decision)
    with torch.no_grad():
        zeros, dense = masked(model, structure, decision)(tokens).logits, model(tokens).logits
        with swapped(model, factors, blocks):
            got = model(tokens).logits
    torch.testing.assert_close(got, zeros, rtol=1e-9, atol=1e-9)
    assert float((got - dense).abs().max()) > 1e-6


def test_heads_in_parts_whose_number_is_written_in_the_code_stay() -> None:
    (first, *_) = heads_of(make(families()["codegen"]))
    assert "splits the heads into mp_num parts" in first.refused


def test_a_weight_between_two_structures_is_cut_with_the_first() -> None:
    found = captured(make(families()["zaya"]), structures=True, seq=17).structures
    seen = [module for each in found if not each.refused for module in each.modules]
    assert len(seen) == len(set(seen))
    assert any(each.refused.startswith("its fc2 is cut with") for each in found)


def test_one_key_value_head_meets_any_number_of_query_heads() -> None:
    structure = heads_of(make(families()["falcon"]))[0]
    assert (structure.units, structure.heads) == (1, 6)
    opening = decision_of(structure, (0,), ((0, 2, 5),)).parts[0]
    assert isinstance(opening, Sliced) and opening.outputs == (3 + 2) * 8
