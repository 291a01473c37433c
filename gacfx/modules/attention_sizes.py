"""The numbers of heads that an attention module keeps for itself, and how to give it others.

    h query heads, k key-value heads, d numbers for each head

A family stores them under its own names, and some read them from the configuration while they run;
those get a view of the configuration with their layer's numbers. What is not understood is refused:
an integer that the forward reads and that stands in no table here, or a tensor with a number for
each head.
"""

import dis
import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from types import CodeType
from typing import Any

from torch import nn

from gacfx.core.blocks import HeadCounts
from gacfx.errors import UnsupportedModel

QUERY_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")
RATIO = ("num_key_value_groups",)
"""Query heads of each key-value head."""
INNER = ("split_size", "all_head_size", "inner_dim", "embed_dim")
"""h times d."""
KV_INNER = ("kv_dim",)
"""k times d."""
HEAD_DIM = ("head_dim", "head_size", "attention_head_size", "key_value_proj_dim", "qk_head_dim")
KEPT = (
    *(*HEAD_DIM, "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "q_lora_rank"),
    *("kv_lora_rank", "rotary_ndims", "rotary_dim", "use_rope"),
    *("layer_idx", "layer_id", "sliding_window"),
)
"""Integers that have nothing to do with how many heads there are."""
PER_HEAD_INPUTS = ("position_bias", "alibi", "rel_pos_bias")
"""Arguments with a number for each head, made outside of the block."""
_PARTS = ("mp_num",)
"""Names of a number of parts that the code splits the heads into, written in it."""
_ADDED = ("dense_bias",)
"""Parameters that are added to what the closing layer gives, one number for each of its outputs."""

MARK = "gacfx_heads"
"""Attribute of a block with other numbers of heads: :class:`HeadCounts`."""

Undo = Callable[[], None]


@dataclass(frozen=True)
class Attention:
    """The part of a block that computes with heads, and its numbers."""

    holder: nn.Module
    counts: HeadCounts
    key_dim: int
    """Numbers of a query or a key of one head."""
    value_dim: int
    """Numbers of a value of one head."""
    latent: bool
    """Keys and values of all heads are made of one latent vector (DeepSeek)."""

    @property
    def inner(self) -> int:
        """Inputs of the layer that closes the block."""
        return self.counts.heads * self.value_dim

    def lost_outputs(self, new: HeadCounts) -> int:
        """Outputs that the opening layers lose together."""
        old = self.counts
        if self.latent:
            nope: int = self.holder.qk_nope_head_dim  # type: ignore[assignment]
            return (old.heads - new.heads) * (self.key_dim + nope + self.value_dim)
        lost = (old.heads - new.heads) * self.key_dim
        return lost + (old.groups - new.groups) * (self.key_dim + self.value_dim)


class LayerConfig:
    """A configuration with other numbers for one layer; all else is asked of the whole one."""

    def __init__(self, whole: object, numbers: dict[str, int]) -> None:
        vars(self).update(numbers, _whole=whole)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_whole" not in vars(self):
            raise AttributeError(name)
        return getattr(vars(self)["_whole"], name)


def attention_of(name: str, block: nn.Module) -> Attention:
    """What computes with heads in a block, once its numbers can be changed.

    Raises:
        UnsupportedModel: they cannot, with the reason.
    """
    attention = numbers_of(name, block)
    if problem := _not_understood(attention):
        raise UnsupportedModel(f"{name}: {problem}; its heads cannot be pruned")
    return attention


def numbers_of(name: str, block: nn.Module) -> Attention:
    """What computes with heads in a block, and its numbers.

    Raises:
        UnsupportedModel: nothing in it says them.
    """
    modules = list(block.modules())
    found = [each for each in modules if _says_length(each)] or list(filter(has_heads, modules))
    if len(found) != 1:
        what = "nothing in it says" if not found else f"{len(found)} modules in it say"
        raise UnsupportedModel(f"{name}: {what} how long a head is, so it is no known attention")
    own, marked = _numbers(name, found[0]), vars(block).get(MARK)
    return replace(own, counts=marked) if marked else own


def has_heads(module: nn.Module) -> bool:
    """It says how long a head is, or all of them together, and so computes with heads."""
    own = _integers(module)
    together = any(map(own.get, INNER)) and any(map(own.get, QUERY_HEADS))
    return _says_length(module) or together


def _says_length(module: nn.Module) -> bool:
    return any(map(_integers(module).get, HEAD_DIM))


def check_counts(name: str, attention: Attention, new: HeadCounts) -> None:
    """Nothing when an attention can have these numbers.

    Raises:
        UnsupportedModel: more heads than it has, numbers that do not divide, or a ratio of query to
            key-value heads that its code has no place for.
    """
    old = attention.counts
    problem = new.problem
    if not problem and (new.groups > old.groups or new.heads > old.heads):
        problem = f"has {old.heads} query and {old.groups} key-value heads, not {new}"
    ratios = (old.heads // old.groups, new.heads // new.groups)
    # Where there is one key-value head, it meets all query heads by broadcasting.
    held = old.groups == 1 or any(name in _integers(attention.holder) for name in RATIO)
    if not problem and ratios[0] != ratios[1] and not held:
        problem = f"its code has {ratios[0]} query heads for each key-value head, not {ratios[1]}"
    if problem:
        raise UnsupportedModel(f"{name}: {problem}")


def set_counts_(block: nn.Module, attention: Attention, new: HeadCounts) -> Undo:
    """Gives a block other numbers of heads, in place; what is returned gives the old ones back."""
    holder, old = attention.holder, attention.counts
    inner = old.heads * attention.key_dim
    given: dict[str, Any] = {}
    for name, found in _integers(holder).items():
        for names, before, after in (
            (QUERY_HEADS, old.heads, new.heads),
            (KV_HEADS, old.groups, new.groups),
            (RATIO, old.heads // old.groups, new.heads // new.groups),
            (INNER, inner, new.heads * attention.key_dim),
            (KV_INNER, old.groups * attention.key_dim, new.groups * attention.key_dim),
        ):
            if name in names and found == before:
                given[name] = after
    if numbers := _read_from_config(holder, new):
        given["config"] = LayerConfig(holder.config, numbers)
    before_all = {(holder, name): vars(holder)[name] for name in given}
    vars(holder).update(given)
    marked = vars(block).get(MARK)
    vars(block)[MARK] = new

    def undo() -> None:
        for (module, name), value in before_all.items():
            vars(module)[name] = value
        vars(block)[MARK] = marked
        if marked is None:
            del vars(block)[MARK]

    return undo


def _numbers(name: str, holder: nn.Module) -> Attention:
    """The numbers of an attention, of itself or of its configuration."""
    own = _integers(holder)
    config = getattr(holder, "config", None)

    def asked(names: tuple[str, ...]) -> int | None:
        found = [own[each] for each in names if each in own]
        for each in names:
            with suppress(AttributeError):
                found.append(getattr(config, each))
        return next((each for each in found if type(each) is int), None)

    heads = asked(QUERY_HEADS)
    if heads is None:
        raise UnsupportedModel(f"{name}: nothing says how many query heads it has")
    ratio = next((own[each] for each in RATIO if each in own), None)
    groups = heads // ratio if ratio else asked(KV_HEADS) or heads
    latent = "kv_lora_rank" in own
    names = ("qk_head_dim", *HEAD_DIM) if latent else HEAD_DIM
    key_dim = next((own[each] for each in names if each in own), 0)
    key_dim = key_dim or next(own[each] for each in INNER if each in own) // heads
    value_dim = own.get("v_head_dim", key_dim)
    return Attention(holder, HeadCounts(groups, heads), key_dim, value_dim, latent)


def _not_understood(attention: Attention) -> str:
    """Why the numbers of an attention cannot be changed; empty if they can."""
    holder, counts = attention.holder, attention.counts
    for name in PER_HEAD_INPUTS:
        without = getattr(getattr(holder, "config", None), name, None) is False
        if name in inspect.signature(type(holder).forward).parameters and not without:
            return f"takes {name}, which has a number for each head and is made elsewhere"
    own, read = _integers(holder), _names_read(holder)
    for name in _PARTS:
        if name in _locals(holder) or name in own:
            return f"its code splits the heads into {name} parts, a number that is written in it"
    known = {*QUERY_HEADS, *KV_HEADS, *RATIO, *INNER, *KV_INNER, *KEPT}
    for name in sorted(own.keys() & read - known):
        return f"its code reads {name} ({own[name]}), whose meaning is not known"
    of_heads = (
        *((QUERY_HEADS, counts.heads), (KV_HEADS, counts.groups)),
        *((RATIO, counts.heads // counts.groups), (INNER, counts.heads * attention.key_dim)),
        (KV_INNER, counts.groups * attention.key_dim),
    )
    for names, expected in of_heads:
        for name in names:
            if own.get(name, expected) != expected:
                return f"its {name} is {own[name]}, and {expected} was expected"
    sizes = {counts.heads, counts.groups, attention.inner, counts.groups * attention.value_dim}
    sizes -= {1, attention.key_dim, attention.value_dim}
    for name, tensor in _others(holder):
        if sizes & {*tensor.shape}:
            return f"its {name} {tuple(tensor.shape)} has a number for each head"
    return ""


def _others(holder: nn.Module) -> Iterator[tuple[str, Any]]:
    """Its parameters, but for those of layers that multiply, at any depth, and of outputs."""
    for name, inner in holder.named_modules():
        if not isinstance(inner, nn.Linear) and type(inner).__name__ not in _PRODUCTS:
            for leaf, each in inner.named_parameters(recurse=False):
                if leaf not in _ADDED:
                    yield f"{name}.{leaf}" if name else leaf, each


_PRODUCTS = ("Conv1D", "SlicedConv1D")


def _integers(module: nn.Module) -> dict[str, int]:
    """Its own whole numbers by name."""
    return {name: found for name, found in vars(module).items() if type(found) is int}


def _read_from_config(holder: nn.Module, new: HeadCounts) -> dict[str, int]:
    """Numbers of heads that its code reads from the configuration while it runs, the new ones."""
    if not hasattr(holder, "config"):
        return {}
    read = _names_read(holder)
    both = {**dict.fromkeys(QUERY_HEADS, new.heads), **dict.fromkeys(KV_HEADS, new.groups)}
    if not read & both.keys() or "config" not in read:
        return {}
    return {name: value for name, value in both.items() if hasattr(holder.config, name)}


def _names_read(holder: nn.Module) -> set[str]:
    """Names of attributes in the code of its class that runs, not in that which builds it."""
    return set[str]().union(*(_names_in(code) for code in _codes(holder)))


def _locals(holder: nn.Module) -> set[str]:
    """Local names in the same code."""
    return set[str]().union(*(code.co_varnames for code in _codes(holder)))


def _codes(holder: nn.Module) -> Iterator[CodeType]:
    for cls in type(holder).__mro__:
        if cls.__module__.startswith("torch."):
            break
        for name, each in vars(cls).items():
            code = getattr(inspect.unwrap(each), "__code__", None) if callable(each) else None
            if name != "__init__" and isinstance(code, CodeType):
                yield code


def _names_in(code: CodeType) -> set[str]:
    """Attributes that are read; ``mask.dim()`` calls a method, and no number has that name."""
    loads = (each for each in dis.get_instructions(code) if each.opname == "LOAD_ATTR")
    own = {str(each.argval) for each in loads if "NULL" not in each.argrepr}
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return own.union(*map(_names_in, inner))
