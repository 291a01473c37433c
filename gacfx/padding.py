"""Lossless padding: sizes that kernels dislike grow to ones that they like.

    padding = pad_(model, gpu="h200")       a model pruned by somebody else: heads of 106 -> 112
    save_padded(model, "out", tokenizer=tokenizer)

Nothing that is computed changes. MLP widths are numbers of the configuration, so such a folder
needs no gacfx; longer heads are told to the modules when gacfx loads them
(:mod:`gacfx.core.padding`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gacfx.checkpoint.checksums import write_checksums
from gacfx.checkpoint.hf import check_unquantized, config_of, declare_
from gacfx.checkpoint.load import check_finite
from gacfx.checkpoint.pretrained import save_pretrained
from gacfx.checkpoint.rehearsal import check_comes_back
from gacfx.checkpoint.written import check_written
from gacfx.core.asked import check_module
from gacfx.core.files.atomic import making, replacing_folder
from gacfx.core.files.targets import check_folder, writing
from gacfx.core.names import one_line
from gacfx.core.padding import LAYOUTS, PaddedHeads
from gacfx.core.sites import Execution, Mode, Workload
from gacfx.core.surroundings import plain_torch
from gacfx.coupling.structures import coupled_structures
from gacfx.errors import GacError, UnsupportedModel
from gacfx.hardware.padding import Fitting, best_size
from gacfx.hardware.profile import Profile, load_profile
from gacfx.inspection import Inspection, annotate_graph
from gacfx.modules.blocks import blocks_in
from gacfx.modules.blockwise import Seen, block_outputs, largest_difference
from gacfx.modules.install import decisions_in
from gacfx.padding_parts import Part, Undo, What, lengthen_, parts_of, widen_
from gacfx.tracing.capture import capture
from gacfx.tracing.inputs import example_inputs
from gacfx.tracing.skeleton import skeleton

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOLERANCE = 1e-6
"""Largest difference of a block's output in float64, as a share of its largest number: norms
compute in float32 whatever they are given."""
PROBE = 12
"""Tokens that every block is compared on."""


@dataclass(frozen=True)
class Change:
    """One size that was padded."""

    what: What
    blocks: tuple[str, ...]
    fitting: Fitting
    params: int
    """Parameters that were added, zeros all."""
    difference: float
    """Of the blocks' outputs in float64, as a share of the largest."""
    layout: str = ""
    """Of heads."""


@dataclass(frozen=True, eq=False)
class Padding:
    """What was padded, and what it costs and brings by forecast."""

    changes: tuple[Change, ...]
    left: dict[str, str]
    """Block -> why it was left as it was."""
    before: Inspection
    after: Inspection

    @property
    def needs_gacfx(self) -> bool:
        """Longer heads are in no configuration of an architecture."""
        return any(change.what == "head dim" for change in self.changes)

    @property
    def stuck(self) -> bool:
        """Nothing was padded, though kernels are slow and there are blocks that were refused."""
        return not self.changes and bool(self.left) and max(self.before.tiers(), default=1) > 1

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "changes": [
                {
                    "what": each.what,
                    "blocks": list(each.blocks),
                    "before": each.fitting.old,
                    "after": each.fitting.new,
                    "layout": each.layout,
                    "params_added": each.params,
                    "difference": each.difference,
                    "before_us": each.fitting.old_us,
                    "after_us": each.fitting.new_us,
                }
                for each in self.changes
            ],
            "left": self.left,
            "needs_gacfx": self.needs_gacfx,
            "params": {"before": self.before.params, "after": self.after.params},
            "latency_us": {"before": self.before.latency_us, "after": self.after.latency_us},
        }


@plain_torch()
def pad_(
    model: "PreTrainedModel",
    *,
    gpu: str | Path | Profile = "h200",
    align: int | None = None,
    heads: bool = True,
    batch: int = 1,
    seq: int = 1024,
    mode: Mode = "prefill",
    execution: Execution = "eager",
) -> Padding:
    """MLP widths and head dims grow to sizes that a GPU likes, in place; nothing else changes.

    Every block is run before and after, in float64, on what it is given inside the model. A block
    that then differs, or that is not understood, stays as it was.

    Args:
        model: in eval mode, with its weights; not compressed by gacfx.
        gpu: name of a profile, path of a profile file, or a profile.
        align: sizes become multiples of this; None: what the profile likes.
        heads: pad heads as well; without them the model stays one of its plain architecture.
        batch: sequences of the workload that sizes are chosen for.
        seq: tokens of each.
        mode: ``prefill`` or ``decode``.
        execution: ``eager`` or ``compiled``.

    Raises:
        UnsupportedModel: no model with values, or compressed already.
        ProfileError: no such profile, or its GPU cannot multiply the model's dtype.
    """
    _check(model, align)
    profile, workload = load_profile(gpu), Workload(batch, seq, mode, execution)
    label = type(model).__name__
    gm = capture(model, seq=seq)
    structures = coupled_structures(gm)
    before = annotate_graph(gm, profile, workload, label)
    parts, left = parts_of(model, structures)
    changes = list[Change]()
    for part in parts:
        fitting = best_size(part.sites(gm), part.size, profile, workload, align)
        if fitting.new == part.size or (part.what == "head dim" and not heads):
            continue
        try:
            changes.append(_padded_(model, part, fitting))
        except GacError as error:
            left |= dict.fromkeys(part.blocks, str(error))
    if not changes:
        return Padding((), left, before, before)
    if any(change.what == "head dim" for change in changes):
        declare_(model)
    after = annotate_graph(capture(model, seq=seq), profile, workload, label)
    return Padding(tuple(changes), left, before, after)


def _check(model: "PreTrainedModel", align: int | None) -> None:
    """Nothing when a model can be padded at all."""
    check_module(model)
    check_unquantized(model)
    if align is not None and (type(align) is not int or align < 1):
        raise UnsupportedModel(f"align {align!r}: give a whole number of at least 1")
    if not hasattr(model, "config"):
        raise UnsupportedModel(f"{type(model).__name__} has no configuration to say its sizes")
    if decisions_in(model) or blocks_in(model):
        name = next(iter({**decisions_in(model), **blocks_in(model)}))
        raise UnsupportedModel(
            f"{name}: is compressed or padded by gacfx already, whose sizes are those that were "
            "asked for; pad the model that it was made of"
        )
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise UnsupportedModel(f"{name}: has no values (meta device); there is nothing to pad")
    if model.training:
        raise UnsupportedModel(f"{type(model).__name__}: is in training mode; call eval() first")
    check_finite(model)


def _padded_(model: "PreTrainedModel", part: Part, fitting: Fitting) -> Change:
    """A part of a model with another size, in place.

    Raises:
        UnsupportedModel: it then computes something else, or cannot be. Nothing was changed.
    """
    inputs, size = _probe(model), _count(model)
    given = block_outputs(model, part.modules(model), inputs)

    def change(put: Callable[[], Undo], layout: str = "") -> Change:
        difference = _tried(model, part, inputs, given, put)
        added = _count(model) - size
        return Change(part.what, part.blocks, fitting, added, difference, layout)

    if part.what == "MLP width":
        return change(lambda: widen_(model, part, fitting.new))
    problems: dict[str, list[str]] = {}
    for layout in LAYOUTS:
        state = PaddedHeads(fitting.new, layout)
        try:
            return change(lambda state=state: lengthen_(model, part, state), layout)  # type: ignore[misc]
        except UnsupportedModel as error:
            problems.setdefault(str(error), []).append(layout)
    said = "; ".join(f"{', '.join(layouts)}: {why}" for why, layouts in problems.items())
    raise UnsupportedModel(f"heads of {part.size} cannot be padded to {fitting.new} ({said})")


def _tried(
    model: "PreTrainedModel",
    part: Part,
    inputs: dict[str, Any],
    given: dict[str, Seen],
    put: Callable[[], Undo],
) -> float:
    """How far the blocks of a part differ once they are padded; taken back where that is too far.

    Raises:
        UnsupportedModel: it is too far, or the model does not run.
    """
    undo = put()
    try:
        made = block_outputs(model, given, inputs, given)
    except Exception as error:  # models raise nearly everything
        undo()
        raise UnsupportedModel(f"the model does not run: {one_line(error)}") from error
    difference, name = largest_difference(given, made)
    if difference > TOLERANCE:
        undo()
        raise UnsupportedModel(f"{name} computes something else, by {difference:.1g}")
    return difference


def _probe(model: "PreTrainedModel") -> dict[str, Any]:
    """Inputs of the model, random ones."""
    draw = torch.Generator().manual_seed(0)
    embedding: Any = model.get_input_embeddings()
    rows = getattr(getattr(embedding, "weight", None), "shape", (2,))[0]

    def random(found: Any) -> Any:
        if not isinstance(found, Tensor):
            return found
        if found.is_floating_point():
            return torch.randn(found.shape, generator=draw).to(found)
        return torch.randint(0, rows, found.shape, generator=draw).to(found.device)

    inputs = example_inputs(model, 1, PROBE)
    return {name: random(found) for name, found in inputs.items()}


def _count(model: "PreTrainedModel") -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@plain_torch()
def save_padded(
    model: "PreTrainedModel",
    out: str | Path,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    overwrite: bool = False,
) -> Path:
    """Writes a padded model as a Hugging Face folder, whole or not at all.

    With wider MLPs alone it is an ordinary folder; with longer heads it needs ``import gacfx``.

    Args:
        model: that :func:`pad_` changed; it is left as it is.
        out: the folder to make.
        tokenizer: saved beside it; None leaves it out.
        overwrite: replace an existing checkpoint folder.

    Raises:
        CheckpointError: the folder exists or cannot be written, or the model would not come back.
    """
    out = Path(out).expanduser()
    check_unquantized(model)
    check_folder(out, overwrite=overwrite, holds=("config.json",), what="a checkpoint folder")
    block = config_of(model) if blocks_in(model) else None
    check_comes_back(model, skeleton(model.config, model.dtype))
    out = out.resolve()
    with writing(out), making(out.parent), replacing_folder(out, overwrite=overwrite) as folder:
        save_pretrained(model, folder, block=block)
        check_written(model, folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        write_checksums(folder)
    return out
