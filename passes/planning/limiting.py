"""The limits of a search, as passes: text -> passes that look at candidates.

They stand between sweep-candidates and solve, so a pass that plans, rewrites or verifies is out of
place there, and says so before any work is done.
"""

from dataclasses import replace

from gacfx.errors import PipelineError
from gacfx.graph.limiting import LimitingPass
from gacfx.graph.pipeline import Pipeline, known_passes
from gacfx.hardware.profile import Profile


def limiting_passes(steps: tuple[str, ...]) -> tuple[LimitingPass, ...]:
    """The passes that a search names.

    Args:
        steps: passes with their options, as text: ``limit-latency{share=0.9}``.

    Raises:
        PipelineError: unreadable text, an unknown pass or option, or a pass of another kind.
        PassError: a bad option.
    """
    return tuple(step for text in steps for step in _read(text))


def bound_to(steps: tuple[LimitingPass, ...], profile: Profile | None) -> tuple[LimitingPass, ...]:
    """The passes, with the profile given to those that need one."""
    return tuple(
        replace(step, profile=profile) if "profile" in step.required else step  # type: ignore[call-arg]
        for step in steps
    )


def _read(text: str) -> tuple[LimitingPass, ...]:
    name = text.partition("{")[0].strip()
    if name.replace("-", "").isalnum() and name not in known_passes():
        raise PipelineError(f"limit {text!r}: no pass {name!r}; {_known()}")
    try:
        steps = Pipeline.parse(text).passes
    except PipelineError as error:
        raise PipelineError(
            f"limit {text!r}: {error}; write NAME or NAME{{OPTION=VALUE OPTION=VALUE}}"
        ) from error
    found = []
    for step in steps:
        if not isinstance(step, LimitingPass):
            raise PipelineError(
                f"limit {text!r}: {step.name} does not look at candidates; {_known()}"
            )
        step.check()
        found.append(step)
    return tuple(found)


def _known() -> str:
    known = known_passes().items()
    names = ", ".join(name for name, step in known if issubclass(step, LimitingPass))
    return f"passes for limits and rules: {names}, and your own after they were imported"
