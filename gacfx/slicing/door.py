"""From a model, a text and a ratio to a plain model of a smaller hidden size, and its folder."""

# H hidden size, D that of the small model

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from gacfx.api import Text, read_calibration
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.readable import of_readable
from gacfx.calibration.running import batch_logits, borrowed
from gacfx.calibration.sanity import check_causal, check_reads
from gacfx.calibration.text import Corpus, split, usage
from gacfx.checkpoint.checksums import write_checksums
from gacfx.checkpoint.hf import check_unquantized
from gacfx.checkpoint.load import check_finite, load_dense
from gacfx.checkpoint.pretrained import save_pretrained
from gacfx.checkpoint.written import check_written
from gacfx.core.asked import check_module
from gacfx.core.defaults import RATIO
from gacfx.core.files.atomic import making, replacing_folder
from gacfx.core.files.targets import check_folder, writing
from gacfx.core.model_class import vocabulary
from gacfx.core.rise import MAX_LOSS_NATS
from gacfx.core.surroundings import plain_torch
from gacfx.coupling.residual import Residual, residual_stream
from gacfx.errors import CheckpointError, PlanError, PoorQuality, UnsupportedModel
from gacfx.graph.ops import dtype_text
from gacfx.hardware.profile import Profile, load_profile
from gacfx.modules.blocks import blocks_in
from gacfx.modules.install import decisions_in
from gacfx.progress import Count, Progress
from gacfx.slicing.basis import Basis, basis_of
from gacfx.slicing.equal import check_equal
from gacfx.slicing.folding import (
    check_layers,
    check_plain,
    folded,
    is_tied,
    refuses_size,
    roles_of,
)
from gacfx.slicing.moments import gather_moments, regressions
from gacfx.slicing.norms import NormForm, read_norm
from gacfx.slicing.rotation import ROTATIONS, Rotation, kept_directions
from gacfx.slicing.sizes import Size, largest_size
from gacfx.tracing.capture import capture

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Readers = Literal["refitted", "rotated"]
READERS: tuple[Readers, ...] = get_args(Readers)
HELD_BACK = 0.25
SEQ = 17
"""Tokens of the graph that is looked at."""


@dataclass(frozen=True, eq=False)
class Sliced:
    """A plain model of a smaller hidden size, and what it cost."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase | None"
    size: Size
    hidden_before: int
    rotation: Rotation
    readers: Readers
    dense_nats: float
    """Loss of the dense model on held-back text, nats per token."""
    nats: float
    """Loss of the small one."""
    kept_energy: float
    """Share of the mean square of the normalised stream that is kept, mean over its norms."""
    difference: float
    """Of logits, to the large model that loses the same directions; both in float64."""
    text: str
    """How much calibration text was used."""

    @property
    def rise(self) -> float:
        """Nats per token on held-back text."""
        return self.nats - self.dense_nats

    @property
    def removed(self) -> float:
        """Share of the dense model's parameters, embeddings included, that is gone."""
        return 1 - self.size.params / self.size.dense_params

    def to_dict(self) -> dict[str, Any]:
        """Everything but the model, as plain JSON values."""
        return {
            "method": "slicegpt",
            "hidden_size": {"before": self.hidden_before, "after": self.size.hidden},
            **{name: found for name, found in asdict(self.size).items() if name != "hidden"},
            "removed": self.removed,
            "rotation": self.rotation,
            "readers": self.readers,
            "dense_nats_per_token": self.dense_nats,
            "nats_per_token": self.nats,
            "rise": self.rise,
            "kept_energy": self.kept_energy,
            "difference": self.difference,
        }


@dataclass(frozen=True, eq=False)
class Found:
    """A model that can be sliced, taken apart."""

    residual: Residual
    forms: Mapping[str, NormForm]
    centred: bool
    embedding: str


@plain_torch()
def slice_hidden(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    *,
    calibration: Text,
    ratio: float | str = RATIO,
    align: int | None = None,
    gpu: str | Path | Profile = "h200",
    rotation: Rotation = "two-sided",
    readers: Readers = "refitted",
    calibration_tokens: int | str | None = None,
    seed: int = 0,
    max_loss: float = MAX_LOSS_NATS,
    force: bool = False,
    progress: Progress = lambda *_: None,
) -> Sliced:
    """A plain model of a smaller hidden size: the residual stream, turned and cut.

    Three quarters of the text choose the directions, the last quarter judges. Source: SliceGPT
    (arXiv 2401.15024), with one rotation for the whole model, so that no shortcut needs a matrix.

    Args:
        model: dense, in eval mode, with its weights; left as it is.
        tokenizer: reads the text; not needed for a Corpus.
        calibration: a .jsonl or .txt path, texts or rows with a ``text``, or a Corpus.
        ratio: share of all parameters to remove, embeddings included. A head that was the
            embedding counts twice afterwards.
        align: the hidden size is a multiple of this; None: what the profile prefers.
        gpu: name of a profile, path of a profile file, or a profile.
        rotation: ``two-sided`` weighs directions by what their loss costs, ``pca`` by their length.
        readers: ``refitted`` guess what is lost from what is kept, by least squares; ``rotated`` do
            not, as in the paper.
        calibration_tokens: tokens to use, at most.
        seed: of sampled labels.
        max_loss: most nats per token that the loss may rise on held-back text.
        force: go on whatever the losses are.
        progress: called with (stage, done, total).

    Raises:
        UnsupportedModel: the stream of this model cannot be turned, or no plain model of its
            architecture says the result; with the reason.
        PoorQuality: the dense model does not know the text, or the loss rises too much.
        InfeasibleBudget, PlanError: a ratio, an ``align`` or a choice that cannot be.
        CalibrationError: too little text, or text of another tokenizer.
    """
    _check(model)
    _check_asked(rotation, readers, max_loss)
    found = taken_apart(model)
    size = size_for(model, found.residual, ratio=ratio, align=align_of(model, align, gpu))
    check_plain(model, found.residual, size.hidden)
    corpus = read_calibration(calibration, model, tokenizer, calibration_tokens)

    def made(text: Corpus) -> Sliced:
        check_causal(model, text)
        if not force:
            check_reads(model, text, None, None)
        fit, held_back = split(text, HELD_BACK)
        basis, energy = _basis(model, fit, found, size.hidden, rotation, seed, progress)
        difference = check_equal(model, found.residual, found.forms, basis)
        step = Count(progress, "readers", len(fit.documents))
        reads = (
            regressions(model, fit, found.forms, basis, progress=step)
            if readers == "refitted"
            else None
        )
        small = folded(model, found.residual, found.forms, basis, reads)
        _check_count(small, size)
        dense_nats = evaluate(model, held_back).checked().nats_per_token
        nats = evaluate(small, held_back).nats_per_token
        return Sliced(
            model=small,
            tokenizer=tokenizer,
            size=size,
            hidden_before=found.residual.size,
            rotation=rotation,
            readers=readers,
            dense_nats=dense_nats,
            nats=nats,
            kept_energy=energy,
            difference=difference,
            text=usage(text),
        )

    sliced = of_readable(made, model, corpus)
    if not force and not sliced.rise <= max_loss:
        raise PoorQuality(
            f"the loss would rise by {sliced.rise:.2f} nats/token on held-back text with a hidden "
            f"size of {size.hidden} of {found.residual.size}, at most {max_loss:g} is allowed. "
            "Remove less, give more calibration text, allow more with max_loss (--max-loss), or go "
            "on with force (--force)"
        )
    return sliced


def taken_apart(model: "PreTrainedModel") -> Found:
    """Who knows the residual stream of a model, and what its norms compute.

    Raises:
        UnsupportedModel: it cannot be turned, with the reason.
    """
    names = {id(module): name for name, module in model.named_modules()}
    table: Any = model.get_input_embeddings()
    embedding = names.get(id(table), "")
    residual = residual_stream(capture(model, seq=SEQ), embedding)
    check_layers(model, residual)
    forms = {
        name: read_norm(model.get_submodule(name), name, residual.size) for name in residual.norms
    }
    centred = {form.centred for form in forms.values()}
    if len(centred) != 1:
        raise UnsupportedModel(
            f"{type(model).__name__}: some norms take the mean off and some do not, or there are "
            "none; one rotation cannot serve both"
        )
    for name, form in forms.items():
        if form.shift_H is not None and not form.centred:
            raise UnsupportedModel(
                f"{name}: an RMSNorm with a bias, which no direction is left to carry"
            )
    return Found(residual, forms, centred.pop(), embedding)


def size_for(
    model: "PreTrainedModel", residual: Residual, *, ratio: float | str, align: int
) -> Size:
    """The largest hidden size within a budget of all parameters.

    Raises:
        InfeasibleBudget, PlanError: there is none.
    """
    held = dict(model.named_parameters(remove_duplicate=False))
    shapes = {name: tuple(each.shape) for name, each in held.items()}
    tied = ""
    if is_tied(model):
        head: Any = model.get_output_embeddings()
        tied = next(f"{name}.weight" for name, each in model.named_modules() if each is head)
    return largest_size(
        shapes,
        roles_of(model, residual),
        dense=sum(each.numel() for each in model.parameters()),
        hidden=residual.size,
        ratio=ratio,
        align=align,
        tied=tied,
        refuses=partial(refuses_size, model),
    )


def align_of(model: "PreTrainedModel", align: int | None, gpu: str | Path | Profile) -> int:
    """The step of sizes: what was asked for, or what a profile prefers for the model's dtype.

    Raises:
        ProfileError: no such profile, or it does not know the dtype.
    """
    return align if align is not None else load_profile(gpu).align_for(dtype_text(model.dtype))


def _basis(
    model: "PreTrainedModel",
    corpus: Corpus,
    found: Found,
    size: int,
    rotation: Rotation,
    seed: int,
    progress: Progress,
) -> tuple[Basis, float]:
    """The directions that stay, and the share of the stream's mean square that they carry."""
    moments = gather_moments(
        model,
        corpus,
        found.forms,
        found.embedding,
        gradients=rotation == "two-sided",
        seed=seed,
        progress=Count(progress, "calibrate", len(corpus.documents)),
    )
    kept_HK = kept_directions(
        moments, size - found.centred, centred=found.centred, rotation=rotation
    )
    shares = [
        float(torch.trace(kept_HK.T @ each.moment_HH @ kept_HK) / torch.trace(each.moment_HH))
        for each in moments.values()
    ]
    return basis_of(kept_HK, found.centred), sum(shares) / len(shares)


def _check(model: "PreTrainedModel") -> None:
    """Nothing when a model can be sliced at all."""
    check_module(model)
    if not hasattr(model, "config"):
        raise UnsupportedModel(f"{type(model).__name__} has no configuration to say its sizes")
    check_unquantized(model)
    if decisions_in(model) or blocks_in(model):
        name = next(iter({**decisions_in(model), **blocks_in(model)}))
        raise UnsupportedModel(
            f"{name}: is compressed or padded by gacfx already; slice the model that it was made "
            "of, and compress after"
        )
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise UnsupportedModel(f"{name}: has no values (meta device); load its weights first")
    if model.training:
        raise UnsupportedModel(f"{type(model).__name__}: is in training mode; call eval() first")
    check_finite(model)


def _check_asked(rotation: object, readers: object, max_loss: object) -> None:
    for what, found, known in (
        ("rotation", rotation, ROTATIONS),
        ("readers", readers, READERS),
    ):
        if found not in known:
            raise PlanError(f"{what} {found!r}: choose one of {', '.join(known)}")
    if isinstance(max_loss, bool) or not isinstance(max_loss, int | float) or not max_loss > 0:
        raise PlanError(f"max_loss {max_loss!r}: give nats per token above 0")


def _check_count(small: "PreTrainedModel", size: Size) -> None:
    """The parameters of the model itself are those that were counted."""
    found = sum(each.numel() for each in small.parameters())
    if found != size.params:
        raise UnsupportedModel(
            f"{type(small).__name__}: has {found} parameters with a hidden size of {size.hidden}, "
            f"and {size.params} were counted"
        )


@plain_torch()
def save_sliced(sliced: Sliced, out: str | Path, *, overwrite: bool = False) -> Path:
    """Writes an ordinary Hugging Face folder, whole or not at all; it needs no gacfx.

    Before it has its name it is read again and must give the same logits, bit by bit.

    Args:
        sliced: that :func:`slice_hidden` made.
        out: the folder to make.
        overwrite: replace an existing checkpoint folder.

    Raises:
        CheckpointError: the folder exists or cannot be written, or it gives other logits.
    """
    out = Path(out).expanduser()
    check_folder(out, overwrite=overwrite, holds=("config.json",), what="a checkpoint folder")
    out = out.resolve()
    with writing(out), making(out.parent), replacing_folder(out, overwrite=overwrite) as folder:
        save_pretrained(sliced.model, folder)
        check_written(sliced.model, folder)
        if sliced.tokenizer is not None:
            sliced.tokenizer.save_pretrained(folder)
        _check_reloads(sliced.model, folder)
        write_checksums(folder)
    return out


def _check_reloads(model: "PreTrainedModel", folder: Path) -> None:
    again, _ = load_dense(folder)
    way = model.config._attn_implementation
    if way != again.config._attn_implementation:
        again.set_attn_implementation(way)
    made = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(0, vocabulary(model), (1, SEQ), generator=made)
    found = []
    for each in (model, again):
        with borrowed(each), torch.no_grad():
            found.append(batch_logits(each, ids_BT))
    if not torch.equal(*found):
        raise CheckpointError(
            f"{folder}: gives other logits than the model in memory (by "
            f"{float((found[0] - found[1]).abs().max()):.1e}); nothing was written"
        )
