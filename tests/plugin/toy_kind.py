"""A kind of decision from another package, as text: a pair of factors with a scale between them.

The module that the text makes stands outside gacfx and outside the tests, as a package of somebody
else would; :func:`installed` puts it there, with the entry point by which gacfx finds it.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from gacfx.core.kinds import KINDS
from tests.plugin.packages import install

NAME = "toy_gacfx_kind"
KIND = "toy-scaled"
SOURCE = '''
"""y = up(scale * down(x)): r (rows + columns + 1) parameters."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from gacfx.core.decision import Copy, Decision, Gemm, Stored, break_even
from gacfx.core.kinds import Kind
from gacfx.graph.ops import aten
from gacfx.modules.carrier import Carrier


@dataclass(frozen=True, slots=True)
class Scaled(Decision):
    """A product of rank r with a scale for each component."""

    kind: ClassVar[str] = "toy-scaled"
    rank: int

    def problem(self, rows, columns):
        most = min(rows, columns)
        return "" if 1 <= self.rank <= most else f"toy rank {self.rank} is outside 1 .. {most}"

    def params(self, rows, columns):
        return self.rank * (rows + columns + 1)

    def work(self, rows, columns, bias):
        return Gemm(columns, self.rank), Copy(self.rank), Gemm(self.rank, rows, bias)

    def tensors(self, rows, columns):
        return {
            "inner": Stored((self.rank, columns), "inner.weight"),
            "scale": Stored((self.rank,), "scale"),
            "outer": Stored((rows, self.rank), "outer.weight"),
        }

    def sizes(self, rows, columns):
        return (self.rank,)

    @classmethod
    def offers(cls, rows, columns, step):
        ranks = range(step, min(break_even(rows, columns), rows, columns), step)
        return tuple(map(cls, ranks)), "" if ranks else "is below break-even"

    def __str__(self):
        return f"toy {self.rank}"


class ScaledLinear(Carrier):
    """Two linears and a parameter of its own."""

    def __init__(self, in_features, out_features, rank, *, device=None, dtype=None):
        super().__init__(in_features, out_features, device=device, dtype=dtype)
        self.inner = nn.Linear(in_features, rank, bias=False, device=device, dtype=dtype)
        self.scale = nn.Parameter(torch.ones(rank, device=device, dtype=dtype))
        self.outer = nn.Linear(rank, out_features, bias=False, device=device, dtype=dtype)

    @property
    def decision(self):
        return Scaled(len(self.scale))

    @classmethod
    def bare(cls, decision, rows, columns, *, device=None, dtype=None):
        return cls(columns, rows, decision.rank, device=device, dtype=dtype)

    @classmethod
    def bias_name(cls, rows, columns):
        return "outer.bias"

    @classmethod
    def make(cls, decision, source):
        up, down = source.pair(decision.rank)
        sizes = up.norm(dim=0) * down.norm(dim=1)
        return {
            "inner": down / down.norm(dim=1, keepdim=True),
            "scale": sizes,
            "outer": up / up.norm(dim=0),
        }

    def forward(self, x):
        return self.outer(self.inner(x) * self.scale)

    @classmethod
    def emit(cls, build, decision, rows, columns, x, tensors, bias):
        hidden = build.linear(x, tensors["inner"], child="inner")
        hidden = build.call(aten.mul.Tensor, (hidden, tensors["scale"]))
        return build.linear(hidden, tensors["outer"], bias, child="outer")


KIND = Kind(Scaled, "toy_gacfx_kind:ScaledLinear")
'''


@contextmanager
def installed(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The package in ``folder``, importable and with its entry point; forgotten afterwards."""
    install(folder, patch, NAME, SOURCE, {KINDS.group: {KIND: "KIND"}})
    try:
        yield importlib.import_module(NAME)
    finally:
        forget()


def forget() -> None:
    """Take the kind out of the table, as in a new process."""
    if KIND in KINDS:
        KINDS.forget(KIND)
