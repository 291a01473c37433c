"""ExportedPrograms of a model: token ids to logits. Those with a cache are in gacfx.exports.steps.

What goes in and comes out are tensors and tuples of them, so that a program loads where neither
transformers nor gacfx is.
"""

# B batch, T tokens, V vocabulary

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from gacfx.calibration.running import borrowed
from gacfx.calibration.text import max_positions
from gacfx.core.names import one_line
from gacfx.errors import CaptureError, ExportError
from gacfx.graph.compat import without_recompiling, without_stack_traces
from gacfx.modules.carrier import NOTICE
from gacfx.modules.install import guards_in
from gacfx.tracing.export import check_traceable
from gacfx.tracing.inputs import BATCH, SEQ

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_OPERATORS = ("aten", "prims", "_operator", "builtins", "math", "torch")
"""Where the functions of a graph may be from, which torch alone must be able to run."""


@dataclass(frozen=True, eq=False)
class Program:
    """A graph with the names of what goes in and out, flat and in order."""

    graph: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: dict[str, Any]
    """Names of the axes that grow, nested as the arguments are."""
    past: tuple[Tensor, ...] = ()
    """Keys and values of no token [1, heads, 0, numbers], in the order of the inputs."""


class _Forward(nn.Module):
    """Token ids [B, T] -> logits [B, T, V]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, use_cache=False).logits
        return logits


def forward_program(model: "PreTrainedModel") -> Program:
    """Token ids [B, T] -> logits [B, T, V], for any B from 1 and T from 1 to the model's positions.

    Raises:
        CaptureError: torch.export refuses the model.
        ExportError: it calls what only another library has.
    """
    most = positions(model)
    ids = token_ids(model, BATCH, min(SEQ, most or SEQ))
    axes = {"input_ids": {0: "batch_size", 1: "sequence_length"}}
    sizes = {"batch_size": Dim("batch_size", min=1), "sequence_length": length(most)}
    graph = traced(model, _Forward, {"input_ids": ids}, nested(axes, sizes))
    return Program(graph, ("input_ids",), ("logits",), axes)


def traced(
    model: "PreTrainedModel", form: type[nn.Module], given: dict[str, Any], sizes: Any
) -> ExportedProgram:
    """The graph of a form of the model, in evaluation mode, sharing its weights.

    Args:
        model: left as it is.
        form: module around it.
        given: arguments of that, by name.
        sizes: which of their axes grow, nested as they are.

    Raises:
        CaptureError: torch.export refuses it.
        ExportError: it calls what only another library has.
    """
    check_traceable(model)
    name = type(model).__name__
    with borrowed(model), _without_guards(model), _portable_experts(model):
        silent = redirect_stderr(io.StringIO())
        try:
            # torch prints the graph that it could not finish.
            with torch.no_grad(), without_stack_traces(), without_recompiling(), silent:
                graph = torch.export.export(
                    form(model), (), given, strict=False, dynamic_shapes=sizes
                )
        except Exception as error:  # torch.export raises many unrelated types
            raise CaptureError(
                f"{name}: torch.export failed with lengths that vary: {type(error).__name__}: "
                f"{one_line(error)}"
            ) from error
    for node in graph.graph.nodes:
        module = getattr(node.target, "__module__", "") if node.op == "call_function" else ""
        if module and module.removeprefix("torch._ops.").split(".")[0] not in _OPERATORS:
            raise ExportError(f"{name}: calls {node.target}, which only its own library has")
    return graph


def token_ids(model: "PreTrainedModel", batch: int, length: int) -> Tensor:
    """Any ids [batch, length], to trace with."""
    return torch.zeros(batch, length, dtype=torch.long, device=model.device)


def positions(model: "PreTrainedModel") -> int | None:
    """The longest sequence; None where no table or angle ends."""
    found = max_positions(model, most=sys.maxsize)
    return None if found == sys.maxsize else found


def length(most: int | None) -> Any:
    """The length of a sequence, from 1 on."""
    return Dim("sequence_length", min=1, max=most)


def nested(axes: Any, sizes: dict[str, Any]) -> Any:
    """The same nesting with what each name stands for."""
    if isinstance(axes, str):
        return sizes[axes]
    if isinstance(axes, dict):
        return {key: nested(each, sizes) for key, each in axes.items()}
    return type(axes)(nested(each, sizes) for each in axes)


@contextmanager
def _without_guards(model: nn.Module) -> Iterator[None]:
    """Inside, compressed layers lack their guards: no loader can mistake a graph."""
    before = [(each, dict(each._buffers)) for each in guards_in(model)]
    try:
        for module, _ in before:
            for name in ("weight", NOTICE):
                module._buffers.pop(name, None)
        yield
    finally:
        for module, buffers in before:
            module._buffers.clear()
            module._buffers.update(buffers)


@contextmanager
def _portable_experts(model: "PreTrainedModel") -> Iterator[None]:
    """Inside, experts are called by operators that other engines have: each token's are gathered.

    Those of grouped products are an operator of transformers, or of torch for half precision.
    """
    config = model.config
    if getattr(config.get_text_config(), "num_experts_per_tok", None) is None:
        yield
        return
    before = config._experts_implementation
    model.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        model.set_experts_implementation(before)
