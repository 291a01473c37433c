"""What the analysis says of a model with pivots in its real size: copies have rows of their own."""

import pytest

from gacfx.core.decision import Decision, Pivot
from gacfx.core.sites import Execution, Workload
from gacfx.inspection import Inspection
from gacfx.modules.install import skeleton_
from gacfx.report import tables
from gacfx.tracing.export import export_model
from gacfx.tracing.skeleton import read_config, skeleton
from tests.golden.goldens import LAYERS, NARROW, check, inspected, render

WIDE = 120


def pivoted(execution: Execution = "eager") -> Inspection:
    """Llama-3-8B with pivots among the outputs of q and down, and among the inputs of up."""
    config = read_config("llama-3-8b")
    config.num_hidden_layers = LAYERS
    model = skeleton(config)
    parts = {"self_attn.q_proj": 1104, "mlp.up_proj": 2048, "mlp.down_proj": 2048}
    decisions: dict[str, Decision] = {
        f"model.layers.{layer}.{part}": Pivot(rank)
        for layer in range(LAYERS)
        for part, rank in parts.items()
    }
    skeleton_(model, decisions)
    run = Workload(batch=1, seq=1024, execution=execution)
    return inspected(export_model(model), "llama-3-8b, pivots", run)


def test_rows_of_copies() -> None:
    seen = pivoted()
    check("llama-3-8b_copies", render(tables.inspection_view(seen), WIDE))
    check("llama-3-8b_copies_80", render(tables.inspection_view(seen), NARROW))


@pytest.mark.parametrize("width", [60, 80, 100, 240])
def test_no_width_loses_what_a_copy_does(width: int) -> None:
    text = render(tables.inspection_view(pivoted()), width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    assert [words.count(each) for each in ("join, gather", " sum ", "- copy")] == [2, 1, 4]


def test_the_copies_in_the_graph_as_text() -> None:
    lines = pivoted("compiled").code().splitlines()
    first = next(i for i, line in enumerate(lines) if "self_attn.q_proj.product.weight" in line)
    check("llama-3-8b_copies_code", "\n".join(lines[first : first + 8]))
