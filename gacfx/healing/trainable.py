"""Which parameters of a compressed model learn, and how they get back into it and its plan.

Trained are the parameters of layers that the plan changed (factors, what is left of pruned weights,
biases) and of norms. Embeddings, the head and dense weights stay, so that nothing that is shared
moves. They are float32 while they learn, whatever the checkpoint holds.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gacfx.calibration.running import runnable
from gacfx.core.materialise import Factors, FactorSet
from gacfx.core.planned import Planned
from gacfx.core.pruning import Gone
from gacfx.errors import HealingError
from gacfx.modules.carrier import Carrier
from gacfx.modules.dense import dense_weight
from gacfx.modules.install import decisions_in
from gacfx.modules.ties import tied_modules


def trained_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters that learn, in the order of the model.

    Raises:
        HealingError: there are none.
    """
    ties, compressed = tied_modules(model), {*decisions_in(model)}
    owners = {*compressed, *_norms(model)}

    def stays(module: str) -> bool:
        """It shares a parameter, and not with compressed layers alone, as those of one basis do."""
        other = ties.get(module)
        return other is not None and not (
            _within(module, compressed) and _within(other, compressed)
        )

    names = tuple(
        name
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point()
        if _within(name, owners) and not stays(name.rpartition(".")[0])
    )
    if not names:
        raise HealingError(f"{type(model).__name__}: has no layer that a plan changed")
    return names


def _norms(model: nn.Module) -> list[str]:
    """Modules that scale hidden states, by the names of their classes."""
    return [name for name, each in model.named_modules() if "norm" in type(each).__name__.lower()]


def _within(name: str, owners: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:at]) in owners for at in range(1, len(parts)))


class Learner:
    """A float32 copy of a model whose trained parameters move."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        """Copy it.

        Args:
            model: as it was loaded; it is left as it is.
            names: of the parameters that learn.
        """
        self.model = copy.deepcopy(model).float().eval().requires_grad_(False)
        own = dict(self.model.named_parameters())
        self.parameters: dict[str, nn.Parameter] = {name: own[name] for name in names}
        self._begin()

    def _begin(self) -> None:
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        self._first = {name: p.detach().clone() for name, p in self.parameters.items()}

    def scale(self, name: str) -> float:
        """Root mean square of a parameter at the beginning, which its learning rate follows."""
        return float(self._first[name].square().mean().sqrt())

    @torch.no_grad()
    def restart(self) -> None:
        """As it was at the beginning."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self._first[name])
            parameter.grad = None

    def values(self) -> dict[str, Tensor]:
        """Name of a parameter of the model that was given -> its value now, float32; no copies."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}


class Student:
    """The compressed model as it will be saved: takes what a learner has found, in its dtype."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        self.model = model
        self.names = names
        self.running = runnable(model).eval().requires_grad_(False)
        """What computes: the model itself, or a float32 copy of one in half precision."""
        self._own, self._run = (dict(m.named_parameters()) for m in (model, self.running))

    @torch.no_grad()
    def take(self, values: Mapping[str, Tensor]) -> None:
        """Put values into the model, rounded to its dtype."""
        for name, value in values.items():
            self._own[name].copy_(value)
            if self.running is not self.model:
                self._run[name].copy_(self._own[name])

    def holds(self) -> dict[str, Tensor]:
        """What it has of them now, in its dtype; copies."""
        return {name: self._own[name].detach().clone() for name in self.names}


def healed_plan(planned: Planned, model: nn.Module) -> Planned:
    """The same plan with the factors that a healed model has."""
    modules: dict[str, Any] = dict(model.named_modules())
    factors: FactorSet = {}
    for name, made in planned.factors.items():
        decided = name in planned.plan.decisions and not isinstance(made.decision, Gone)
        factors[name] = _taken(made, modules[name]) if decided else made
    return Planned(planned.plan, factors)


def _taken(made: Factors, layer: nn.Module) -> Factors:
    """Factors with the tensors of a layer."""
    own = layer.tensors() if isinstance(layer, Carrier) else {"weight": dense_weight(layer)}
    tensors = {
        name: own[name].detach().cpu().contiguous().clone() if old.is_floating_point() else old
        for name, old in made.tensors.items()
    }
    return Factors(made.decision, made.rows, made.columns, tensors, made.order)
