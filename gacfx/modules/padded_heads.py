"""Attentions whose heads are longer than their configuration says, by numbers that are zero.

    d numbers of a head before, D from now on

The configuration stays as it was, so that the frequencies of the rotary embedding and the scale of
the scores, which families compute from it, stay those of d. What is told to the modules is

    the length        integers that the attention keeps, such as ``head_dim``
    rotary embedding  its table of cosines and sines gets columns for the new numbers
    norms of a head   an RMS norm divides by D in place of d: its epsilon is times d/D, and as its
                      outputs then are sqrt(D/d) too large, the scale of the scores makes up for it
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from gacfx.core.decision import Decision
from gacfx.core.padding import Padded, PaddedHeads
from gacfx.errors import UnsupportedModel
from gacfx.modules.attention_sizes import HEAD_DIM, INNER, Attention, numbers_of
from gacfx.modules.dense import features, is_conv1d
from gacfx.modules.padded import grown

PADDED = "gacfx_padded"
"""Attribute of a block with longer heads: :class:`PaddedHeads`."""

_SCALES = ("scaling", "scale", "softmax_scale")
_EPSILONS = ("variance_epsilon", "eps")

Undo = Callable[[], None]


@dataclass(frozen=True)
class PaddedAttention:
    """An attention that was found to fit, and what becomes of it."""

    attention: Attention
    state: PaddedHeads
    norms: tuple[nn.Module, ...]
    """RMS norms over one head."""

    def put_(self, block: nn.Module) -> Undo:
        """Tells the block; what is returned takes it back."""
        holder, new = self.attention.holder, self.state.head_dim
        old, heads = self.attention.key_dim, self.attention.counts.heads
        given: dict[str, Any] = {}
        for names, before, after in ((HEAD_DIM, old, new), (INNER, heads * old, heads * new)):
            given |= {n: after for n in names if vars(holder).get(n) == before}
        if self.norms:
            scale = _scale(holder)
            # One factor sqrt(d/D) for each norm: that of queries, and that of keys.
            given[scale] = vars(holder)[scale] * (old / new) ** (len(self.norms) / 2)
        undo = [_given(holder, given), *(self._norm_(norm) for norm in self.norms)]
        vars(block)[PADDED] = self.state

        def back() -> None:
            for each in undo:
                each()
            del vars(block)[PADDED]

        return back

    def _norm_(self, norm: nn.Module) -> Undo:
        old, new = self.attention.key_dim, self.state.head_dim
        epsilon = next(name for name in _EPSILONS if name in vars(norm))
        given = {epsilon: vars(norm)[epsilon] * (old / new)}
        if isinstance(norm, nn.RMSNorm):
            given["normalized_shape"] = (new,)
        undo, weight = _given(norm, given), norm.weight
        assert isinstance(weight, Tensor)
        made = grown(weight, 0, self.state.positions(old))
        norm.weight = nn.Parameter(made, requires_grad=weight.requires_grad)

        def back() -> None:
            norm.weight = weight
            undo()

        return back


class PaddedRotary(nn.Module):
    """A rotary embedding whose cosines and sines have columns for numbers that are zero."""

    def __init__(self, inner: nn.Module, state: PaddedHeads, added: int) -> None:
        super().__init__()
        self.inner = inner
        self.parts = 2 if state.layout == "halves" else 1
        self.added = added // self.parts

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Those of the embedding itself, and zeros: they meet zeros."""
        return tuple(map(self._wider, self.inner(*args, **kwargs)))

    def _wider(self, table: Tensor) -> Tensor:
        parts = table.unflatten(-1, (self.parts, -1))
        return functional.pad(parts, (0, self.added)).flatten(-2)


def check_padding(
    name: str, block: nn.Module, state: PaddedHeads, decisions: Mapping[str, Decision]
) -> PaddedAttention:
    """What becomes of an attention, made and not yet put in place.

    Raises:
        UnsupportedModel: it is not understood, or its weights do not fit the length of its heads.
    """
    attention = numbers_of(name, block)
    if attention.latent or attention.key_dim != attention.value_dim:
        raise UnsupportedModel(
            f"{name}: its keys have {attention.key_dim} numbers and its values "
            f"{attention.value_dim}, so its heads cannot be padded"
        )
    if problem := state.misfit(attention.key_dim) or _not_understood(attention):
        raise UnsupportedModel(f"{name}: {problem}")
    _check_weights(name, block, attention, state, decisions)
    return PaddedAttention(attention, state, _norms(attention))


def rotaries(model: nn.Module, head_dim: int) -> dict[str, nn.Module]:
    """Name -> rotary embedding that turns whole heads of this length."""
    found = {}
    for name, module in model.named_modules():
        sizes = [b.shape[-1] for n, b in module.named_buffers(recurse=False) if _is_table(n, b)]
        if head_dim in (2 * size for size in sizes):
            found[name] = module
    return found


def padded_rotaries(
    model: nn.Module, padded: Mapping[str, PaddedAttention]
) -> dict[str, PaddedRotary]:
    """Name -> what stands in the place of each rotary embedding of these attentions.

    Raises:
        UnsupportedModel: there are none, or attentions that share one differ.
    """
    turning = {each.state: each.attention for each in padded.values() if each.state.layout != "end"}
    if not turning:
        return {}
    if len(turning) > 1:
        said = ", ".join(map(str, turning))
        raise UnsupportedModel(f"all heads that turn must be padded alike, not to {said}")
    state, attention = next(iter(turning.items()))
    found = rotaries(model, attention.key_dim)
    if not found:
        raise UnsupportedModel(f"no rotary embedding turns whole heads of {attention.key_dim}")
    added = state.head_dim - attention.key_dim
    return {name: PaddedRotary(dense, state, added) for name, dense in found.items()}


def _is_table(name: str, buffer: Tensor) -> bool:
    return name.endswith("inv_freq") and buffer.ndim > 0


def _given(module: nn.Module, values: Mapping[str, Any]) -> Undo:
    before = {name: vars(module)[name] for name in values}
    vars(module).update(values)
    return lambda: vars(module).update(before)


def _not_understood(attention: Attention) -> str:
    """Why heads cannot be longer; empty if they can."""
    holder, d = attention.holder, attention.key_dim
    for name, parameter in holder.named_parameters(recurse=False):
        if d in parameter.shape:
            return f"its {name} has a number for each of a head, so its heads cannot be padded"
    for name, child in _others(holder):
        if not _is_over_head(child, d):
            continue
        if "RMSNorm" not in type(child).__name__:
            return (
                f"its {name} is a {type(child).__name__} over each head, which zeros would change"
            )
        if not isinstance(_epsilon(child), float):
            return f"its {name} keeps its epsilon under no known name"
        if not _scale(holder):
            return f"its {name} needs another scale of the scores, and none is kept by the module"
    return ""


def _others(holder: nn.Module) -> list[tuple[str, nn.Module]]:
    """Its children, but for those that multiply."""
    return [
        (name, child)
        for name, child in holder.named_children()
        if not isinstance(child, nn.Linear) and not is_conv1d(child)
    ]


def _norms(attention: Attention) -> tuple[nn.Module, ...]:
    found = [child for _, child in _others(attention.holder)]
    return tuple(each for each in found if _is_over_head(each, attention.key_dim))


def _is_over_head(child: nn.Module, head_dim: int) -> bool:
    return any(head_dim in parameter.shape for parameter in child.parameters())


def _scale(holder: nn.Module) -> str:
    """Under which name a module keeps the scale of its scores; empty where it keeps none."""
    return next((name for name in _SCALES if isinstance(vars(holder).get(name), float)), "")


def _epsilon(norm: nn.Module) -> Any:
    return next((vars(norm)[name] for name in _EPSILONS if name in vars(norm)), None)


def _check_weights(
    name: str,
    block: nn.Module,
    attention: Attention,
    state: PaddedHeads,
    decisions: Mapping[str, Decision],
) -> None:
    """Nothing when the weights of a block grow by as many outputs and inputs as its heads do."""
    rows_more, closing = 0, list[tuple[int, int]]()
    for inner, module in block.named_modules():
        if not (isinstance(module, nn.Linear) or is_conv1d(module)):
            continue
        rows, columns = features(module)
        decision = decisions.get(f"{name}.{inner}")
        if isinstance(decision, Padded):
            rows_more += decision.outputs - rows
            if decision.inputs != columns:
                closing.append((columns, decision.inputs))
    counts, more = attention.counts, state.head_dim - attention.key_dim
    wanted = (counts.heads + 2 * counts.groups) * more
    if rows_more != wanted:
        raise UnsupportedModel(
            f"{name}: {state} need {wanted} more outputs, its weights have {rows_more}"
        )
    expected = (attention.inner, counts.heads * state.head_dim)
    if closing != [expected]:
        raise UnsupportedModel(
            f"{name}: {state} make {expected[1]} of {expected[0]} inputs of its last weight, its "
            f"weights say {closing or 'that all stay'}"
        )
