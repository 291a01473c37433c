"""What slicing left of a model, as text for 80 columns."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gacfx.report.layout import sentence
from gacfx.slicing.door import Sliced


def slicing_view(sliced: Sliced) -> RenderableType:
    """Sizes and losses before and after, and why no larger hidden size fits."""
    return Group(*_parts(sliced))


def _parts(sliced: Sliced) -> Iterator[RenderableType]:
    size = sliced.size
    yield Text("sliced", style="bold")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "before", "after"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("hidden size", f"{sliced.hidden_before:,}", f"{size.hidden:,}")
    table.add_row("parameters", f"{size.dense_params:,}", f"{size.params:,}")
    table.add_row("nats/token, held back", f"{sliced.dense_nats:.4f}", f"{sliced.nats:.4f}")
    yield table
    yield Text()
    yield sentence(
        f"{sliced.removed:.1%} of all parameters removed, embeddings included; {_why(sliced)}"
    )
    if size.untied_params:
        yield sentence(
            "the head was the embedding and is a matrix of its own now (tie_word_embeddings "
            f"false): {size.untied_params:,} of the parameters"
        )
    yield sentence(
        f"{sliced.kept_energy:.2%} of the stream's mean square is kept at its norms; rotation "
        f"{sliced.rotation}, readers {sliced.readers}; logits differ by {sliced.difference:.0e} "
        "from those of the large model that loses the same directions"
    )


def _why(sliced: Sliced) -> str:
    size = sliced.size
    if size.next_hidden is None or size.next_params is None:
        return "no larger multiple is below the dense hidden size"
    return (
        f"{size.next_hidden:,}, the next size in steps of {size.align}, has "
        f"{size.next_params:,} of {size.limit:,} that are allowed"
    )
