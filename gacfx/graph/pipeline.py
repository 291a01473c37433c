"""Pipelines: passes in order, as text that prints back to itself.

    annotate-sites,predict-tiers{measured=false}

The order is checked before anything runs, and the error names the pass that would help.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import Field, dataclass, fields, replace
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

from torch.fx import GraphModule

from gacfx.errors import PipelineError
from gacfx.graph.gacpass import PASSES, GacPass
from gacfx.graph.notes import Fact, facts

_STEP = re.compile(r"(?P<name>[a-z][a-z0-9-]*)(?:\{(?P<options>[^{}]*)\})?(?:,\s*|$)")


def known_passes() -> dict[str, type[GacPass]]:
    """Every registered pass by name, our own included."""
    package = import_module("gacfx.passes")
    for found in walk_packages(package.__path__, "gacfx.passes."):
        import_module(found.name)
    return dict(sorted(PASSES.items()))


@dataclass(frozen=True)
class Pipeline:
    """Passes that run one after another."""

    passes: tuple[GacPass, ...]

    @staticmethod
    def parse(text: str) -> "Pipeline":
        """The pipeline written in ``text``.

        Raises:
            PipelineError: unreadable text, an unknown pass or option, or a bad value.
        """
        known, steps, at = known_passes(), list[GacPass](), 0
        text = text.strip()
        while at < len(text):
            hit = _STEP.match(text, at)
            if hit is None:
                raise PipelineError(f"cannot read the pipeline from {text[at : at + 30]!r} on")
            cls = known.get(hit["name"])
            if cls is None:
                raise PipelineError(f"no pass {hit['name']!r}; known: {', '.join(known)}")
            steps.append(cls(**_options(cls, hit["options"] or "")))
            at = hit.end()
        if not steps:
            raise PipelineError("the pipeline is empty; `gacfx passes` lists what there is")
        return Pipeline(tuple(steps))

    def bind(self, **values: Any) -> "Pipeline":
        """Fill fields by name in every pass that has them: ``bind(profile=h200, plan=plan)``.

        Raises:
            PipelineError: no pass of the pipeline has such a field.
        """
        steps = list(self.passes)
        for name, found in values.items():
            having = [i for i, step in enumerate(steps) if name in {f.name for f in fields(step)}]
            if not having:
                raise PipelineError(f"no pass in {self} takes {name!r}")
            for i in having:
                steps[i] = replace(steps[i], **{name: found})
        return Pipeline(tuple(steps))

    def check(self, have: Iterable[Fact] = ()) -> None:
        """Check that every pass finds the facts and the fields that it needs.

        Raises:
            PipelineError: naming the pass, what it lacks and which pass gives it.
        """
        held = frozenset(have)
        for step in self.passes:
            if missing := step.needs - held:
                givers = [n for n, c in known_passes().items() if c.gives & missing]
                raise PipelineError(
                    f"{step.name} needs {', '.join(sorted(missing))}, "
                    f"given by: {', '.join(givers) or 'no pass'}"
                )
            step.check_bound()
            held = (held - step.drops) | step.gives

    def run(self, gm: GraphModule, *, watch: Callable[[GacPass], None] | None = None) -> bool:
        """Run every pass on ``gm`` in place and say whether the graph changed.

        Args:
            gm: the graph; changed in place by rewrites.
            watch: called with each pass before it runs, for progress.
        """
        self.check(facts(gm))
        changed = False
        for step in self.passes:
            if watch is not None:
                watch(step)
            changed |= step(gm).modified
        return changed

    def __str__(self) -> str:
        return ",".join(map(str, self.passes))


def _options(cls: type[GacPass], text: str) -> dict[str, Any]:
    known = {f.name.replace("_", "-"): f for f in fields(cls) if not f.metadata.get("given")}
    options: dict[str, Any] = {}
    for item in text.split():
        key, _, written = item.partition("=")
        if key not in known:
            have = ", ".join(known) or "none"
            raise PipelineError(f"{cls.name} has no option {key!r}; it has: {have}")
        if known[key].name in options:
            raise PipelineError(f"{cls.name}: {key} is given twice")
        options[known[key].name] = _convert(cls.name, known[key], written)
    return options


def _convert(owner: str, option: Field[Any], text: str) -> object:
    kind = option.type if isinstance(option.type, str) else getattr(option.type, "__name__", "")
    readers: dict[str, Callable[[str], object]] = {
        "bool": lambda t: {"true": True, "false": False}[t],
        "int": int,
        "float": float,
        "str": str,
        "tuple": lambda t: tuple(t.split(";")) if t else (),
    }
    try:
        return readers[kind.split("[")[0]](text)
    except (KeyError, ValueError) as error:
        raise PipelineError(f"{owner}: {option.name}={text!r} is not a {kind}") from error
