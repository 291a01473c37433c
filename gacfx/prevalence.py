"""How many irregular dimensions the field's importance proxies make of a model.

Ranks of every targeted weight in proportion to its importance, under budgets that remove several
shares of the parameters (:mod:`gacfx.compressors.proportional`), and how many of them are no
multiples of 8 and of 16. Nothing is compressed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from gacfx import api
from gacfx.captured import captured
from gacfx.compressors.importance import UNCALIBRATED, importance, literal_importance
from gacfx.compressors.proportional import Proportional, proportional_ranks, removed_share
from gacfx.core.defaults import PREVALENCE_RATIOS, PROXIES
from gacfx.core.statistics import Moments
from gacfx.core.surroundings import plain_torch
from gacfx.errors import CalibrationError, PlanError, UnsupportedModel
from gacfx.graph.notes import target_sites
from gacfx.modules.dense import dense_weight
from gacfx.modules.experts import unpacked
from gacfx.progress import Progress
from gacfx.suitable import check_model

if TYPE_CHECKING:
    from gacfx.api import Text
    from gacfx.core.sites import MatmulSite
    from gacfx.work import Work

STEPS = (8, 16)
"""What dimensions are to be multiples of."""
WIDE_SCORES = 1e6
"""Scores further apart leave ranks at their bounds."""


@dataclass(frozen=True, slots=True)
class Share:
    """How many ranks are no multiples of a step."""

    ranks: float
    """Of all ranks, 0..1."""
    flops: float
    """The same by the FLOPs of the factors of each rank."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """The ranks that one proxy gives under one budget."""

    proxy: str
    ratio: str
    found: Proportional
    irregular: Mapping[int, Share]
    """Step -> share of ranks that are no multiples of it."""


@dataclass(frozen=True, slots=True)
class Prevalence:
    """All proxies and ratios of one model."""

    model: str
    weights: int
    params: int
    """Of the weights, dense."""
    proxies: tuple[str, ...]
    ratios: tuple[str, ...]
    normalize: str
    tokens: int
    """Of the calibration text; 0 without."""
    cells: tuple[Ranks, ...]
    """Proxies in turn, of each the ratios."""
    spread: Mapping[str, float]
    """Proxy -> largest score over the smallest."""

    def of(self, proxy: str) -> list[Ranks]:
        """The ratios of one proxy."""
        return [cell for cell in self.cells if cell.proxy == proxy]

    def shares(self, proxy: str, step: int) -> list[float]:
        """Share of irregular ranks at each ratio."""
        return [cell.irregular[step].ranks for cell in self.of(proxy)]

    def mean(self, proxy: str, step: int, *, flops: bool = False) -> float:
        """Mean share over the ratios, as Table 1 of GAC-v1."""
        shares = [cell.irregular[step] for cell in self.of(proxy)]
        return fmean(each.flops if flops else each.ranks for each in shares)

    def remainders(self, proxy: str, step: int) -> list[int]:
        """How many ranks, over all ratios, leave each remainder 0 .. step - 1."""
        ranks = [rank for cell in self.of(proxy) for rank in cell.found.ranks.values()]
        return [int(n) for n in np.bincount(np.array(ranks) % step, minlength=step)]

    @property
    def warnings(self) -> list[str]:
        """Proxies whose scores are too far apart to say much."""
        return [
            f"{proxy}: scores differ by a factor of {spread:.1e}, so most ranks lie at a bound"
            for proxy, spread in self.spread.items()
            if spread > WIDE_SCORES
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "model": self.model,
            "weights": self.weights,
            "params": self.params,
            "ratios": list(self.ratios),
            "normalize": self.normalize,
            "calibration_tokens": self.tokens,
            "proxies": {proxy: self._proxy(proxy) for proxy in self.proxies},
        }

    def _proxy(self, proxy: str) -> dict[str, Any]:
        return {
            "score_spread": self.spread[proxy],
            "irregular": {
                str(step): {
                    "mean": self.mean(proxy, step),
                    "worst": max(self.shares(proxy, step)),
                    "best": min(self.shares(proxy, step)),
                    "mean_of_flops": self.mean(proxy, step, flops=True),
                    "remainders": self.remainders(proxy, step),
                }
                for step in STEPS
            },
            "ratios": {cell.ratio: _cell(cell) for cell in self.of(proxy)},
        }


def _cell(cell: Ranks) -> dict[str, Any]:
    found = cell.found
    return {
        "irregular": {
            str(step): {"ranks": share.ranks, "flops": share.flops}
            for step, share in cell.irregular.items()
        },
        "budget": found.budget,
        "params": found.params,
        "at_break_even": found.at_most,
        "at_lower_bound": found.at_least,
        "ranks": dict(found.ranks),
    }


@dataclass(frozen=True, eq=False)
class _Measured:
    """The weights of a model, and what calibration says of them."""

    model: nn.Module
    sites: "Mapping[str, MatmulSite]"
    moments: Mapping[str, Moments] | None
    tokens: int

    def scores(self, proxies: Sequence[str], literal: bool) -> dict[str, dict[str, float]]:
        """Proxy -> module -> importance; each weight is read once."""
        score = literal_importance if literal else importance
        found: dict[str, dict[str, float]] = {proxy: {} for proxy in proxies}
        for name in self.sites:
            weight_MN = dense_weight(self.model.get_submodule(name))
            moments = None if self.moments is None else self.moments[name]
            for proxy in proxies:
                found[proxy][name] = score(weight_MN, moments, proxy, module=name)
        return found

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Module -> (rows, columns)."""
        weights = {name: dense_weight(self.model.get_submodule(name)) for name in self.sites}
        return {name: (each.shape[0], each.shape[1]) for name, each in weights.items()}


@plain_torch()
def prevalence(
    model: nn.Module,
    tokenizer: Any = None,
    *,
    calibration: "Text | None" = None,
    calibration_tokens: int | str | None = None,
    ratios: Sequence[str | float] = PREVALENCE_RATIOS,
    proxies: Sequence[str] | None = None,
    normalize: str = "params",
    skip: tuple[str, ...] = (),
    seed: int = 0,
    force: bool = False,
    name: str = "model",
    work: "Work | str | Path | None" = None,
    progress: Progress = lambda *_: None,
) -> Prevalence:
    """How many irregular ranks each proxy makes of a model.

    Args:
        model: dense causal language model with its weights; left as it was.
        tokenizer: the model's, for text.
        calibration: text; None: only the proxies that need none.
        calibration_tokens: most tokens of it, as for :func:`gacfx.plan`.
        ratios: shares of the targeted parameters to remove, each between 0 and 1.
        proxies: some of ``magnitude``, ``activation``, ``fisher`` and ``gradient``; None: all that
            can be told.
        normalize: ``params``, importance of one parameter, or ``none``, the forms that the papers
            print, of whole weights.
        skip: patterns of module names to leave out.
        seed: of the sampled labels.
        force: go on with a model that does not know the text.
        name: of the model, for the result.
        work: as for :func:`gacfx.plan`: statistics are gathered layer by layer and lie there.
        progress: called with (stage, done, total).

    Raises:
        UnsupportedModel: no weights, or none that can be given ranks.
        CalibrationError: a proxy that needs text without any, or text that cannot be used.
        DecompositionFailed: a weight whose importance is 0 or no number.
        PlanError: no or unknown proxies or ratios, or a ratio that no ranks meet.
    """
    chosen, wanted = check_asked_for(proxies, ratios, calibrated=calibration is not None)
    if normalize not in ("params", "none"):
        raise PlanError(f"normalize {normalize!r}: give params or none")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise UnsupportedModel(
            f"{name}: has no weights (meta device), and importance is that of weights; load the "
            "model with them"
        )
    literal = normalize == "none"
    if calibration is None:
        check_model(model)
        dense = unpacked(model)
        measured = _Measured(dense, target_sites(captured(dense, skip=skip).graph), None, 0)
        return _prevalence(measured, measured.scores(chosen, literal), wanted, normalize, name)
    study = api.calibrate(
        model,
        tokenizer,
        calibration=calibration,
        calibration_tokens=calibration_tokens,
        skip=skip,
        seed=seed,
        force=force,
        work=work,
        progress=progress,
    )
    with closing(study):
        known = study.full.statistics
        sites = target_sites(study.graph)
        measured = _Measured(study.model, sites, known.moments, known.tokens)
        return _prevalence(measured, measured.scores(chosen, literal), wanted, normalize, name)


def _prevalence(
    measured: _Measured,
    scores: Mapping[str, Mapping[str, float]],
    ratios: tuple[str, ...],
    normalize: str,
    name: str,
) -> Prevalence:
    shapes = measured.shapes
    return Prevalence(
        model=name,
        weights=len(shapes),
        params=sum(rows * columns for rows, columns in shapes.values()),
        proxies=tuple(scores),
        ratios=ratios,
        normalize=normalize,
        tokens=measured.tokens,
        cells=tuple(_cells(measured, shapes, scores, ratios)),
        spread={
            proxy: max(of_proxy.values()) / min(of_proxy.values())
            for proxy, of_proxy in scores.items()
        },
    )


def _cells(
    measured: _Measured,
    shapes: Mapping[str, tuple[int, int]],
    scores: Mapping[str, Mapping[str, float]],
    ratios: Sequence[str],
) -> Iterator[Ranks]:
    for proxy, of_proxy in scores.items():
        for ratio in ratios:
            found = proportional_ranks(shapes, of_proxy, ratio)
            # Two products of r (M + N) multiply-adds for each token that runs through them.
            flops = {
                module: rank * sum(shapes[module]) * measured.sites[module].runs
                for module, rank in found.ranks.items()
            }
            yield Ranks(proxy, ratio, found, {step: _share(found, flops, step) for step in STEPS})


def _share(found: Proportional, flops: Mapping[str, int], step: int) -> Share:
    irregular = [module for module, rank in found.ranks.items() if rank % step]
    total = sum(flops.values())
    return Share(len(irregular) / len(flops), sum(flops[each] for each in irregular) / total)


def check_asked_for(
    proxies: Sequence[str] | None, ratios: Sequence[str | float], *, calibrated: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(proxies, ratios) that can be asked for, before any model is read.

    Raises:
        PlanError, CalibrationError: as for :func:`prevalence`.
    """
    chosen = _chosen(proxies, calibrated=calibrated)
    if isinstance(ratios, str) or not ratios:
        raise PlanError(f"ratios {ratios!r}: give a list such as 0.1 0.2")
    for ratio in ratios:
        removed_share(ratio)
    return chosen, tuple(dict.fromkeys(str(ratio) for ratio in ratios))


def _chosen(proxies: Sequence[str] | None, *, calibrated: bool) -> tuple[str, ...]:
    """Proxies in their own order, each once."""
    asked = (PROXIES if calibrated else UNCALIBRATED) if proxies is None else tuple(proxies)
    if not asked:
        raise PlanError(f"no proxy is named; give some of {', '.join(PROXIES)}")
    for proxy in asked:
        if proxy not in PROXIES:
            raise PlanError(f"no proxy {proxy!r}; known: {', '.join(PROXIES)}")
        if proxy not in UNCALIBRATED and not calibrated:
            raise CalibrationError(
                f"{proxy}: needs activations or gradients on a text; give calibration text, or ask "
                f"for {', '.join(UNCALIBRATED)} alone"
            )
    return tuple(proxy for proxy in PROXIES if proxy in asked)
