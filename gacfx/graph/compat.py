"""Differences between the versions of torch and transformers that gacfx supports, in one place."""

import inspect
import io
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from typing import Any

import torch.fx
from torch import nn

CACHES = ("cache", "past_key_values", "layer_past", "past_key_value")
"""Names under which families hand a cache to their attention; transformers 5.24 has the first."""


@contextmanager
def without_stack_traces() -> Iterator[None]:
    """Trace without a Python stack for every node, where torch can leave it out (2.13 does).

    The stacks cost a fifth of the capture of a large model, and no pass reads them.
    """
    config = getattr(torch.fx, "config", None)
    name = "do_not_emit_stack_traces"
    if not hasattr(config, name):
        yield
        return
    before = getattr(config, name)
    setattr(config, name, True)
    try:
        yield
    finally:
        setattr(config, name, before)


def without_recompiling() -> AbstractContextManager[object]:
    """Let the passes inside torch.export leave the code of unfinished graphs unmade.

    They make it two dozen times and run it never: a quarter of the capture of a large model. The
    switch is private to torch, so a version without it is merely slower.
    """
    try:
        from torch.fx._lazy_graph_module import _use_lazy_graph_module
    except ImportError:
        return nullcontext()
    return _use_lazy_graph_module(True)


def with_open_sizes() -> AbstractContextManager[object]:
    """Run operators on fake tensors whose sizes are open.

    Until torch 2.11 a linear asks in C++ for the number of elements, which is open then; its
    decomposition in Python does not, and is what Dynamo runs as well.
    """
    from torch._dispatch.python import enable_python_dispatcher

    made: AbstractContextManager[object] = enable_python_dispatcher()
    return made


@contextmanager
def without_complaints() -> Iterator[None]:
    """Raise what torch.export raises, without its log and the unfinished graph on stderr."""
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    before, log.disabled = log.disabled, True
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            yield
    finally:
        log.disabled = before
    sys.stderr.write(said.getvalue())


def without_weight_init() -> AbstractContextManager[object]:
    """Build a transformers model without filling its weights, which the meta device lacks."""
    import transformers

    home = getattr(transformers, "initialization", None)
    make = getattr(home, "no_init_weights", None)
    return nullcontext() if make is None else make()


def cache_argument(model: nn.Module) -> str | None:
    """What the forward of a transformers model calls its cache of keys and values.

    ``past_key_values`` until transformers 5.23, ``cache`` from 5.24 on; None where it takes none.
    """
    takes = arguments(model)
    return next((name for name in ("cache", "past_key_values") if name in takes), None)


def cache_among(values: Iterable[object]) -> Any:
    """The cache of keys and values that an attention is given, whatever it is called; or None."""
    return next((value for value in values if hasattr(value, "get_seq_length")), None)


def tokens_held(cache: Any) -> int:
    """Tokens whose keys and values are in a cache; 0 for one that holds a state instead.

    A cache of layers without attention raises one of two errors, by version.
    """
    try:
        return int(cache.get_seq_length())
    except (ValueError, StopIteration):
        return 0


def source_text(lifted: object) -> str:
    """Where Dynamo found an input, as it writes it; empty where it says nothing.

    The name of a source is a method until torch 2.11 and a property from 2.12 on.
    """
    source = getattr(lifted, "source", None)
    name = getattr(source, "name", "")
    return str(name() if callable(name) else name)


def arguments(model: nn.Module) -> frozenset[str]:
    """Names that the forward of a transformers model takes, those that it passes on included.

    ``GraniteMoeForCausalLM.forward(input_ids, **kwargs)`` gives the rest to the model inside.
    """
    names: set[str] = set()
    seen: list[object] = []
    inner: object = model
    while isinstance(inner, nn.Module) and inner not in seen:
        takes = inspect.signature(inner.forward).parameters
        names |= takes.keys()
        seen.append(inner)
        if all(each.kind is not each.VAR_KEYWORD for each in takes.values()):
            break
        base = getattr(inner, "base_model", inner)
        decoder = getattr(inner, "get_decoder", lambda: None)
        inner = base if base is not inner else decoder()
    return frozenset(names)
