"""Layers that carry out a decision: what all of them share, and what each kind has to say.

A kind of decision has one class of layers. It makes the tensors of a decision, holds them, computes
with them, and says the same computation as graph nodes: ``forward`` and ``emit`` stand side by side
in each class, and a test compares them to the last bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.fx import Node

from gacfx.core.decision import Decision
from gacfx.core.materialise import Factors, odd_integers
from gacfx.core.pruning import Sliced
from gacfx.errors import UnsupportedModel
from gacfx.graph.edit import Build

NOTICE = "weight_IMPORT_GACFX_BEFORE_LOADING"
"""Name of an empty buffer; the first checkpoints of gacfx do not have it."""


class Source(Protocol):
    """A decomposed weight, of which tensors are made."""

    @property
    def module(self) -> str:
        """Name of its module, for messages."""

    @property
    def weight_MN(self) -> Tensor:  # noqa: N802 - shape suffix
        """The dense weight, outputs first."""

    def pair(self, rank: int) -> tuple[Tensor, Tensor]:
        """(up [M, rank], down [rank, N]) in float64, on any device; not scaled in any way."""


class Carrier(nn.Module, ABC):
    """A layer in the place of a dense one: the tensors of its decision, a guard and a notice.

    Parameters and children are ordinary, so that fx, Dynamo, exporters and other engines meet
    nothing new. The guard is an empty buffer under the name of the dense weight: a loader that
    knows nothing of gacfx finds a weight of the wrong shape and stops, where it would else fill the
    layer with random numbers and only warn. The notice is an empty buffer whose name such a loader
    prints.
    """

    weight: Tensor
    """The guard: no elements, saved with the module."""
    sliced = False
    """It stands for what is left of a larger dense weight."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        for name in ("weight", NOTICE):
            self.register_buffer(name, torch.empty(0, device=device, dtype=dtype))

    # -- what each kind says -----------------------------------------------------------------------

    @property
    @abstractmethod
    def decision(self) -> Decision:
        """What this layer carries out."""

    @classmethod
    @abstractmethod
    def bare(
        cls,
        decision: Any,
        rows: int,
        columns: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """The layer of a decision for a weight [rows, columns], with any values and no bias."""

    @classmethod
    @abstractmethod
    def make(cls, decision: Any, source: Source) -> dict[str, Tensor]:
        """The tensors of a decision, named as it names them; floating ones in float64.

        Raises:
            DecompositionFailed: they cannot be made of this weight, with the reason.
        """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""

    @classmethod
    @abstractmethod
    def emit(
        cls,
        build: Build,
        decision: Any,
        rows: int,
        columns: int,
        x: Node,
        tensors: Mapping[str, Node],
        bias: Node | None,
    ) -> Node:
        """The node that computes what ``forward`` does, operator by operator.

        Args:
            build: makes the nodes.
            decision: to carry out.
            rows: outputs.
            columns: inputs.
            x: the input.
            tensors: node of each tensor, named as the decision names them.
            bias: node of the bias, if there is one.
        """

    # -- what all of them share --------------------------------------------------------------------

    @classmethod
    def bias_name(cls, rows: int, columns: int) -> str:
        """Where the bias of the dense layer goes, such as ``up.bias``."""
        del rows, columns
        return "bias"

    @classmethod
    def reordered(
        cls, decision: Any, tensors: Mapping[str, Tensor], order_O: Tensor
    ) -> dict[str, Tensor] | None:
        """The tensors that give output ``order[i]`` as output i; None where no tensors do.

        Args:
            decision: that the tensors are of.
            tensors: as it names them.
            order_O: every output once.
        """
        del decision, tensors, order_O
        return None

    def borrow(self, lender: nn.Module) -> None:
        """Compute with what another layer holds, as the decision says; nothing for most kinds.

        Args:
            lender: the layer in the place of the decision's lender.

        Raises:
            UnsupportedModel: it does not hold that.
        """
        del lender

    @property
    def placed(self) -> Decision:
        """What became of the dense weight: the decision, or a slice with the one of its rest."""
        if self.sliced:
            return Sliced(self.out_features, self.in_features, self.decision)
        return self.decision

    @property
    def bias(self) -> nn.Parameter | None:
        """The bias of the dense layer, wherever this layer keeps it: others read it, too."""
        owner, name = _owner(self, self.bias_name(self.out_features, self.in_features))
        return owner._parameters.get(name)

    @bias.setter
    def bias(self, bias: nn.Parameter | None) -> None:
        self.register_parameter("bias", bias)

    @classmethod
    def empty(
        cls,
        decision: Decision,
        rows: int,
        columns: int,
        bias: nn.Parameter | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """The layer of a decision, its values for a loader to fill.

        Args:
            decision: to carry out; of a slice, what the rest is.
            rows: outputs of the dense weight.
            columns: inputs of it.
            bias: one number for each output that is left; this very parameter becomes the bias.
            device: of the tensors.
            dtype: of the floating ones.
        """
        if isinstance(decision, Sliced):
            cut = decision
            layer = cls.empty(cut.rest, cut.outputs, cut.inputs, bias, device=device, dtype=dtype)
            layer.sliced = True
            return layer
        layer = cls.bare(decision, rows, columns, device="meta", dtype=dtype)
        if device is not None and torch.device(device).type != "meta":
            layer.to_empty(device=device)
        layer._take_bias(bias)
        return layer

    @classmethod
    def holding(
        cls,
        factors: Factors,
        bias: nn.Parameter | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        copy: bool = True,
    ) -> Self:
        """The layer that computes with ``factors``.

        Args:
            factors: a decision and its tensors; of a slice, those of the rest.
            bias: one number for each output that is left; this very parameter becomes the bias.
            device: of its tensors; default: where they are.
            dtype: of the floating ones; default: the one that they have.
            copy: they are its own, unless the factors are lent, so that training it does not change
                the factors; without it those that need no conversion are shared.
        """
        copy = copy and not factors.lent
        if isinstance(factors.decision, Sliced):
            layer = cls.holding(factors.rest, bias, device=device, dtype=dtype, copy=copy)
            layer.sliced = True
            return layer
        floating = next(t for t in factors.tensors.values() if t.is_floating_point())
        device, dtype = device or floating.device, dtype or floating.dtype
        shape = (factors.rows, factors.columns)
        layer = cls.bare(factors.decision, *shape, device="meta", dtype=dtype)
        for name, stored in factors.decision.tensors(*shape).items():
            kind = torch.int32 if stored.integer else dtype
            made = factors.tensors[name].detach().to(device, kind, copy=copy).contiguous()
            owner, leaf = _owner(layer, stored.parameter)
            setattr(owner, leaf, made if stored.integer else nn.Parameter(made))
        for name in ("weight", NOTICE):
            setattr(layer, name, torch.empty(0, device=device, dtype=dtype))
        layer._take_bias(bias)
        return layer

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor, as the decision names them; those of the layer itself, no copies."""
        stored = self.decision.tensors(self.out_features, self.in_features)
        return {name: _found(self, each.parameter) for name, each in stored.items()}

    def problem(self) -> str:
        """What is wrong with the integers that the layer holds; empty where nothing is."""
        return odd_integers(self.decision, self.out_features, self.in_features, self.tensors())

    def extra_repr(self) -> str:
        """Sizes, as nn.Linear prints them, and where adapters go: PEFT refuses with this text."""
        linears = [f'"{n}"' for n, m in self.named_children() if isinstance(m, nn.Linear)]
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"{self.decision}, bias={self.bias is not None}, "
            f'for LoRA take target_modules=[{", ".join(linears)}] or "all-linear"'
        )

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As every module does, but the guard stays what it is.

        Programs that scale ``weight`` of a linear, to fuse a norm into it, would else change a bias
        and nothing more.

        Raises:
            UnsupportedModel: ``weight`` is no parameter of such a layer.
        """
        if name == "weight":
            linears = [n for n, m in self.named_children() if isinstance(m, nn.Linear)]
            held = linears or [n for n, _ in self.named_parameters() if n != "bias"]
            what = "linears" if linears else "parameters"
            raise UnsupportedModel(
                f"{type(self).__name__}.weight: is an empty guard, and no weight to be replaced; "
                f"the {what} inside have the weights: {', '.join(held)}"
            )
        if name == "bias":
            self._parameters.setdefault("bias", None)  # the property is in nobody's way
        super().register_parameter(name, param)

    def _take_bias(self, bias: nn.Parameter | None) -> None:
        owner, name = _owner(self, self.bias_name(self.out_features, self.in_features))
        owner.register_parameter(name, bias)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *others: Any, **more: Any
    ) -> None:
        # The first checkpoints have no notice.
        if NOTICE in self._buffers:
            state_dict.setdefault(prefix + NOTICE, self._buffers[NOTICE])
        super()._load_from_state_dict(state_dict, prefix, *others, **more)


def _owner(layer: nn.Module, path: str) -> tuple[nn.Module, str]:
    """(the module that a parameter is in, its name there)."""
    owner, _, name = path.rpartition(".")
    return layer.get_submodule(owner), name


def _found(layer: nn.Module, path: str) -> Tensor:
    owner, name = _owner(layer, path)
    found = getattr(owner, name)
    assert isinstance(found, Tensor)
    return found
