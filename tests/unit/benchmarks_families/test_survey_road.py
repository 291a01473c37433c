"""The road of one family: every step told, nothing skipped in silence."""

from multiprocessing import Pipe
from pathlib import Path

import pytest

from benchmarks.families import road
from benchmarks.families.models import Family, families
from benchmarks.families.page import REFUSED, UNBUILT, WHOLE, kind, reason, verdict
from benchmarks.families.road import ROAD, Step, take, travel
from benchmarks.families.survey import LATE, hear, row_of
from gacfx.errors import CaptureError, PassError

NONSENSE = Family("nonsense", "no_such_type", "NoSuchForCausalLM")


def steps_of(family: Family, folder: Path) -> list[Step]:
    told: list[str | Step] = []
    travel(family, folder, told.append)
    steps = [each for each in told if isinstance(each, Step)]
    assert [each for each in told if isinstance(each, str)] == [step.name for step in steps]
    return steps


def test_a_model_that_can_everything_goes_the_whole_road(tmp_path: Path) -> None:
    steps = steps_of(families()["gpt2"], tmp_path)
    row = row_of(families()["gpt2"], steps)
    assert verdict(row) == WHOLE and reason(row) == ""
    assert [step.name for step in steps] == [name for name, _, _ in ROAD if name != "as built"]
    facts = {step.name: step.facts for step in steps}
    assert facts["inspect"]["unseen_flops"] == 0.0 and facts["dims"]["may_be_pruned"] == 4
    assert facts["heads"]["decisions"] == {"dense": 4, "heads": 2}
    assert facts["prune"]["menu"] == "only" and facts["prune"]["decisions"]["width"] == 2


def test_a_type_that_cannot_be_built_is_reported(tmp_path: Path) -> None:
    (step,) = steps_of(NONSENSE, tmp_path)
    assert (step.name, step.outcome) == ("build", "upstream")
    row = row_of(NONSENSE, [step])
    assert verdict(row) == UNBUILT and "NoSuchForCausalLM" in reason(row)


def test_a_refusal_is_told_from_a_fault() -> None:
    def refuse() -> road.Facts:
        raise CaptureError("model.layers.7: too 512 wide:\nand more\nand more")

    def fail() -> road.Facts:
        raise KeyError("x")

    refused, fault = take("capture", refuse), take("capture", fail)
    assert (refused.outcome, fault.outcome) == ("refused", "fault")
    assert refused.error == "CaptureError: model.layers.7: too 512 wide: and more"
    row = row_of(NONSENSE, [Step("build", "passed", 0.1), refused])
    assert verdict(row) == REFUSED
    assert kind(row) == ("capture", "refused", "CaptureError: WEIGHT: too N wide: and more")


def test_a_pass_that_wraps_an_exception_is_a_fault() -> None:
    def wrap() -> road.Facts:
        try:
            raise TypeError("object of type 'float' has no len()")
        except TypeError as error:
            raise PassError("couple-dims: TypeError: object of type 'float' ...") from error

    def refuse() -> road.Facts:
        raise PassError("check-budget: 7 parameters too many")

    assert [take("dims", each).outcome for each in (wrap, refuse)] == ["fault", "refused"]


def test_the_place_of_an_error_is_the_innermost_line_of_the_package() -> None:
    def fail() -> road.Facts:
        from gacfx.errors import GacError
        from gacfx.graph.pipeline import Pipeline

        try:
            Pipeline.parse("no-such-pass")
        except GacError as error:
            raise CaptureError("made of another") from error
        return {}

    assert take("inspect", fail).where.startswith("gacfx/graph/")


@pytest.mark.parametrize(("code", "says"), [(None, LATE), (-9, "died with -9"), (-24, LATE)])
def test_a_process_that_ends_too_early_is_a_fault_of_the_step_it_was_at(
    code: int | None, says: str
) -> None:
    class Dead:
        exitcode = code

        def join(self) -> None: ...

    ours, theirs = Pipe(duplex=False)
    done = Step("build", "passed", 0.1)
    for told in ("build", done, "capture"):
        theirs.send(told)
    if code is not None:
        theirs.close()
    first, last = hear(ours, Dead(), 0.2)
    assert first == done
    assert (last.name, last.outcome) == ("capture", "fault") and says in last.error
