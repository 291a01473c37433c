"""Healing through LoRA: adapters of PEFT on the linears inside compressed layers, merged at last.

The product of an adapter is added to the factor, or to what is left of a pruned weight, that it
stands on, so that the checkpoint stays of the same kind, with the same ranks. Norms learn as they
do without adapters; biases stay.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from gacfx.core.shared_basis import SharedBasis
from gacfx.errors import HealingError, NoPeft
from gacfx.healing.trainable import Learner
from gacfx.modules.dense import is_conv1d
from gacfx.modules.install import decisions_in

ADAPTER = "heal"
"""Name of the adapters inside of PEFT."""


def check_peft() -> Any:
    """The package.

    Raises:
        NoPeft: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise NoPeft(
            'LoRA needs PEFT: pip install "peft>=0.21", the extra lora; without it, leave out lora '
            "(--lora) to train the factors themselves"
        ) from error
    return peft


class LoraLearner(Learner):
    """A learner whose linears stay, with adapters on them."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], rank: int, seed: int) -> None:
        """Copy the model, and attach adapters to the copy.

        Args:
            model: as it was loaded; it is left as it is.
            names: of the parameters that learn without adapters.
            rank: of the adapters; their product is added as it is (alpha = rank).
            seed: of the first values of their input sides; the output sides begin with 0.

        Raises:
            HealingError: none of the parameters is the weight of a linear.
            NoPeft: PEFT is not installed.
        """
        peft = check_peft()
        if shared := [n for n, one in decisions_in(model).items() if one.kind == SharedBasis.kind]:
            raise HealingError(
                f"{shared[0]}: shares its basis with another layer, which adapters cannot stand "
                "on; heal the factors themselves (leave out lora)"
            )
        super().__init__(model, names)
        self.weights = {name: name.removesuffix(".weight") for name in self._linears()}
        if not self.weights:
            raise HealingError("no compressed layer has a linear that an adapter could stand on")
        norms = {name: p for name, p in self.parameters.items() if _is_norm(self.model, name)}
        self._bases = {n: self.parameters[n].detach().clone() for n in self.weights}
        config = peft.LoraConfig(
            target_modules=[*self.weights.values()], r=rank, lora_alpha=rank, lora_dropout=0.0
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own use of transformers, and of Conv1D
            torch.manual_seed(seed)
            peft.inject_adapter_in_model(config, self.model, adapter_name=ADAPTER)
        self.parameters = {**norms, **self._sides()}
        self.model.eval()
        self._begin()

    def scale(self, name: str) -> float:
        """Of the weight that an adapter adds to; its own would be 0 at the beginning."""
        for weight, module in self.weights.items():
            if name.startswith(f"{module}.lora_"):
                return float(self._bases[weight].square().mean().sqrt())
        return super().scale(name)

    def values(self) -> dict[str, Tensor]:
        """Weights with their adapters merged, and norms."""
        merged = {
            weight: self._bases[weight] + self._layer(module).get_delta_weight(ADAPTER).detach()
            for weight, module in self.weights.items()
        }
        norms = {n: p.detach() for n, p in self.parameters.items() if ".lora_" not in n}
        return {**merged, **norms}

    def _layer(self, module: str) -> Any:
        return self.model.get_submodule(module)

    def _linears(self) -> list[str]:
        """Trained parameters that are weights of linears."""
        found = []
        for name in self.parameters:
            module, _, leaf = name.rpartition(".")
            layer = self.model.get_submodule(module)
            if leaf == "weight" and (isinstance(layer, nn.Linear) or is_conv1d(layer)):
                found.append(name)
        return found

    def _sides(self) -> dict[str, nn.Parameter]:
        """Both sides of every adapter, by their names in the model."""
        return {n: p for n, p in self.model.named_parameters() if f".{ADAPTER}." in f"{n}."}


def _is_norm(model: nn.Module, name: str) -> bool:
    module = model.get_submodule(name.rpartition(".")[0])
    return "norm" in type(module).__name__.lower()
