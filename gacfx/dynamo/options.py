"""What may be asked of the backend: ``torch.compile(model, backend="gacfx", options={...})``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gacfx.core.defaults import GPU
from gacfx.core.planned import Planned
from gacfx.errors import PipelineError, PlanError
from gacfx.hardware.profile import Profile, load_profile

Inner = Callable[..., Any]
"""A backend of torch.compile: (graph module, example inputs) -> callable."""


@dataclass(frozen=True, eq=False)
class Options:
    """Options of the backend, as a user writes them."""

    plan: "Planned | str | Path | None" = None
    """What ``gacfx.plan`` returns, or a folder that it was saved in; None only looks."""
    inner: str | Inner = "inductor"
    """Who compiles the graph in the end: the name of a backend, or a backend."""
    report: str | Path | None = None
    """A .json file that is written anew after each compilation."""
    gpu: str | Profile = GPU
    """Whose tiers the report shows."""
    partial: bool = False
    """Graphs may have some of the plan's weights only: after a graph break, for example."""

    @staticmethod
    def of(asked: Mapping[str, Any] | None) -> "Options":
        """Options by name, each checked.

        Raises:
            PipelineError: an option that there is not, or a value that it cannot have.
            PlanError: the plan is none.
            CheckpointError, ProfileError: the plan's folder, or the profile, cannot be read.
        """
        known = {field.name for field in fields(Options)}
        asked = dict(asked or {})
        for name in asked:
            if name not in known:
                raise PipelineError(
                    f"backend gacfx has no option {name!r}; it has: {', '.join(sorted(known))}"
                )
        if not isinstance(partial := asked.get("partial", False), bool):
            raise PipelineError(f"partial={partial!r} is neither True nor False")
        made = Options(**asked)
        made.check()
        return made

    def check(self) -> None:
        """As :meth:`of`, for values that were given by name."""
        inner(self.inner)
        if self.report is not None and Path(self.report).suffix != ".json":
            raise PipelineError(f"report={str(self.report)!r}: give the path of a .json file")
        load_profile(self.gpu)

    def planned(self) -> Planned | None:
        """The plan with its factors, read where a folder was given.

        Raises:
            PlanError, CheckpointError: it is no plan, or cannot be read.
        """
        asked: object = self.plan
        if asked is None or isinstance(asked, Planned):
            return asked
        if isinstance(asked, str | Path):
            return Planned.load(asked)
        inner = isinstance(getattr(asked, "planned", None), Planned)
        remedy = "give its .planned" if inner else "give what gacfx.plan returns, or its folder"
        raise PlanError(f"plan={type(asked).__name__} is no plan with factors; {remedy}")


def inner(asked: str | Inner) -> Inner:
    """The inner backend.

    Raises:
        PipelineError: there is none of this name.
    """
    if callable(asked):
        return asked
    from torch._dynamo import list_backends, lookup_backend

    if not isinstance(asked, str) or asked == "gacfx":
        raise PipelineError(f"inner={asked!r} is no backend that gacfx could hand its graphs to")
    try:
        found: Inner = lookup_backend(asked)
    except Exception as error:  # a backend of another package may raise anything on import
        names = ", ".join(list_backends())
        raise PipelineError(
            f"inner={asked!r}: torch.compile has no such backend ({type(error).__name__}); it has: "
            f"{names}"
        ) from error
    return found
