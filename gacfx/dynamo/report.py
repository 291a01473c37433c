"""What compiled graphs really call, as a JSON file: one entry for each compilation.

{"inner": "inductor",
 "graphs": [{"workload": {"batch": 1, "seq": 512, ...}, "dynamic": false, "tiers": {...},
             "rows": [...], "decisions": {"model.layers.0.mlp.up_proj": "rank 24"}}]}
"""

import json
from pathlib import Path
from typing import Any

from torch import SymInt
from torch.fx import GraphModule, Node

from gacfx.core.files.atomic import replacing
from gacfx.core.files.targets import writing
from gacfx.core.plan import Plan
from gacfx.core.sites import Workload
from gacfx.dynamo.options import Options
from gacfx.graph import ops
from gacfx.graph.frame import input_frame
from gacfx.graph.notes import annotate
from gacfx.graph.ops import Op
from gacfx.graph.symbols import hint
from gacfx.hardware.profile import Profile, load_profile
from gacfx.inspection import Inspection, annotate_graph
from gacfx.passes.analysis.annotate_sites import attention_site


class Report:
    """The graphs that a backend has compiled, in order."""

    def __init__(self, options: Options) -> None:
        """
        Args:
            options: of the backend.

        Raises:
            ProfileError: there is no such profile.
        """
        inner = options.inner
        self._inner = inner if isinstance(inner, str) else getattr(inner, "__name__", str(inner))
        self._path = None if options.report is None else Path(options.report).expanduser()
        self._profile = load_profile(options.gpu)
        self._graphs: list[dict[str, Any]] = []

    @property
    def wanted(self) -> bool:
        """Somebody asked for a file."""
        return self._path is not None

    def add(self, gm: GraphModule, plan: Plan | None, what: str = "graph") -> None:
        """Annotates a graph and writes the file anew.

        Args:
            gm: of aten operators; its weights have names.
            plan: that was carried out in it.
            what: it is, for the reader.

        Raises:
            CheckpointError: the file cannot be written.
        """
        assert self._path is not None
        name = f"{what} {len(self._graphs) + 1}"
        known = {} if plan is None else plan.decisions
        self._graphs.append(
            {
                **compiled_inspection(gm, self._profile, name).to_dict(),
                "dynamic": any(map(_is_open, gm.graph.nodes)),
                "decisions": {module: str(decision) for module, decision in known.items()},
            }
        )
        text = json.dumps({"inner": self._inner, "graphs": self._graphs}, indent=1)
        with writing(self._path), replacing(self._path) as partial:
            partial.write_text(text + "\n", encoding="utf-8")


def compiled_inspection(gm: GraphModule, profile: Profile, name: str) -> Inspection:
    """What a graph calls under the sizes that it was compiled with.

    Args:
        gm: of aten operators, with fake values; it gets notes.
        profile: whose tiers and times.
        name: of the graph, for the reader.
    """
    workload = _workload(gm)
    if not any(ops.op_of(node) for node in gm.graph.nodes):
        return Inspection(name, profile, workload, (), 0, gm)
    for node in gm.graph.nodes:
        if ops.op_of(node) is Op.ATTENTION:
            site = attention_site(node, Op.ATTENTION, input_frame(gm))
            annotate(node, eager=site.compiled)  # there is no other call in it
    return annotate_graph(gm, profile, workload, name)


def _workload(gm: GraphModule) -> Workload:
    """Sizes of the first input: ids [B, S], states [B, S, D], or another [B, ...].

    One token that attends to more of them is a step of decoding.
    """
    inputs = (_sizes(node) for node in gm.graph.nodes if node.op == "placeholder")
    batch, *rest = next(filter(None, inputs), [1])
    seq = rest[0] if len(rest) in (1, 2) else 1
    keys = max(
        (_keys(node) for node in gm.graph.nodes if ops.op_of(node) is Op.ATTENTION), default=1
    )
    if seq == 1 < keys:
        return Workload(batch, keys, "decode", "compiled")
    return Workload(batch, seq, execution="compiled")


def _keys(attention: Node) -> int:
    """Keys that each query meets."""
    key = ops.attention_arguments(attention)["key"]
    assert isinstance(key, Node)
    return _sizes(key)[-2]


def _sizes(node: Node) -> list[int]:
    """Sizes of a tensor as it was compiled; none of anything else."""
    found = ops.value(node)
    return [] if found is None else [hint(size) for size in found.shape]


def _is_open(node: Node) -> bool:
    """An input of any size."""
    found = ops.value(node) if node.op == "placeholder" else None
    return found is not None and any(isinstance(size, SymInt) for size in found.shape)
