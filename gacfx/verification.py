"""Dense and planned side by side: forecast, losses, and the proof on the rewritten graph."""

from typing import Protocol

import torch
from torch import nn
from torch.fx import GraphModule

from gacfx import pipelines
from gacfx.applying import apply_to_graph
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.text import Corpus, embedding_rows
from gacfx.checkpoint.load import unused_weights
from gacfx.core.planned import Planned
from gacfx.core.rise import rise_of
from gacfx.core.sites import Workload
from gacfx.core.surroundings import plain_torch
from gacfx.graph import edit
from gacfx.graph.ops import DTYPES
from gacfx.graph.pipeline import Pipeline
from gacfx.hardware.profile import Profile
from gacfx.inspection import Inspection, annotate_graph
from gacfx.modules.install import swapped
from gacfx.speedup import graph_speedup
from gacfx.study import Study
from gacfx.summary import Summary, make_side
from gacfx.tracing.inputs import example_inputs


class Verifiable(Protocol):
    """A dense model and its graph."""

    @property
    def model(self) -> nn.Module:
        """The model."""

    @property
    def graph(self) -> GraphModule:
        """Its graph, with targets."""


TOLERANCE = {"fp64": 1e-12, "fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2}
"""Relative error allowed between graph and module: they mask attention in different ways."""


@plain_torch()
def summarise(
    study: Study,
    planned: dict[str, Planned],
    profile: Profile,
    workload: Workload,
    judge: Corpus | None = None,
) -> Summary:
    """Dense and planned side by side; every plan is rewritten into the graph and verified there.

    Losses are measured on ``judge``. By default that is the part of the calibration text on which
    value models were compared; the final factors have seen it, so it is no independent judgement.

    Raises:
        CalibrationError: ``judge`` has a token that the dense model gives no probability.
        PassError: a rewritten graph is not what its plan promises.
    """
    judge = judge or study.held_back
    dense = annotate_graph(edit.fork(study.graph), profile, workload, "dense")
    known = judge is study.held_back
    nats = study.dense_nats
    if not known:
        nats = evaluate(study.model, judge, device=study.device).checked().nats_per_token
    sides = [make_side("dense", dense, nats, None, study.targeted_params)]
    for name, one in planned.items():
        seen = verify(study, one, profile, workload)
        nats = study.measure(one, judge)
        faster = graph_speedup(
            study.graph, one.plan, gpu=profile, seq=workload.seq, execution=workload.execution
        )
        sides.append(make_side(name, seen, nats, one.plan, 0, faster))
    label = f"{workload.mode}, batch {workload.batch}, {workload.seq} tokens, {workload.execution}"
    text = "calibration text" if known else "evaluation text"
    rises = [rise_of(one.plan) for one in planned.values()]
    return Summary(
        gpu=profile.name,
        workload=label,
        forecast=profile.forecast,
        text=text,
        sides=tuple(sides),
        rise=next((rise for rise in rises if rise is not None), None),
        unused_weights=unused_weights(study.model),
    )


@plain_torch()
def verify(study: Verifiable, planned: Planned, profile: Profile, workload: Workload) -> Inspection:
    """Rewrite a copy of the graph with a plan and check alignment, budget and numerics on it.

    Raises:
        PassError: the rewritten graph is not what the plan promises.
    """
    gm = apply_to_graph(study.graph, planned)
    seen = annotate_graph(gm, profile, workload, "planned")
    inputs = example_inputs(study.model)
    rows = embedding_rows(study.model) or 2
    draw = torch.Generator().manual_seed(0)  # the global random state is the user's
    ids = torch.randint(0, rows, inputs["input_ids"].shape, generator=draw)
    inputs["input_ids"] = ids.to(inputs["input_ids"].device)
    tolerance = TOLERANCE[DTYPES[next(study.model.parameters()).dtype]]
    with swapped(study.model, planned.factors, planned.plan.blocks):
        Pipeline.parse(pipelines.VERIFY).bind(
            plan=planned.plan, reference=study.model, inputs=inputs, tolerance=tolerance
        ).run(gm)
    return seen
