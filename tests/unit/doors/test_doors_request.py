"""A request: what cannot be is refused in one line, before a model or a text is looked at."""

import inspect
import typing
from dataclasses import fields
from typing import Any

import pytest
from torch import nn

import gacfx
from gacfx import api
from gacfx.core.goal import Goal
from gacfx.core.search import Search
from gacfx.core.sites import Workload
from gacfx.errors import (
    CalibrationError,
    GacError,
    PassError,
    PipelineError,
    PlanError,
    ProfileError,
)
from gacfx.hardware.profile import load_profile
from gacfx.request import FIELDS, Asked, Request

BAD: list[tuple[dict[str, Any], type[GacError], str]] = [
    ({"method": "magic"}, PipelineError, "no method 'magic'; known: .*gfwsvd"),
    ({"method": ""}, PipelineError, "no method ''; known: "),
    ({"method": None}, PipelineError, "no method None; known: "),
    ({"gpu": "h2000"}, ProfileError, "no profile 'h2000'"),
    ({"gpu": 3}, ProfileError, "gpu 3: give a name such as h200"),
    ({"search": "paper"}, PlanError, "search 'paper': give gacfx.Search"),
    ({"search": None}, PlanError, "search None: give gacfx.Search"),
    ({"search": Search(value="magic")}, PipelineError, "no value model 'magic'; known: "),
    ({"search": Search(limits=("magic",))}, PipelineError, "limit 'magic': no pass 'magic'"),
    ({"search": Search(limits=("solve",))}, PipelineError, "limit 'solve': solve does not look at"),
    ({"search": Search(limits=("limit-latency{share=0}",))}, PassError, "limit-latency: share 0"),
    ({"skip": "*.q_proj"}, PlanError, "skip '.*': give a tuple of patterns"),
    ({"skip": (3,)}, PlanError, "skip .*: give a tuple of patterns"),
    ({"skip": None}, PlanError, "skip None: give a tuple of patterns"),
    ({"seed": 1.0}, PlanError, "seed 1.0: give a whole number"),
    ({"seed": True}, PlanError, "seed True: give a whole number"),
    ({"seed": None}, PlanError, "seed None: give a whole number"),
    (
        {"calibration_tokens": "half"},
        CalibrationError,
        "tokens 'half': not a number such as 500k or all",
    ),
    ({"calibration_tokens": 0}, CalibrationError, "tokens 0: must be at least 1"),
    ({"calibration_tokens": 32}, CalibrationError, "tokens 32: one window has at least 33"),
    ({"calibration_tokens": -1}, CalibrationError, "tokens '?-1"),
    ({"calibration_tokens": 1.5}, CalibrationError, "tokens 1.5: give a whole number or text"),
    ({"calibration_tokens": True}, CalibrationError, "tokens True: give a whole number or text"),
    ({"calibration_tokens": ""}, CalibrationError, "tokens '': not a number"),
    (
        {"calibration_tokens": [500]},
        CalibrationError,
        r"tokens \[500\]: give a whole number or text",
    ),
    ({"force": 1}, PlanError, "force 1: give True or False"),
    ({"force": None}, PlanError, "force None: give True or False"),
]
"""Fields of plan and compress alike."""
BAD_GOALS: list[tuple[dict[str, Any], type[GacError], str]] = [
    ({"ratio": 1}, PlanError, "ratio 1"),
    ({"ratio": -0.1}, PlanError, "ratio -0.1"),
    ({"ratio": "half"}, PlanError, "ratio 'half': not a number"),
    ({"ratio": float("nan")}, PlanError, "ratio 'nan': not a number"),
    ({"ratio": float("inf")}, PlanError, "ratio 'inf': not a number"),
    ({"ratio": "1/0"}, PlanError, "ratio '1/0': not a number"),
    ({"ratio": True}, PlanError, "ratio is a bool; give the share removed"),
    ({"ratio": [0.2]}, PlanError, "ratio "),
    ({"ratio": 0.2, "goal": Goal(params=3)}, PlanError, "ratio 0.2 and Goal.* are both given"),
    ({"goal": 0.2}, PlanError, "goal 0.2: give gacfx.Goal"),
    ({"goal": "6.5G"}, PlanError, "goal '6.5G': give gacfx.Goal"),
]
JUDGED: list[tuple[dict[str, Any], type[GacError], str]] = [
    ({"workload": "decode"}, PlanError, "workload 'decode': give gacfx.Workload"),
    ({"workload": (1, 1024)}, PlanError, "workload .*: give gacfx.Workload"),
    ({"max_loss": "1"}, PlanError, "max_loss '1': give nats per token"),
    ({"max_loss": float("nan")}, PlanError, "max_loss nan: give nats per token"),
    ({"max_loss": None}, PlanError, "max_loss None: give nats per token"),
    ({"max_loss": True}, PlanError, "max_loss True: give nats per token"),
]
"""Fields that a plan alone has no use for."""


class Unread(nn.Module):
    """A model that must not be looked at: it has parameters, and that is all that may be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter()

    def __getattr__(self, name: str) -> Any:
        if name in ("_orig_mod", "weight", "model"):
            return super().__getattr__(name)
        raise RuntimeError(f"the model was read: {name}")


@pytest.mark.parametrize(("asked", "error", "message"), [*BAD, *JUDGED], ids=str)
def test_a_field_out_of_its_range_makes_no_request(
    asked: dict[str, Any], error: type[GacError], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}") as caught:
        Request(**asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("goal", [None, 0.2, "0.2", {"ratio": 0.2}], ids=str)
def test_a_request_has_a_goal(goal: Any) -> None:
    with pytest.raises(PlanError, match=r"^goal .*: give gacfx.Goal\(...\)"):
        Request(goal=goal)


@pytest.mark.parametrize(("asked", "error", "message"), [*BAD, *BAD_GOALS], ids=str)
@pytest.mark.parametrize("door", [gacfx.plan, gacfx.compress])
def test_doors_refuse_it_before_any_work(
    door: Any, asked: dict[str, Any], error: type[GacError], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}") as caught:
        door(Unread(), calibration=["unread"], **asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("asked", "error", "message"), JUDGED, ids=str)
def test_compress_refuses_what_it_would_judge_by(
    asked: dict[str, Any], error: type[GacError], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        gacfx.compress(Unread(), calibration=["unread"], **asked)


@pytest.mark.parametrize("asked", [{"workload": Workload()}, {"max_loss": 1.0}], ids=str)
def test_a_plan_alone_is_not_judged(asked: dict[str, Any]) -> None:
    (name,) = asked
    with pytest.raises(
        PlanError, match=f"^{name}: a plan alone is not judged; give it to gacfx.co"
    ):
        gacfx.plan(Unread(), calibration=["unread"], **asked)


@pytest.mark.parametrize("door", [gacfx.plan, gacfx.compress])
def test_a_request_and_its_fields_are_not_both_given(door: Any) -> None:
    for more, names in (({"seed": 3}, "seed"), ({"ratio": 0.2, "gpu": "h200"}, "ratio, gpu")):
        with pytest.raises(PlanError, match=f"^request and {names} are both given; give one$"):
            door(Unread(), calibration=["unread"], request=Request(), **more)


@pytest.mark.parametrize("door", [gacfx.plan, gacfx.compress])
@pytest.mark.parametrize("odd", [{"ratio": 0.2}, 0.2, "request", Goal(ratio=0.2), Request], ids=str)
def test_something_else_is_no_request(door: Any, odd: Any) -> None:
    with pytest.raises(
        PlanError, match="^request .*: give a gacfx.Request, or its fields by name$"
    ):
        door(Unread(), calibration=["unread"], request=odd)


@pytest.mark.parametrize("door", [gacfx.plan, gacfx.compress])
def test_an_argument_that_there_is_not_is_no_argument(door: Any) -> None:
    with pytest.raises(TypeError, match="colour"):
        door(Unread(), calibration=["unread"], colour="blue")


def test_doors_and_request_name_the_same_fields() -> None:
    assert {*typing.get_type_hints(Asked)} == {*FIELDS, "ratio"}
    assert tuple(each.name for each in fields(Request)) == FIELDS
    for door in (api.plan, api.compress):
        taken = inspect.signature(door).parameters
        assert taken["asked"].kind is inspect.Parameter.VAR_KEYWORD
        assert not {*taken} & {*FIELDS}
    for name, hint in typing.get_type_hints(Request).items():
        # The goal may be left out there, and the rest is the same type.
        wanted = hint | None if name == "goal" else hint
        assert typing.get_type_hints(Asked)[name] in (hint, wanted, Workload)


def test_what_is_not_said_has_the_defaults() -> None:
    request = Request()
    assert request == Request.of(None, {}) == Request(goal=Goal(ratio="0.2"), gpu="h200")
    assert (request.profile, request.run) == (load_profile("h200"), Workload())
    assert request.search == Search()
    assert Request.of(None, {"ratio": None, "goal": None}) == request
    assert Request.of(request, {}) is request


def test_fields_are_kept_as_they_were_given() -> None:
    run, search = Workload(4, 256, "decode"), Search(align=16)
    asked: Asked = {
        "ratio": "0.3",
        "workload": run,
        "search": search,
        "skip": ["*.a"],  # type: ignore[typeddict-item]
        "seed": -7,
        "max_loss": float("inf"),
        "gpu": load_profile("a100"),
    }
    request = Request.of(None, asked)
    assert (request.goal, request.run, request.search) == (Goal(ratio="0.3"), run, search)
    assert (request.skip, request.seed, request.profile.name) == (("*.a",), -7, "a100")
    with pytest.raises(AttributeError):
        request.seed = 3  # type: ignore[misc]
    assert Request(seed=3) == Request(seed=3) != Request(seed=4)
