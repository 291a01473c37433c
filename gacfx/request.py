"""A request: all that a compression is asked for beside the model and its text, as one value.

    gacfx.compress(model, tokenizer, calibration=texts, ratio=0.2, gpu="h200")
    gacfx.compress(model, tokenizer, calibration=texts, request=Request(goal=Goal(ratio=0.2)))

Everything in it is checked when it is made: before a model is read or a text tokenized.
"""

from dataclasses import dataclass, fields
from typing import TypedDict

from gacfx.calibration.text import token_limit
from gacfx.compressors.methods import METHODS
from gacfx.compressors.values import TRIED
from gacfx.core.asked import check_asked
from gacfx.core.defaults import GPU, METHOD, RATIO
from gacfx.core.goal import Goal, as_goal
from gacfx.core.own_sizes import Sizes, sizes_search
from gacfx.core.rise import MAX_LOSS_NATS
from gacfx.core.search import DEFAULT_SEARCH, Search
from gacfx.core.sites import Workload
from gacfx.corrections import check_in_nats
from gacfx.errors import PlanError
from gacfx.hardware.profile import Profile, load_profile
from gacfx.knapsack import kept_budget
from gacfx.passes.planning.limiting import limiting_passes
from gacfx.passes.planning.measure_curves import check_method
from gacfx.passes.planning.measure_structures import check_value


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of a plan or a compression.

    Raises:
        PlanError, PipelineError, PassError: a value out of its range, or names that are not known.
        ProfileError: no such profile.
        CalibrationError: a number of tokens that is none, or too few for a window.
    """

    goal: Goal = Goal(ratio=RATIO)
    """How much may remain; 20 % of the targeted weights are removed if nothing is said."""
    method: str = METHOD
    """Compressor whose factors are taken; ``gacfx methods`` lists them."""
    gpu: str | Profile = GPU
    """Profile whose alignment the sizes follow: its name, a file, or itself."""
    search: Search = DEFAULT_SEARCH
    """Which sizes, what they are worth, limits, and who chooses."""
    sizes: Sizes = "planned"
    """``own``: those that the method chooses by itself, which nothing aligns and nobody searches;
    ``search`` is then that of such sizes."""
    workload: Workload | None = None
    """Of the forecast in the summary; prefill of 1024 tokens if None."""
    skip: tuple[str, ...] = ()
    """Patterns of module names to leave dense."""
    seed: int = 0
    """Of the sampled labels."""
    calibration_tokens: int | str | None = None
    """Tokens to use, at most: a number, ``500k`` or ``all``; if None as many as 256 windows of
    min(2048, the model's positions) tokens have."""
    max_loss: float = MAX_LOSS_NATS
    """Most nats per token that the loss may rise on held-back text."""
    force: bool = False
    """Go on whatever the losses are."""

    def __post_init__(self) -> None:
        check_asked(
            search=self.search,
            workload=self.workload,
            skip=self.skip,
            seed=self.seed,
            max_loss=self.max_loss,
            force=self.force,
        )
        if not isinstance(self.goal, Goal):
            raise PlanError(f"goal {self.goal!r}: give gacfx.Goal(...), or a ratio")
        token_limit(self.calibration_tokens, window=1)
        method = METHODS.find(self.method)
        found = sizes_search(self.sizes, self.search, method=method.name, prunes=method.prunes)
        object.__setattr__(self, "search", found)
        check_request(self.method, self.goal, self.search)
        object.__setattr__(self, "method", method.name)
        object.__setattr__(self, "skip", tuple(self.skip))
        object.__setattr__(self, "gpu", load_profile(self.gpu))
        object.__setattr__(self, "workload", self.workload or Workload())

    @property
    def profile(self) -> Profile:
        """The profile behind ``gpu``."""
        assert isinstance(self.gpu, Profile)
        return self.gpu

    @property
    def run(self) -> Workload:
        """The workload of the forecast."""
        assert self.workload is not None
        return self.workload

    @staticmethod
    def of(request: "Request | None", asked: "Asked") -> "Request":
        """The request, or the one that single arguments make.

        Raises:
            PlanError: both are given, or something else than a request.
            TypeError: an argument that there is not.
        """
        if request is None:
            ratio, goal = asked.get("ratio"), asked.get("goal")
            rest = {name: found for name, found in asked.items() if name not in ("ratio", "goal")}
            return Request(goal=as_goal(ratio, goal), **rest)  # type: ignore[arg-type]
        if not isinstance(request, Request):
            raise PlanError(f"request {request!r}: give a gacfx.Request, or its fields by name")
        if asked:
            raise PlanError(f"request and {', '.join(asked)} are both given; give one")
        return request


class Asked(TypedDict, total=False):
    """The fields of a request as arguments of a door, and a ratio in place of a goal."""

    ratio: float | str | None
    goal: Goal | None
    method: str
    gpu: str | Profile
    search: Search
    sizes: Sizes
    workload: Workload | None
    skip: tuple[str, ...]
    seed: int
    calibration_tokens: int | str | None
    max_loss: float
    force: bool


FIELDS = tuple(each.name for each in fields(Request))
"""Names of what can be asked for."""


def check_request(method: str, goal: Goal | str | float, search: Search = DEFAULT_SEARCH) -> None:
    """Refuse what can be refused before any work.

    Raises:
        PipelineError: no such method or value model, a form or pruning that the method cannot make
            or the value model cannot count, or a bad pass or option in the limits.
        PlanError: a ratio outside [0, 1), corrections of losses that are not in nats.
        PassError: a bad option of a latency limit.
    """
    value = TRIED[0] if search.value == "auto" else search.value
    check_method(method, value, search)
    if search.prune != "none":
        check_value(method, value)
    check_in_nats(search)
    if (ratio := as_goal(goal).ratio) is not None:
        kept_budget(0, ratio)
    limiting_passes(search.limits)
