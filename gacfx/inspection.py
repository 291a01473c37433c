"""Inspection: what the annotated graph says, as rows that can be printed, folded and saved.

print(inspect("llama-3-8b", gpu="h200").code())
"""

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.fx import GraphModule

from gacfx import pipelines
from gacfx.core.dims import Dims
from gacfx.core.quantized import held_text
from gacfx.core.sites import Execution, Mode, Workload
from gacfx.core.stored_as import StoredAs
from gacfx.core.structures import Structure
from gacfx.core.surroundings import plain_torch
from gacfx.core.tiers import COPY
from gacfx.graph.left_out import Remark, Uncovered, remarks, uncovered
from gacfx.graph.notes import sites, state
from gacfx.graph.pipeline import Pipeline
from gacfx.graph.printer import annotated_code
from gacfx.graph.rows import Row, fold, read_rows
from gacfx.hardware.profile import USUAL, Profile, load_profile
from gacfx.tracing.capture import capture


@dataclass(frozen=True, eq=False)
class Inspection:
    """The annotated graph of a model for one workload on one profile."""

    model: str
    profile: Profile
    workload: Workload
    rows: tuple[Row, ...]
    params: int
    graph: GraphModule
    stored: str = ""
    """How another program holds or stores the weights, which nothing else here takes into account;
    empty where they are plain."""

    @property
    def latency_us(self) -> float:
        """Forecast for all sites of one step, microseconds; ``profile.forecast`` says of what."""
        return sum(r.latency_us for r in self.rows)

    @property
    def flops(self) -> int:
        """Floating point operations of all sites in one step."""
        return sum(r.flops for r in self.rows)

    @property
    def dims(self) -> Dims:
        """Free sizes and what couples them."""
        dims = state(self.graph).dims
        assert dims is not None
        return dims

    @property
    def structures(self) -> tuple[Structure, ...]:
        """What can be pruned, and what hangs together."""
        structures = state(self.graph).structures
        assert structures is not None
        return structures

    @property
    def stored_as(self) -> StoredAs | None:
        """How its checkpoint has the weights, where another program quantized them."""
        return state(self.graph).stored_as

    @property
    def not_modelled(self) -> tuple[Remark, ...]:
        """Products that are in no row, with the reasons."""
        return remarks(self.graph)

    @property
    def uncovered(self) -> tuple[Uncovered, ...]:
        """Parameters that are in no row: embeddings, norms, and what no known product reads."""
        return uncovered(self.graph)

    def tiers(self) -> dict[int, tuple[int, float]]:
        """Tier -> (number of sites, share of the FLOPs 0..1), best tier first; no copies."""
        count, work = Counter[int](), Counter[int]()
        for row in (row for row in self.rows if row.kernel != COPY):
            count[row.tier] += row.count
            work[row.tier] += row.flops
        return {t: (count[t], work[t] / max(self.flops, 1)) for t in sorted(count)}

    def folded(self) -> tuple[Row, ...]:
        """Rows with equal layers folded into one."""
        return fold(self.rows)

    def code(self) -> str:
        """The graph as readable text with its notes."""
        return annotated_code(self.graph)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "model": self.model,
            "gpu": self.profile.name,
            "forecast": self.profile.forecast,
            "workload": asdict(self.workload),
            "params": self.params,
            "stored": self.stored,
            "stored_as": None if self.stored_as is None else str(self.stored_as),
            "latency_us": self.latency_us,
            "flops": self.flops,
            "tiers": {
                str(t): {"sites": n, "flops_share": share} for t, (n, share) in self.tiers().items()
            },
            "rows": [asdict(r) for r in self.rows],
            "not_modelled": [asdict(remark) for remark in self.not_modelled],
            "params_in_no_site": {each.name: each.params for each in self.uncovered},
        }


@plain_torch()
def inspect(
    model: "nn.Module | str | Path",
    *,
    gpu: str | Profile = "h200",
    batch: int = 1,
    seq: int = 1024,
    mode: Mode = "prefill",
    execution: Execution = "eager",
    dims: bool = False,
    dtype: str | None = None,
) -> Inspection:
    """The annotated graph: sizes, predicted kernel tiers and forecast latency of every site.

    Works from the configuration alone, without weights and without a GPU.

    Args:
        model: as in :func:`capture`.
        gpu: name of a profile, path of a profile file, or a profile.
        batch: sequences.
        seq: tokens of each sequence in prefill, length of its KV cache in decode.
        mode: ``prefill`` or ``decode``.
        execution: ``eager`` or ``compiled``: attention is called differently.
        dims: also find the coupled dimensions and structures.
        dtype: fp32, bf16 or fp16, instead of the configuration's own.

    Raises:
        ProfileError: no such profile, or its GPU cannot multiply the model's dtype.
        GacError: as :func:`capture`.
    """
    profile = load_profile(gpu)
    workload = Workload(batch, seq, mode, execution)
    gm = capture(model, seq=seq, dtype=dtype)
    if dims:
        Pipeline.parse("couple-dims").run(gm)
    if not isinstance(model, nn.Module):
        return annotate_graph(gm, profile, workload, str(model))
    seen = annotate_graph(gm, profile, workload, type(model).__name__)
    return replace(seen, stored=held_text(model))


def annotate_graph(gm: GraphModule, profile: Profile, workload: Workload, label: str) -> Inspection:
    """Run the analysis passes on a graph and read the result.

    Raises:
        ProfileError: the GPU cannot multiply the half precision that the model is in.
    """
    Pipeline.parse(pipelines.ANALYSE).bind(profile=profile, workload=workload).run(gm)
    # A model in it would be wrong everywhere; a site in any other dtype is a row in tier 4.
    for dtype in sorted({site.dtype for _, site in sites(gm)}.intersection(USUAL)):
        profile.check_dtype(dtype)
    params = sum(p.numel() for p in gm.parameters())
    return Inspection(label, profile, workload, read_rows(gm, workload), params, gm)
