"""A causal language model in parts: what is before its decoder layers, each of them, and the head.

The model's own forward runs for every part, and only that part computes: the layers before it pass
on what they are given, the one after it ends the run, and the part takes its input from the caller.
So masks, rotary tables and keyword arguments are made by the model's own code, and nothing here is
written for an architecture. The input of the others is NaN, so that whatever looks past a boundary
is seen.

Boundary i is what layer i is given, [B, T, D]; boundary L is what the last one gives to the head.
"""

# B documents, T tokens of each, D width of the model, V vocabulary, L layers

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gacfx.calibration.faults import REMEDY
from gacfx.calibration.running import device_of, raised
from gacfx.core.caches import without_cache
from gacfx.core.placed import placed_on, tensors_of
from gacfx.errors import CalibrationError, GacError, NoNumbers, UnsupportedModel

PROBE_TOKENS = 8
"""Length of the text on which the parts are compared with the whole."""


class _Reached(Exception):  # noqa: N818  # no error: it ends a forward early
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


@contextmanager
def _as_refusal(model: nn.Module, what: str) -> Iterator[None]:
    """Whatever the model's own code raises is a reason not to run it in parts."""
    try:
        yield
    except (GacError, _Reached, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UnsupportedModel(f"{what}: {raised(model, error)}") from error


@dataclass
class _Run:
    """What the layers do in the forward that is under way."""

    at: int = -1
    """Boundary at which the run begins; -1 for the token ids."""
    until: int = 0
    """Boundary at which it ends; above L for the logits."""
    hidden: Tensor | None = None
    """What stands at ``at``; None for zeros."""


@dataclass(eq=False)
class Layered:
    """A model whose decoder layers are called one after the other, each with what the last gave.

    Raises:
        UnsupportedModel: it has no list of at least two decoder layers.
    """

    model: nn.Module
    device: torch.device | None = None
    """Where it computes: what is outside the layers is there as long as the model is parted, and of
    the layers the one at work. None for where the model is."""
    dtype: torch.dtype | None = None
    """In which it computes, likewise; None for its own."""
    prefix: str = ""
    """Of the names of everything in a layer, before its number: ``model.layers.``."""
    layers: tuple[nn.Module, ...] = ()
    vocabulary: int = 0
    """Rows of the logits, known once the model was parted."""
    _run: _Run = field(default_factory=_Run)
    _at_hand: set[int] = field(default_factory=set)
    """Layers that are on ``device``."""
    _extras: tuple[None, ...] | None = None
    """What a layer returns beside the hidden states; None where it returns these alone."""

    def __post_init__(self) -> None:
        if not hasattr(self.model, "config"):
            raise UnsupportedModel("it is no Hugging Face model, so its parts are not known")
        lists = [
            (name, module)
            for name, module in self.model.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) > 1
        ]
        if not lists:
            raise UnsupportedModel("the model has no list of at least two layers")
        name, found = max(lists, key=lambda one: sum(p.numel() for p in one[1].parameters()))
        self.prefix, self.layers = f"{name}.", tuple(found)
        if len({*map(id, self.layers)}) < len(self.layers):
            raise UnsupportedModel(f"{name}: one layer stands there several times")

    def layer_of(self, name: str) -> int | None:
        """Number of the layer that a module is in; None for one outside."""
        number = name.removeprefix(self.prefix).partition(".")[0]
        return int(number) if name.startswith(self.prefix) and number.isdigit() else None

    @contextmanager
    def parted(self, ids_T: Tensor) -> Iterator[None]:
        """Inside, :meth:`between` works; the model's own forward does not.

        Args:
            ids_T: some text, of which a few tokens are run whole and in parts.

        Raises:
            UnsupportedModel: the parts do not give what the whole gives.
        """
        few_BT = ids_T[None, :PROBE_TOKENS]
        with _as_refusal(self.model, "its embedding is not known"):
            embedding = self.model.get_input_embeddings()  # type: ignore[operator]  # transformers
        inside = {id(tensor) for layer in self.layers for tensor in tensors_of(layer)}
        outside = [each for each in tensors_of(self.model) if id(each) not in inside]
        lent = {layer: partial(self._lent, i) for i, layer in enumerate(self.layers)}
        taken = {layer: partial(self._layer, i) for i, layer in enumerate(self.layers)}
        with placed_on(outside, self.device, self.dtype):
            with (
                torch.no_grad(),
                _as_refusal(self.model, "the model cannot run"),
                _instead(lent),
            ):
                whole = self._forward(few_BT).logits
            try:
                with _instead({**taken, embedding: self._embed}):
                    self._compare(few_BT, whole)
                    yield
            finally:
                self._run = _Run()

    @contextmanager
    def at_hand(self, index: int) -> Iterator[None]:
        """Inside, a layer is where the model computes; nothing happens for what is no layer."""
        if index in self._at_hand or not 0 <= index < len(self.layers):
            yield
            return
        with placed_on(tensors_of(self.layers[index]), self.device, self.dtype):
            self._at_hand.add(index)
            try:
                yield
            finally:
                self._at_hand.discard(index)

    def between(
        self,
        ids_BT: Tensor,
        at: int,
        hidden: Tensor | None = None,
        *,
        until: int | None = None,
        finite: bool = True,
    ) -> Tensor:
        """Boundary ``until`` from boundary ``at``, [B, T, D]; the logits [B, T, V] above L.

        Args:
            ids_BT: token ids; behind boundary 0 only their number counts.
            at: boundary of ``hidden``; -1 for the ids.
            hidden: [B, T, D]; None for zeros.
            until: ``at`` + 1 if None.
            finite: refuse hidden states that are not; of a sound model, they need more than a
                layer is given.

        Raises:
            UnsupportedModel: hidden states are not finite, or the model cannot run like that.
        """
        self._run = _Run(at, at + 1 if until is None else until, hidden)
        part = self.part(at)
        what = f"{part}: cannot run by itself" if until is None else "the model cannot run"
        try:
            with _as_refusal(self.model, what):
                made: Tensor = self._forward(ids_BT).logits
        except _Reached as reached:
            made = reached.hidden
        if made.shape[:2] != ids_BT.shape:
            raise UnsupportedModel(f"{part}: gives {tuple(made.shape)} for hidden states")
        finite = finite and self._run.until <= len(self.layers)
        if finite and not bool(torch.isfinite(made.detach()).all()):
            raise UnsupportedModel(f"{part}: gives NaN or infinity, or needs more than its input")
        return made

    def fault(self, ids_T: Tensor, said: str) -> CalibrationError | None:
        """Why the whole model cannot read a document either; None when it can.

        Inside :meth:`parted`, for a document that a part could not read.

        Args:
            ids_T: token ids of the document.
            said: begins the message: which part failed on which document.
        """
        try:
            logits = self.between(ids_T[None], -1, until=len(self.layers) + 1, finite=False)
        except UnsupportedModel as error:
            cause = error.__cause__
            if cause is None:
                return None
            return CalibrationError(f"{said}: {raised(self.model, cause)}; mend the model")
        if bool(torch.isfinite(logits.amax(-1)).all()):
            return None
        return NoNumbers(f"{said}: it gives NaN or infinity; {REMEDY}")

    def part(self, at: int) -> str:
        """What begins at a boundary, by name."""
        names = {-1: "the embedding", len(self.layers): "the head"}
        return names.get(at, f"{self.prefix}{at}")

    def _forward(self, ids_BT: Tensor) -> Any:
        return self.model(ids_BT.to(device_of(self.model)), **without_cache(self.model))

    def _compare(self, few_BT: Tensor, whole: Tensor) -> None:
        """Refuses a model whose parts, one after the other, differ from the whole."""
        self._learn(few_BT)
        hidden = None
        with torch.no_grad():
            for at in range(-1, len(self.layers) + 1):
                hidden = self.between(few_BT, at, hidden)
        if hidden is None or hidden.shape != whole.shape or not torch.equal(hidden, whole):
            raise UnsupportedModel("its layers, one at a time, do not give what the model gives")
        self.vocabulary = whole.shape[-1]

    def _learn(self, few_BT: Tensor) -> None:
        """See how a layer wraps what it returns."""
        self._extras = None
        self._run = _Run(0, 1)
        with torch.no_grad():
            try:
                with _as_refusal(self.model, "a layer cannot run by itself"):
                    self._forward(few_BT)
            except _Reached:
                return
        raise UnsupportedModel("its layers are not called one after the other")

    def _lent(self, index: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stands in the place of the forward of a layer of the whole model."""
        with self.at_hand(index):
            return forward(*args, **kwargs)

    def _layer(self, index: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stands in the place of the forward of a layer."""
        run, last = self._run, len(self.layers) - 1
        made, given = _hidden_of(args, kwargs)
        if index == run.until:
            raise _Reached(made)
        if index == min(run.at, last):
            # A copy: layers may change what they are given in place.
            made = (
                torch.zeros_like(made)
                if run.hidden is None
                else run.hidden.view_as(made).to(made.dtype, copy=True)
            )
        if index >= run.at:
            with self.at_hand(index):
                returned = forward(*given.args(made), **given.kwargs(made))
            self._extras = None if isinstance(returned, Tensor) else (None,) * (len(returned) - 1)
            if index == last and run.until == len(self.layers):
                raise _Reached(returned if isinstance(returned, Tensor) else returned[0])
            return returned
        return made if self._extras is None else (made, *self._extras)

    def _embed(self, forward: Callable[..., Any], ids: Tensor) -> Any:
        """Stands in the place of the forward of the embedding."""
        if self._run.at < 0:
            return forward(ids)
        weight = self.model.get_input_embeddings().weight  # type: ignore[operator]
        shape = (*ids.shape, weight.shape[1])
        return torch.full(shape, torch.nan, dtype=weight.dtype, device=weight.device)


@contextmanager
def _instead(others: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Inside, modules run by other functions, which are given their own forward first."""
    own = {module: vars(module).get("forward") for module in others}
    try:
        for module, other in others.items():
            module.forward = partial(other, module.forward)
        yield
    finally:
        for module, forward in own.items():
            if forward is None:
                vars(module).pop("forward", None)
            else:
                module.forward = forward


@dataclass(frozen=True)
class _Given:
    """Arguments of a layer, of which the hidden states are one."""

    positional: tuple[Any, ...]
    named: dict[str, Any]

    def args(self, hidden: Tensor) -> tuple[Any, ...]:
        return (hidden, *self.positional[1:]) if self.positional else ()

    def kwargs(self, hidden: Tensor) -> dict[str, Any]:
        return self.named if self.positional else {**self.named, "hidden_states": hidden}


def _hidden_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, _Given]:
    made = args[0] if args else kwargs.get("hidden_states")
    if not isinstance(made, Tensor):
        raise UnsupportedModel("its layers are not given hidden states first")
    return made, _Given(args, kwargs)


def modules_by_layer(layered: Layered, names: Iterable[str]) -> dict[int, list[str]]:
    """Layer -> those of ``names`` that are in it.

    Raises:
        UnsupportedModel: one is outside the layers.
    """
    found: dict[int, list[str]] = {index: [] for index in range(len(layered.layers))}
    for name in names:
        if (index := layered.layer_of(name)) is None:
            raise UnsupportedModel(f"{name}: is outside the layers {layered.prefix}*")
        found[index].append(name)
    return found
