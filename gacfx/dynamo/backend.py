"""The torch.compile backend: a plan inside a compiled graph, or a report of what the graph calls.

    model = torch.compile(model, backend="gacfx", options={"plan": "plan/", "inner": "inductor"})

What a call goes through:

    Dynamo's graph --lower--> aten, weights by name --REWRITE passes--> lift --> the inner backend

The weights that the plan replaces are no inputs of what the inner backend compiles, and their
values are checked before each call. They stay in the model: to save memory, put the plan into the
model (``gacfx.apply_``) and compile that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from gacfx import pipelines
from gacfx.core.planned import Planned
from gacfx.core.surroundings import one_at_a_time
from gacfx.dynamo.inputs import Held, Names, held_inputs, names_of
from gacfx.dynamo.lift import Lifted, lift
from gacfx.dynamo.lower import Lowered, lower
from gacfx.dynamo.options import Options, inner
from gacfx.dynamo.report import Report
from gacfx.dynamo.values import Digests, Replaced
from gacfx.errors import PlanError, PlanMismatch
from gacfx.graph.pipeline import Pipeline

Compiled = Callable[..., Any]


def gacfx_backend(
    gm: GraphModule, inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None
) -> Compiled:
    """The entry point ``gacfx`` of the group ``torch_dynamo_backends``.

    Args:
        gm: Dynamo's graph; left as it is.
        inputs: the tensors and sizes that it was traced with.
        options: the fields of :class:`gacfx.dynamo.options.Options`.

    Raises:
        PipelineError: an option that there is not.
        PlanMismatch: the graph, or the weights, are not those of the plan.
        GacError: as each step says; torch.compile shows it, and the model is as it was.
    """
    asked = dict(options or {})
    key = tuple(sorted((name, _identity(value)) for name, value in asked.items()))
    if key not in _BACKENDS:
        _BACKENDS[key] = Backend(Options.of(asked))
        for oldest in list(_BACKENDS)[:-_MOST]:
            del _BACKENDS[oldest]
    return _BACKENDS[key](gm, inputs)


_BACKENDS: dict[tuple[Any, ...], "Backend"] = {}
"""One for each set of options: its graphs share factors, digests and a report."""
_MOST = 16
"""Backends that are kept for further compilations; each holds a plan."""


def _identity(value: Any) -> Any:
    """Equal for options that mean the same; a plan's folder may be written anew."""
    if isinstance(value, str | Path) and (Path(value) / "plan.json").is_file():
        return str(Path(value).resolve()), (Path(value) / "plan.json").stat().st_mtime_ns
    if isinstance(value, str | Path):
        return str(value)
    return value if isinstance(value, bool | type(None)) else (type(value).__name__, id(value))


class Backend:
    """A backend of torch.compile for one plan, or for none."""

    def __init__(self, options: Options) -> None:
        """
        Args:
            options: checked.

        Raises:
            PlanError, CheckpointError: the plan cannot be read.
        """
        options.check()
        self._options, self._planned = options, options.planned()
        self._inner = inner(options.inner)
        self._digests = Digests()
        self._made: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}
        self.report = Report(options)

    def __call__(self, gm: GraphModule, inputs: Sequence[Any]) -> Compiled:
        """What torch.compile calls for each graph, and again for each recompilation."""
        with one_at_a_time():
            held = held_inputs(gm, inputs)
            planned = self._planned
            names = names_of(held, None if planned is None else planned.plan, self._digests)
            planned = None if planned is None else self._part(planned, held, names)
            if planned is None:
                if self.report.wanted:
                    self.report.add(lower(gm, inputs, names).graph, None)
                return self._inner(gm, inputs)  # type: ignore[no-any-return]
            lowered = lower(gm, inputs, names)
            _check_gradients(lowered, planned)
            return self._rewritten(lowered, inputs, planned)

    def _part(self, planned: Planned, held: Sequence[Held], names: Names) -> Planned | None:
        """What of the plan is carried out in this graph; None for a graph without weights.

        Raises:
            PlanMismatch: the graph has not all of its weights, and it need not be so.
        """
        if not any(each.module is not None and each.tensor.ndim > 1 for each in held):
            return None
        here = {name.removesuffix(".weight") for name in names.of.values()}
        plan = planned.plan
        missing = [module for module in plan.weights if module not in here]
        if not missing:
            return planned
        if not self._options.partial:
            lack = "none" if len(missing) == len(plan.weights) else "not all"
            raise PlanMismatch(
                f"{missing[0]}: the compiled graph has {lack} of the plan's weights "
                f"({len(plan.weights) - len(missing)} of {len(plan.weights)}). The plan is for "
                "another model, two models are in one graph, only a part of the model is compiled, "
                "or a graph break split it (torch.compile(..., fullgraph=True) shows where); "
                "options={'partial': True} carries out what a graph has. For a plan of "
                "experts compile gacfx.unpacked(model)"
            )
        choices = []
        for choice in plan.choices:
            lacking = [w.module for w in choice.weights if w.module not in here]
            if 0 < len(lacking) < len(choice.weights):
                raise PlanMismatch(
                    f"{choice.group}: the compiled graph has some of its weights and lacks "
                    f"{lacking[0]}; weights that are pruned together must be in one graph"
                )
            choices += [] if lacking else [choice]
        part = replace(plan, choices=tuple(choices))
        factors = {m: made for m, made in planned.factors.items() if m in part.weights}
        return Planned(part, factors) if choices else None

    def _rewritten(self, lowered: Lowered, inputs: Sequence[Any], planned: Planned) -> Compiled:
        read = set(_reads(lowered.graph))
        _rewrite(lowered.graph, planned)
        if self.report.wanted:
            self.report.add(lowered.graph, planned.plan)
        lifted = lift(lowered, {at: inputs[at] for at in lowered.held.values()})
        lifted = Lifted(lifted.graph, tuple(self._shared(lifted)))
        kept = {slot for slot in lifted.slots if isinstance(slot, int)}
        gone = {
            at: (name, inputs[at])
            for name, at in lowered.held.items()
            if name in read and at not in kept
        }
        replaced = Replaced(gone, self._digests)
        with lifted.fixed_sizes(inputs):
            compiled = self._inner(lifted.graph, lifted.arguments(inputs))

        def run(*call: Any) -> Any:
            replaced.check(call)
            return compiled(*lifted.arguments(call))

        return run

    def _shared(self, lifted: Lifted) -> list[int | Tensor]:
        """The slots, with tensors that an earlier compilation has made already."""
        names = [node.name for node in lifted.graph.graph.nodes if node.op == "placeholder"]
        slots: list[int | Tensor] = []
        for name, slot in zip(names, lifted.slots, strict=True):
            if isinstance(slot, Tensor):
                held = self._made.setdefault((name, slot.device, slot.dtype), slot)
                slot = held if torch.equal(held, slot) else slot
            slots.append(slot)
        return slots


def make_backend(
    plan: "Planned | str | Path | None" = None,
    inner: "str | Compiled" = "inductor",
    *,
    report: "str | Path | None" = None,
    **more: Any,
) -> Backend:
    """A backend of its own: ``torch.compile(model, backend=gacfx.make_backend(plan))``.

    Arguments are the fields of :class:`gacfx.dynamo.options.Options`.

    Raises:
        GacError: as :func:`gacfx_backend`.
    """
    return Backend(Options.of({"plan": plan, "inner": inner, "report": report, **more}))


def _rewrite(gm: GraphModule, planned: Planned) -> None:
    """Carries the plan out; its locks were compared when the weights were named.

    Raises:
        PlanMismatch: the graph is not as the plan needs it.
    """
    rewrite = Pipeline.parse(pipelines.REWRITE)
    try:
        rewrite.bind(plan=planned.plan, factors=planned.factors, locks=False).run(gm)
    except PlanMismatch as error:
        if not planned.plan.blocks:
            raise
        raise PlanMismatch(
            f"{error}. Keys and values that enter or leave a compiled graph fix its heads: call "
            "the model with use_cache=False, or put the plan into it (gacfx.apply_) and compile "
            "that"
        ) from error


def _reads(gm: GraphModule) -> list[str]:
    """Parameters and buffers that a node reads."""
    return [str(node.target) for node in gm.graph.nodes if node.op == "get_attr" and node.users]


def _check_gradients(lowered: Lowered, planned: Planned) -> None:
    """Nothing when no weight that goes is to be trained.

    Raises:
        PlanError: gradients are recorded, and it would get none.
    """
    if not torch.is_grad_enabled():
        return
    for module in planned.factors:
        weight = lowered.held.get(f"{module}.weight")
        if weight is None:
            continue
        parameter = lowered.graph.get_parameter(f"{module}.weight")
        if isinstance(parameter, nn.Parameter) and parameter.requires_grad:
            raise PlanError(
                f"{module}: would get no gradient, as its plan stands in its place; call the model "
                "under torch.no_grad(), or to train put the plan into the model (gacfx.apply_)"
            )
