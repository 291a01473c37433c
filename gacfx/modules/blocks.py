"""Blocks of a model that change as a whole: attentions with fewer or longer heads, and skipped
blocks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from gacfx.core.blocks import BlockState, HeadCounts, block_state
from gacfx.core.decision import Decision
from gacfx.core.padding import PaddedHeads
from gacfx.core.pruning import Gone, Heads, Skip, Sliced
from gacfx.core.structures import Structure
from gacfx.errors import UnsupportedModel
from gacfx.modules.attention_sizes import (
    MARK,
    Attention,
    attention_of,
    check_counts,
    has_heads,
    set_counts_,
)
from gacfx.modules.dense import features, is_conv1d
from gacfx.modules.padded_heads import (
    PADDED,
    PaddedAttention,
    PaddedRotary,
    check_padding,
    padded_rotaries,
)
from gacfx.modules.skipped import Skipped, skipped_of

Blocks = Mapping[str, Heads | BlockState]
"""Name of a block -> what becomes of it."""


@dataclass(frozen=True)
class Pruned:
    """Blocks that were found to fit their model, and what becomes of each."""

    counts: dict[str, tuple[Attention, HeadCounts]]
    skipped: dict[str, Skipped]
    padded: dict[str, PaddedAttention]
    rotaries: dict[str, PaddedRotary]

    def put_(self, model: nn.Module) -> Callable[[], None]:
        """Prunes the blocks in place; what is returned gives the very same modules back."""
        undo = [
            set_counts_(model.get_submodule(name), attention, new)
            for name, (attention, new) in self.counts.items()
        ]
        undo += [each.put_(model.get_submodule(name)) for name, each in self.padded.items()]
        put = {**self.skipped, **self.rotaries}
        dense = {name: model.get_submodule(name) for name in put}
        for name, made in put.items():
            model.set_submodule(name, made)

        def back() -> None:
            for name, block in dense.items():
                model.set_submodule(name, block)
            for each in undo:
                each()

        return back


def check_blocks(
    model: nn.Module,
    blocks: Blocks,
    decisions: Mapping[str, Decision],
    ties: Mapping[str, str],
    *,
    complete: bool = True,
) -> Pruned:
    """What becomes of each block, made and not yet put in place.

    Args:
        model: with the dense blocks.
        blocks: what is asked for.
        decisions: of the weights that change, by module.
        ties: of the model.
        complete: the weights of a skipped block are among the decisions, as gone.

    Raises:
        UnsupportedModel: names the first block that is missing, hooked, shared, or not understood,
            or whose weights do not fit its numbers of heads.
    """
    states: dict[str, BlockState] = {name: block_state(each) for name, each in blocks.items()}
    skips = [name for name, state in states.items() if isinstance(state, Skip)]
    for name, decision in decisions.items():
        above = next((skip for skip in skips if name.startswith(f"{skip}.")), None)
        if isinstance(decision, Gone) and above is None:
            raise UnsupportedModel(f"{name}: is gone, and no block that it is in is skipped")
        if above and not isinstance(decision, Gone):
            raise UnsupportedModel(f"{name}: is {decision}, and its block {above} is skipped")
        if isinstance(decision, Sliced):
            _check_said(model, name, decision, states)
    counts, skipped, padded = {}, {}, {}
    for name, state in states.items():
        block = _block(model, name, states)
        if isinstance(state, Skip):
            _check_free(name, block, ties)
            skipped[name] = made = skipped_of(name, block)
            closing = f"{name}.{made.returned.closing}"
            if complete and closing not in decisions:
                raise UnsupportedModel(f"{name}: is skipped, and its {closing} is not gone")
        elif isinstance(state, PaddedHeads):
            padded[name] = check_padding(name, block, state, decisions)
        else:
            attention = attention_of(name, block)
            check_counts(name, attention, state)
            _check_heads(name, attention.counts, blocks[name])
            _check_weights(name, block, attention, state, decisions)
            counts[name] = (attention, state)
    return Pruned(counts, skipped, padded, padded_rotaries(model, padded))


def heads_problem(model: nn.Module, structure: Structure) -> str:
    """Why the heads of an attention could not go, whatever a plan says; empty if they could.

    The graph shows that the weights can lose them; this asks whether the code of the module, and
    the numbers that it holds, can follow.
    """
    try:
        block = _block(model, structure.name, {})
        attention = attention_of(structure.name, block)
    except UnsupportedModel as error:
        return str(error).removeprefix(f"{structure.name}: ")
    groups, per_group = structure.units, structure.heads
    if (attention.counts.groups, attention.counts.heads) != (groups, groups * per_group):
        return f"its code has {attention.counts} heads, its weights {groups * per_group}/{groups}"
    stays = (range(groups - 1), per_group) if groups > 1 else (range(1), per_group - 1)
    kept, each = tuple(stays[0]), tuple(range(stays[1]))
    new = HeadCounts(len(kept), len(kept) * len(each))
    wanted = attention.lost_outputs(new)
    lost = sum(
        member.rows - len(member.outputs.kept(kept, [each] * len(kept)))
        for member in structure.members
        if member.outputs is not None
    )
    return "" if lost == wanted else f"a head less takes {lost} outputs, its code expects {wanted}"


def blocks_in(model: nn.Module) -> dict[str, BlockState]:
    """Name -> what became of a block, for all that changed as a whole, in the model's order."""
    found: dict[str, BlockState] = {}
    for name, module in model.named_modules():
        if isinstance(module, Skipped):
            found[name] = Skip()
            continue
        mark = vars(module).get(MARK) or vars(module).get(PADDED)
        if isinstance(mark, HeadCounts | PaddedHeads):
            found[name] = mark
    return found


def skipped_modules(model: nn.Module) -> dict[str, Skipped]:
    """Name -> what stands in the place of a skipped block, in the model's order."""
    return {name: m for name, m in model.named_modules() if isinstance(m, Skipped)}


def _block(model: nn.Module, name: str, others: Mapping[str, object]) -> nn.Module:
    """The block called ``name``, if it is one that is pruned for the first time."""
    try:
        block = model.get_submodule(name)
    except AttributeError:
        block = None
    if block is None or not name:
        raise UnsupportedModel(f"{name or '(no name)'}: the model has no such block")
    if isinstance(block, Skipped) or MARK in vars(block):
        raise UnsupportedModel(f"{name}: is pruned already; prune the dense model")
    if PADDED in vars(block):
        raise UnsupportedModel(f"{name}: is padded already; take the dense model")
    for other in others:
        if name.startswith(f"{other}."):
            raise UnsupportedModel(f"{name}: is a part of {other}, which is pruned as well")
    return block


def _check_said(model: nn.Module, name: str, cut: Sliced, states: Mapping[str, object]) -> None:
    """Nothing when a weight that is cut is in no attention, or the heads of that are said."""
    holder = name.rpartition(".")[0]
    said = any(f"{holder}.".startswith(f"{block}.") for block in states)
    whole = (cut.outputs, cut.inputs) == features(model.get_submodule(name))
    if not (said or whole) and has_heads(model.get_submodule(holder)):
        raise UnsupportedModel(
            f"{name}: is {cut}, and nothing says how many heads {holder} has from now on; name it "
            "among the blocks"
        )


def _check_heads(name: str, has: HeadCounts, asked: Heads | BlockState) -> None:
    """Nothing when every head that stays is one of those that there are."""
    if not isinstance(asked, Heads):
        return
    most = ((max(asked.groups), has.groups), (max(map(max, asked.heads)), has.heads // has.groups))
    for what, (kept, of) in zip(("key-value heads", "query heads of each"), most, strict=True):
        if kept >= of:
            raise UnsupportedModel(f"{name}: has {of} {what}; the plan keeps number {kept}")


def _check_free(name: str, block: nn.Module, ties: Mapping[str, str]) -> None:
    """Refuses to take out a block that somebody listens to or shares."""
    for inner, module in block.named_modules():
        each = f"{name}.{inner}" if inner else name
        hooks = (
            *(module._forward_hooks, module._forward_pre_hooks),
            *(module._backward_hooks, module._backward_pre_hooks),
        )
        if any(hooks) or hasattr(module, "_hf_hook"):
            raise UnsupportedModel(
                f"{each}: has hooks, which would be lost; remove them, or load without offload"
            )
        if "forward" in vars(module):
            raise UnsupportedModel(
                f"{each}: its forward was replaced, which would be lost; restore it "
                "(del module.forward)"
            )
        if each in ties:
            raise UnsupportedModel(
                f"{each}: shares its weight with {ties[each]}, so its block cannot be taken out"
            )


def _check_weights(
    name: str,
    block: nn.Module,
    attention: Attention,
    new: HeadCounts,
    decisions: Mapping[str, Decision],
) -> None:
    """Nothing when the weights of a block lose as many outputs and inputs as its heads have."""
    lost_rows, closing = 0, list[tuple[int, int]]()
    for inner, module in block.named_modules():
        if not (isinstance(module, nn.Linear) or is_conv1d(module)):
            continue
        rows, columns = features(module)
        decision = decisions.get(f"{name}.{inner}")
        if isinstance(decision, Sliced):
            lost_rows += rows - decision.outputs
            if decision.inputs != columns:
                closing.append((columns, decision.inputs))
    wanted = attention.lost_outputs(new)
    if lost_rows != wanted:
        raise UnsupportedModel(
            f"{name}: {new} take {wanted} outputs away, its weights lose {lost_rows}"
        )
    left = new.heads * attention.value_dim
    expected = [] if left == attention.inner else [(attention.inner, left)]
    if closing != expected:
        raise UnsupportedModel(
            f"{name}: {new} leave {left} of {attention.inner} inputs of its last weight, its "
            f"weights say {closing or 'that all stay'}"
        )
