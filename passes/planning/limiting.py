"""Which passes may stand among the limits of a search: those that look at candidates.

They run between sweep-candidates and solve, so a pass that plans, rewrites or verifies is out of
place there, and says so before any work is done.
"""

from gacfx.errors import PipelineError
from gacfx.graph.gacpass import GacPass
from gacfx.graph.notes import Fact
from gacfx.graph.pipeline import Pipeline, known_passes
from gacfx.passes.planning.limit_latency import LimitLatency


def check_limits(steps: tuple[str, ...]) -> None:
    """Refuse what can be refused before any work.

    Args:
        steps: passes with their options, as text: ``limit-latency{share=0.9}``.

    Raises:
        PipelineError: unreadable text, an unknown pass or option, or a pass of another kind.
        PassError: a bad option of a latency limit.
    """
    for text in steps:
        for step in _read(text):
            if not _fits(type(step)):
                raise PipelineError(
                    f"limit {text!r}: {step.name} does not look at candidates; {_known()}"
                )
            if isinstance(step, LimitLatency):
                step.workload()


def _read(text: str) -> tuple[GacPass, ...]:
    name = text.partition("{")[0].strip()
    if name.replace("-", "").isalnum() and name not in known_passes():
        raise PipelineError(f"limit {text!r}: no pass {name!r}; {_known()}")
    try:
        return Pipeline.parse(text).passes
    except PipelineError as error:
        raise PipelineError(
            f"limit {text!r}: {error}; write NAME or NAME{{OPTION=VALUE OPTION=VALUE}}"
        ) from error


def _fits(step: type[GacPass]) -> bool:
    return Fact.CANDIDATES in step.needs and Fact.PLAN not in step.gives


def _known() -> str:
    names = ", ".join(name for name, step in known_passes().items() if _fits(step))
    return f"passes for limits and rules: {names}, and your own after they were imported"
