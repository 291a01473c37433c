"""What picks cost: prefill and decode of the ways to carry them out, in turn on this machine.

    dense                    the model that it was made of
    static                   the prefix of every pool
    aggregated               what the prompt picked, gathered once when it came
    gathered in each call    the same ranks, gathered from the pool by every layer of every step
    whole pool               every rank of the pool, and a mask: no picked rank is skipped

and beside them the router, and putting a new pick into all pools, which a prompt pays once.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from gacfx.bench.steps import Step, make_step, random_tokens
from gacfx.core.sites import Workload
from gacfx.errors import UnsupportedModel
from gacfx.hardware.measure.clock import Clock
from gacfx.hardware.measure.interleave import Effort, Interval, interleaved, median_interval
from gacfx.modules.prompt_router import Pick
from gacfx.modules.routing_hooks import install, pick_for, pools, router_of
from gacfx.routing.evaluate import NO_ROUTER
from gacfx.routing.kernels import routed_linear

AGGREGATED, GATHERED, WHOLE = "aggregated", "gathered in each call", "whole pool"


@dataclass(frozen=True, slots=True)
class Cell:
    """Times of one workload."""

    mode: str
    batch: int
    seq: int
    us: dict[str, Interval]
    """Way -> microseconds of a step."""
    router_us: Interval
    """Choosing for the prompts of a batch."""
    install_us: Interval
    """Putting another pick into all pools."""

    def ratio(self, way: str, against: str) -> float:
        """How many times ``against`` takes as long as ``way``."""
        return self.us[against].median / self.us[way].median

    @property
    def share_of_prompt(self) -> float:
        """Router and a new pick, as a share of the step that they come with."""
        paid = self.router_us.median + self.install_us.median
        return paid / (paid + self.us[AGGREGATED].median)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def time_picks(
    model: Any,
    dense: Any = None,
    *,
    works: Sequence[Workload],
    effort: Effort | None = None,
    seed: int = 0,
) -> list[Cell]:
    """Times of a model with a router.

    Args:
        model: with pools and their router, where it is to be measured.
        dense: the model that it was made of; None leaves it out.
        works: prefill and decode workloads.
        effort: rounds, at most; None for those of ``gacfx bench``.
        seed: of the tokens.

    Raises:
        UnsupportedModel: the model has no router.
        BenchError: a workload that it cannot run.
    """
    router = router_of(model)
    if router is None:
        raise UnsupportedModel(f"the model {NO_ROUTER}")
    automatic = router.automatic
    clock, cells = Clock(next(model.parameters()).device), []
    router.automatic = False
    try:
        for work in works:
            cells.append(_cell(model, dense, work, clock, effort or Effort(), seed))
    finally:
        router.automatic = automatic
        install(model, None)
    return cells


@torch.no_grad()
def _cell(model: Any, dense: Any, work: Workload, clock: Clock, effort: Effort, seed: int) -> Cell:
    pick, other = two_picks(model)
    ways: dict[str, Callable[[nn.Module], None]] = {
        "static": partial(install, pick=None),
        AGGREGATED: partial(install, pick=pick),
        GATHERED: partial(gather_in_each_call, pick=pick),
        WHOLE: partial(weigh_whole, pick=pick),
    }
    steps: dict[str, Step] = {}
    if dense is not None:
        steps["dense"] = make_step(dense, work, seed)
    plain = make_step(model, work, seed)
    for name in ways:
        steps[name] = plain
    us: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(2):  # each way in turn, twice, so that a machine that slows down slows all
        for name, step in steps.items():
            with _way(model, ways.get(name)):
                found = interleaved([step], clock, replace(effort, runs=max(effort.runs // 2, 6)))
                us[name].extend(found.samples_us[0])
    ids = random_tokens(model, work, seed)
    picking = interleaved([lambda: pick_for(model, ids)], clock, effort).samples_us[0]
    switching = interleaved(
        [lambda: install(model, pick), lambda: install(model, other)], clock, effort
    ).samples_us
    install(model, None)
    return Cell(
        mode=work.mode,
        batch=work.batch,
        seq=work.seq,
        us={name: median_interval(found) for name, found in us.items()},
        router_us=median_interval(picking),
        install_us=median_interval([*switching[0], *switching[1]]),
    )


def two_picks(model: nn.Module) -> tuple[Pick, Pick]:
    """Two picks for one sequence that share as little as the pools allow."""
    made = []
    for last in (True, False):
        blocks = {}
        for name, layer in pools(model).items():
            routed, own = layer.routed, layer.routed.picks - layer.routed.fixed
            first = routed.blocks - own if last else routed.fixed
            found = (*range(routed.fixed), *range(first, first + own))
            blocks[name] = torch.tensor([found], dtype=torch.int32)
        made.append(Pick(blocks))
    return made[0], made[1]


def gather_in_each_call(model: nn.Module, pick: Pick) -> None:
    """Every pool gathers what was picked, whenever it is called."""
    install(model, None)
    for name, layer in pools(model).items():
        layer.gather_in_each_call(pick.blocks[name][0], routed_linear)


def weigh_whole(model: nn.Module, pick: Pick) -> None:
    """Every pool computes all its ranks, and a mask keeps those that were picked."""
    install(model, None)
    for name, layer in pools(model).items():
        mask = torch.zeros(layer.routed.blocks)
        mask[pick.blocks[name][0].long()] = 1.0
        layer.weigh(mask.repeat_interleave(layer.routed.block).to(layer.down))


@contextmanager
def _way(model: nn.Module, put: Callable[[nn.Module], None] | None) -> Iterator[None]:
    if put is not None:
        put(model)
    try:
        yield
    finally:
        _reset(model)


def _reset(model: nn.Module) -> None:
    """The static prefix, whatever was put into the pools behind the router's back."""
    router = router_of(model)
    if router is not None:
        router.installed = None
    for layer in pools(model).values():
        layer.choose(None)
