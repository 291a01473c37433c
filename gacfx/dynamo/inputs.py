"""Which inputs of a compiled graph are weights of the model, and which weights of a plan these are.

Dynamo lifts parameters to inputs and says where each comes from, seen from the function that it
compiled: ``L['self']._modules['mlp']._modules['up_proj']._parameters['weight']``. Where a single
layer is compiled, or a graph breaks, that is not the name that the weight has in the model. Which
weight of a plan it is, is therefore told by its values, and names settle what values leave open.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

from gacfx.core.plan import Plan
from gacfx.dynamo.values import Digests
from gacfx.errors import PlanMismatch
from gacfx.graph.compat import source_text
from gacfx.graph.ops import dtype_text

_STEP = re.compile(r"\._(?:modules|parameters|buffers)\['([^']+)'\]")
_PATH = re.compile(rf"(.*?)((?:{_STEP.pattern})*\._(?:parameters|buffers)\['[^']+'\])")
"""A module, and the way from there to a tensor that a module below it holds."""


@dataclass(frozen=True, slots=True)
class Held:
    """An input that is a parameter or buffer."""

    at: int
    """Its place among the inputs."""
    base: str
    """The module that its path starts from, as Dynamo writes it: ``L['self']``."""
    path: str
    """``mlp.up_proj.weight``."""
    tensor: Tensor

    @property
    def module(self) -> str | None:
        """Path of the module that it is the weight of, empty for the base itself; None where it is
        something else.
        """
        path, _, leaf = self.path.rpartition(".")
        return path if leaf == "weight" else None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a base stands in the model that the plan was made for."""

    front: str = ""
    """Name of the base: ``model.layers.0``."""
    wrapped: str = ""
    """Modules around the model that the plan does not know: ``base_model.model``."""

    def name(self, path: str) -> str:
        """The name in the model of a path from the base."""
        if self.wrapped:
            return path.removeprefix(self.wrapped).removeprefix(".")
        return f"{self.front}.{path}".strip(".")

    @staticmethod
    def of(path: str, module: str) -> "Place | None":
        """The place that makes a path this module; None where neither ends like the other."""
        if path == module:
            return Place()
        if not path:
            return Place(front=module)
        if module.endswith(f".{path}"):
            return Place(front=module.removesuffix(f".{path}"))
        if path.endswith(f".{module}"):
            return Place(wrapped=path.removesuffix(f".{module}"))
        return None


@dataclass(frozen=True, eq=False)
class Names:
    """Names in the model of the inputs that it holds."""

    of: dict[int, str]
    """Place among the inputs -> name of the parameter or buffer."""
    places: dict[str, Place]

    def module(self, path: str) -> str:
        """Name of a module that Dynamo writes as ``L['self'].mlp``."""
        base = self._base(path)
        if base is None:
            return path
        return self.places[base].name(path.removeprefix(base).removeprefix("."))

    def around(self, path: str) -> list[str]:
        """The modules of the model around what was compiled, outermost first."""
        base = self._base(path)
        parts = self.places[base].front.split(".") if base is not None else []
        return [".".join(parts[: at + 1]) for at, part in enumerate(parts) if part.isdigit()]

    def _base(self, path: str) -> str | None:
        found = (b for b in self.places if path == b or path.startswith(f"{b}."))
        return next(found, None)


def held_inputs(gm: GraphModule, arguments: Sequence[Any]) -> list[Held]:
    """The inputs that the model holds, in their order."""
    placeholders = (node for node in gm.graph.nodes if node.op == "placeholder")
    found = []
    for at, (node, argument) in enumerate(zip(placeholders, arguments, strict=True)):
        path = _PATH.fullmatch(source_text(node.meta.get("grapharg")))
        if path is not None and isinstance(argument, Tensor):
            found.append(Held(at, path[1], ".".join(_STEP.findall(path[2])), argument))
    return found


def names_of(held: Sequence[Held], plan: Plan | None, digests: Digests) -> Names:
    """The name of each; those of the plan's model where there is a plan.

    Raises:
        PlanMismatch: a weight of the plan is here by its name, and its values are others.
    """
    places = {each.base: Place() for each in held}
    if plan is not None:
        places |= _places(held, plan, digests)
    names = {each.at: places[each.base].name(each.path) for each in held}
    twice = {name for name, count in Counter(names.values()).items() if count > 1}
    if twice:  # two models in one graph: nothing is known of the second one
        names = {at: f"{n}.input{at}" if n in twice else n for at, n in names.items()}
    elif plan is not None:
        _check_values(held, names, plan, digests)
    return Names(names, places)


def _places(held: Sequence[Held], plan: Plan, digests: Digests) -> dict[str, Place]:
    """Base -> the place that most of its weights vote for."""
    modules = defaultdict(list)
    for module, digest in plan.digests.items():
        modules[digest].append(module)
    votes: defaultdict[str, Counter[Place]] = defaultdict(Counter)
    for each, path in _planned_shapes(held, plan):
        for module in modules.get(digests.of(each.tensor), ()):
            place = Place.of(path, module)
            if place is not None:
                votes[each.base][place] += 1
    return {base: found.most_common(1)[0][0] for base, found in votes.items()}


def _planned_shapes(held: Sequence[Held], plan: Plan) -> Iterator[tuple[Held, str]]:
    """(weight that could be one of the plan, by its shape, path of its module)."""
    shapes = {tuple(sorted((w.rows, w.columns))) for w in plan.weights.values()}
    for each in held:
        path = each.module
        if path is not None and tuple(sorted(each.tensor.shape)) in shapes:
            yield each, path


def _check_values(
    held: Sequence[Held], names: Mapping[int, str], plan: Plan, digests: Digests
) -> None:
    for each in held:
        module = "" if each.module is None else names[each.at].removesuffix(".weight")
        wanted = plan.digests.get(module)
        if wanted is not None and digests.of(each.tensor) != wanted:
            sizes = " x ".join(map(str, each.tensor.shape))
            kind = f"{sizes}, {dtype_text(each.tensor.dtype)}"
            raise PlanMismatch(
                f"{module}: its weight ({kind}) is not what the factors were made of "
                f"({plan.weights[module].shape}, {plan.provenance.dtype}); compile the model that "
                "the plan was made for, or make a new plan"
            )
