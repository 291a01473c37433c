"""The pass protocol: a frozen dataclass that torch.fx's own PassManager can run.

A pass has a kebab-case name; its fields are its options. Values that no text can hold (a profile, a
plan, statistics) are fields too, marked with :func:`given` and filled by ``Pipeline.bind``. Facts
say what must hold before (``needs``) and what holds afterwards (``gives``); a rewrite lists what it
spoils (``drops``), which is the whole invalidation scheme.
"""

from abc import abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar, final

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from gacfx.errors import GacError, PassError, PipelineError
from gacfx.graph.compat import with_open_sizes
from gacfx.graph.notes import Fact, annotate, drop, facts, note, state


def given() -> Any:
    """A dataclass field that is bound by name (``bind(profile=...)``) and never written as text."""
    # Not hashed: PassManager sorts passes in a dict, and profiles and plans hold dicts.
    return field(default=None, metadata={"given": True}, repr=False, hash=False)


@dataclass(frozen=True)
class GacPass(PassBase):
    """One named step. Subclasses are frozen dataclasses and define ``name`` and ``run``."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    drops: ClassVar[frozenset[Fact]] = frozenset()
    required: ClassVar[frozenset[str]] = frozenset()
    """Given fields that must be bound before the pass can run."""

    @abstractmethod
    def run(self, gm: GraphModule) -> bool:
        """Do the work on ``gm`` in place and say whether the graph itself changed."""

    def verify(self, gm: GraphModule) -> None:
        """Check on the result what ``run`` promised; raise PassError when it is not so."""

    def __call__(self, graph_module: GraphModule) -> PassResult:
        """Run the pass; torch.fx's ``requires`` and ``ensures`` are honoured as well."""
        result = super().__call__(graph_module)
        assert result is not None
        return result

    @final
    def call(self, graph_module: GraphModule) -> PassResult:
        """Run the pass the way torch.fx's PassManager expects.

        Raises:
            PassError: a needed fact or field is missing, or the work failed; names the pass.
        """
        self._check_ready(graph_module)
        try:
            changed = self.run(graph_module)
            if changed:
                _settle(graph_module)
            drop(graph_module, self.drops - self.gives)
            self.verify(graph_module)
        except GacError:
            raise
        except Exception as error:
            raise PassError(f"{self.name}: {type(error).__name__}: {error}") from error
        if missing := self.gives - facts(graph_module):
            raise PassError(f"{self.name}: ran, but did not give {_names(missing)}")
        state(graph_module).log.append(str(self))
        return PassResult(graph_module, changed)

    def _check_ready(self, gm: GraphModule) -> None:
        if missing := self.needs - facts(gm):
            raise PassError(f"{self.name}: needs {_names(missing)}; run a pass that gives it first")
        self.check_bound()

    def check_bound(self) -> None:
        """Raise PipelineError when a required given field is still empty."""
        empty = sorted(name for name in self.required if getattr(self, name) is None)
        if empty:
            raise PipelineError(
                f"{self.name} needs {', '.join(empty)}; "
                f"bind it: Pipeline.parse(text).bind({empty[0]}=...)"
            )

    def __str__(self) -> str:
        options = [
            f"{f.name.replace('_', '-')}={show(getattr(self, f.name))}"
            for f in fields(self)
            if not f.metadata.get("given") and getattr(self, f.name) != f.default
        ]
        return self.name + (f"{{{' '.join(options)}}}" if options else "")


def show(value: object) -> str:
    """An option as pipeline text: ``true``, ``8``, ``0.2``, ``a;b``."""
    if isinstance(value, bool):
        return str(value).lower()
    return ";".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _names(found: frozenset[Fact]) -> str:
    return ", ".join(sorted(found))


class _Refresh(FakeTensorProp):
    """Fake values anew; numbers that are read out of tensors stay what capture made of them.

    The sizes of parameters are fixed: a mode that Dynamo made would leave new ones open, and then
    ask at each call whether they are what they were.
    """

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The fake value of a parameter."""
        found = super().get_attr(target, args, kwargs)
        if isinstance(found, torch.Tensor) and not isinstance(found, FakeTensor):
            return self._mode.from_tensor(found, static_shapes=True)
        return found

    def run_node(self, n: Node) -> Any:
        """The value of one node."""
        known, tags = n.meta.get("val"), getattr(n.target, "tags", ())
        if isinstance(known, _NUMBERS) and torch.Tag.data_dependent_output in tags:
            return known
        return super().run_node(n)


_NUMBERS = (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)


def _settle(gm: GraphModule) -> None:
    """After a rewrite: check the graph, make its code again, refresh the fake values."""
    gm.graph.lint()
    gm.recompile()
    inputs = [n for n in gm.graph.nodes if n.op == "placeholder"]
    if not all("val" in n.meta for n in inputs):
        return  # traced without values, by torch.fx.symbolic_trace for example
    values = [n.meta["val"] for n in inputs]
    if not all(v is None or isinstance(v, (FakeTensor, *_NUMBERS)) for v in values):
        return
    modes = [v.fake_mode for v in values if isinstance(v, FakeTensor)]
    mode = modes[0] if modes else FakeTensorMode(allow_non_fake_inputs=True)
    calls = {node: call for node in gm.graph.nodes if (call := note(node).eager) is not None}
    with torch.no_grad(), with_open_sizes():
        _Refresh(gm, mode).propagate_dont_convert_inputs(*values)
    for node, call in calls.items():
        annotate(node, eager=call)  # with other heads it is the same call, but its note is stale


P = TypeVar("P", bound=GacPass)

PASSES: dict[str, type[GacPass]] = {}


def register(cls: type[P]) -> type[P]:
    """Make a pass known by its name; a second one of the same name is refused."""
    if PASSES.setdefault(cls.name, cls) is not cls:
        raise PipelineError(f"two passes are called {cls.name!r}")
    return cls
