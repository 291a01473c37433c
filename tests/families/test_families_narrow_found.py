"""What the coupling of a graph offers for pruning, the modules can carry out."""

from functools import cache

import pytest
import torch

from gacfx.core.pruning import Skip
from gacfx.core.structures import Structure
from gacfx.coupling.structures import coupled_structures
from gacfx.errors import UnsupportedModel
from gacfx.modules.install import swapped
from tests.families.narrow import decision_of, masked, sliced
from tests.families.test_families_coupling import captured
from tests.families.test_families_narrow import logits, made
from tests.families.zoo import CORNERS, FAMILIES
from tests.few import few


@cache
def structures(family: str) -> tuple[Structure, ...]:
    return coupled_structures(captured(family).graph)


@pytest.mark.parametrize("family", few(FAMILIES, *CORNERS))
def test_units_that_may_go_can_be_taken_out_of_the_modules(family: str) -> None:
    found = [each for each in structures(family) if not each.refused]
    assert found
    model = made(family)
    for structure in found:
        decision = decision_of(structure, tuple(range(structure.units))[::2])
        want = logits(masked(model, structure, decision), family)
        with swapped(model, *sliced(model, structure, decision)):
            torch.testing.assert_close(logits(model, family), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", few(FAMILIES, *CORNERS))
def test_blocks_that_may_go_can_be_skipped_and_others_say_why(family: str) -> None:
    model = made(family)
    for structure in structures(family):
        if structure.refused:
            continue
        factors, blocks = sliced(model, structure, Skip())
        want = logits(masked(model, structure, Skip()), family)
        if not structure.keeps_block:
            with swapped(model, factors, blocks):
                torch.testing.assert_close(logits(model, family), want, rtol=1e-9, atol=1e-9)
        elif "also holds" not in structure.keeps_block:  # those weights would go with the block
            with pytest.raises(UnsupportedModel), swapped(model, factors, blocks):
                raise AssertionError("not reached")
