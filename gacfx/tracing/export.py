"""Capture: one flat GraphModule of a Hugging Face model, parameters under their own names.

Non-strict ``torch.export`` with static, odd shapes: they never factor with a dimension of the
model, so sizes that grow with the input can be told from sizes of the model without symbols.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from operator import attrgetter
from pathlib import Path
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves, tree_map_only

from gacfx.core.caches import cacheless
from gacfx.core.model_class import positions, text_config
from gacfx.core.quantized import held_otherwise
from gacfx.errors import CaptureError
from gacfx.graph.compat import without_complaints, without_recompiling, without_stack_traces
from gacfx.graph.notes import annotate
from gacfx.graph.ops import Op, op_of, operands, weight_name
from gacfx.graph.products import parameter_behind
from gacfx.modules.plain import as_linears
from gacfx.tracing.attention import on_meta, record_attention
from gacfx.tracing.inputs import example_inputs
from gacfx.tracing.positions import KnownPositions
from gacfx.tracing.readers import read_weights
from gacfx.tracing.repeated import NotAChain, expand, shortened, stack_of
from gacfx.tracing.routed import as_grouped, as_one_node, experts_in

_DEPENDS = "data-dependent"
"""In what torch.export says of a branch on values."""
_Help = Callable[[], AbstractContextManager[Any]]


def export_model(
    model: nn.Module,
    inputs: Mapping[str, Any] | None = None,
    *,
    attention_seq: int = 1024,
    alike: bool = False,
) -> GraphModule:
    """One GraphModule of the model's forward without cache; ``get_attr`` targets are its names.

    The graph shares its parameters with ``model``: nothing is copied, and a model on the meta
    device is captured without any memory for weights. Of a model with tensors that another program
    quantized the graph shows the plain products, and has no weights. How eager mode makes each
    attention call is recorded on the attention nodes.

    Args:
        model: in eval mode; a Hugging Face model, or any module when ``inputs`` are given.
        inputs: keyword arguments of forward; made for Hugging Face models when None.
        attention_seq: tokens of a sequence for which the eager attention calls are recorded (a
            model with sliding windows calls attention with a mask above its window).
        alike: layers of one class with equal settings and shapes compute alike, so that one of each
            kind is traced; for skeletons.

    Raises:
        CaptureError: torch.export refuses the model; the message carries its reason.
    """
    check_traceable(model)
    if held_otherwise(model):
        model = on_meta(model)
        inputs = None if inputs is None else tree_map_only(Tensor, lambda t: t.to("meta"), inputs)
    kwargs = dict(example_inputs(model) if inputs is None else inputs)
    try:
        gm = (_repeated(model, kwargs) if alike else None) or _traced(model, kwargs)
    except Exception as error:  # torch.export raises many unrelated types
        raise CaptureError(f"{type(model).__name__}: {_why(model, error)}") from error
    if written := written_parameter(gm):
        raise CaptureError(
            f"{type(model).__name__}: its forward writes into {written}, and every run of a graph "
            "would write into the model again; it cannot be captured"
        )
    _note_readers(gm, model)
    _note_eager_calls(gm, model, inputs, attention_seq)
    return gm


def _repeated(model: nn.Module, kwargs: dict[str, Any]) -> GraphModule | None:
    """The graph, of which one layer of each kind is traced; None where that is not enough."""
    stack = stack_of(model)
    if stack is None:
        return None
    try:
        with shortened(model, stack):
            gm = _traced(model, kwargs)
    except Exception:  # Zamba2 looks layers up by number; what is wrong with all of them, all tell
        return None
    try:
        expand(gm, model, stack)
    except NotAChain:
        return None
    return gm


def _traced(model: nn.Module, kwargs: dict[str, Any]) -> GraphModule:
    """The graph of the forward, or whatever torch.export raises."""

    def trace() -> ExportedProgram:
        with _unchanged(model), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The tensor attributes? .* assigned during export")
            return torch.export.export(model, (), kwargs, strict=False)

    with ExitStack() as stack:
        for each in (torch.no_grad(), without_stack_traces(), without_recompiling()):
            stack.enter_context(each)
        stack.enter_context(_plain_results(model))
        stack.enter_context(as_linears(model))
        exported = _first_of(trace, _helps(model))
    with torch.no_grad():
        gm = exported.module(check_guards=False)
    assert isinstance(gm, GraphModule)
    gm.graph.eliminate_dead_code()
    gm.recompile()
    return gm


def _first_of(trace: Callable[[], ExportedProgram], helps: Iterable[_Help]) -> ExportedProgram:
    """What is traced without help, else with the first one that does: each takes time, and few
    models need any.

    Raises:
        Exception: of a branch on values, where no help is enough; the first one of anything else.
    """
    for help_ in (nullcontext, *helps):
        try:
            with help_(), without_complaints():
                return trace()
        except Exception as error:
            if _DEPENDS not in str(error):
                raise
            last = error
    raise last


def _helps(model: Any) -> Iterator[_Help]:
    """What may make a graph of a forward that branches on values, cheapest first."""
    yield partial(KnownPositions, model)
    if not experts_in(model):
        return
    told = getattr(model, "_can_set_experts_implementation", None)
    branching = partial(as_grouped if told and told() else as_one_node, model)
    yield branching
    yield partial(_both, partial(KnownPositions, model), branching)


@contextmanager
def _both(one: _Help, other: _Help) -> Iterator[None]:
    with one(), other():
        yield


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Afterwards every module holds what it held: a forward may put traced tensors into it, and
    write into those that are no buffers.
    """
    before = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]
    plain = [t for _, held, _ in before for t in held.values() if isinstance(t, torch.Tensor)]
    values = [(tensor, tensor._version, tensor.detach().clone()) for tensor in plain]
    try:
        yield
    finally:
        for tensor, version, value in values:
            if tensor._version != version:
                tensor.copy_(value)
        for module, held, buffers in before:
            vars(module).clear()
            vars(module).update(held)
            module._buffers.clear()
            module._buffers.update(buffers)


def check_traceable(model: nn.Module) -> None:
    """Nothing when tracing may record what becomes of the parameters.

    Raises:
        CaptureError: they were made in inference mode.
    """
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise CaptureError(
            f"{type(model).__name__}: was made inside torch.inference_mode(), and such parameters "
            "can neither be traced nor measured; load or build it outside"
        )


@contextmanager
def _plain_results(model: nn.Module) -> Iterator[None]:
    """Inside, a model makes no cache, and what torch.export cannot return is no result."""
    hook = model.register_forward_hook(lambda _, __, result: _plain(result))
    try:
        with cacheless(model):
            yield
    finally:
        hook.remove()


def _plain(result: Any) -> Any:
    """Results without those that hold anything but tensors and plain values: a cache."""
    if _is_plain(result):
        return result
    if isinstance(result, dict):  # the results of a Hugging Face model, by name
        return type(result)(**{name: each for name, each in result.items() if _is_plain(each)})
    if type(result) is tuple:
        return tuple(each if _is_plain(each) else None for each in result)
    return result


def _is_plain(value: Any) -> bool:
    plain = (torch.Tensor, int, float, bool, str, type(None))
    return all(isinstance(leaf, plain) for leaf in tree_leaves(value))


def _note_readers(gm: GraphModule, model: nn.Module) -> None:
    read = read_weights(model)
    for node in gm.graph.nodes if read else ():
        if op_of(node) is not None and (reader := read.get(weight_name(operands(node)[1]) or "")):
            annotate(node, read_by=reader)


def _note_eager_calls(
    gm: GraphModule, model: nn.Module, inputs: Mapping[str, Any] | None, seq: int
) -> None:
    nodes = [n for n in gm.graph.nodes if op_of(n) is Op.ATTENTION]
    if not nodes:
        return
    longest = min(seq, positions(model) or seq)
    kwargs = example_inputs(model, 1, longest) if inputs is None else dict(inputs)
    calls = record_attention(model, kwargs)
    if calls is None or len(calls) != len(nodes):
        return  # annotate-sites then falls back to the call in the graph, and says so
    for node, call in zip(nodes, calls, strict=True):
        annotate(node, eager=call)


def written_parameter(gm: GraphModule) -> str:
    """A parameter that an operator of the graph changes in place; empty where there is none."""
    for node in gm.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None or not schema.is_mutable:
            continue
        for argument, given in zip(schema.arguments, node.args, strict=False):
            changed = argument.alias_info is not None and argument.alias_info.is_write
            name = parameter_behind(given) if changed else None
            if name is not None and isinstance(attrgetter(name)(gm), nn.Parameter):
                return name
    return ""


def _why(model: nn.Module, error: BaseException) -> str:
    """Why a model is no graph, and what to do about it."""
    if _DEPENDS not in str(error):
        return f"torch.export failed: {type(error).__name__}: {_first(error)}"
    why = f"{_place(model, error)} branches on values that it computes, so it is no single graph"
    rope = getattr(text_config(getattr(model, "config", None)), "rope_parameters", None)
    kind = rope.get("rope_type", "default") if isinstance(rope, dict) else "default"
    if kind == "default":
        return why
    return (
        f"{why}; perhaps it is the rotary embedding of type {kind!r}: try "
        "config.rope_parameters['rope_type'] = 'default', which is the same for short text"
    )


def _place(model: nn.Module, error: BaseException) -> str:
    """The innermost module of a model whose code was at work when an error was raised."""
    names = {id(module): name for name, module in model.named_modules()}
    place = "its forward"
    for frame, line in walk_tb(error.__traceback__):
        at = frame.f_locals.get("self")
        if isinstance(at, nn.Module) and id(at) in names:
            file = Path(frame.f_code.co_filename).name
            place = f"{names[id(at)] or 'the model'} ({type(at).__name__}, {file}:{line})"
    return place


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"
