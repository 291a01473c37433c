"""A work folder that may take only so much: what does not fit is made again, or refused."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from gacfx import api
from gacfx.calibration.cost import calibration_bytes, moment_bytes
from gacfx.cli import main
from gacfx.core.planned import Planned
from gacfx.core.work_folder import WorkFolder
from gacfx.errors import CalibrationError, CheckpointError, PlanError
from gacfx.work import Work
from tests import tiny
from tests.few import few

TEXT = tiny.texts()
JOURNAL_BYTES = 20_000
"""It grows, and nobody counts it."""
ASKED: dict[str, Any] = {"calibration": TEXT, "force": True}


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def kept(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("gfwsvd.*.safetensors")]


def test_a_plan_is_the_same_with_and_without_room_for_decompositions(tmp_path: Path) -> None:
    made = {}
    for name, disk in (("wide", None), ("narrow", "1.4MB")):
        made[name] = api.plan(
            tiny.llama(),
            tiny.tokenizer(),
            calibration=TEXT,
            ratio="0.2",
            force=True,
            work=Work(tmp_path / name, disk=disk),
        )
    wide, narrow = made["wide"], made["narrow"]
    assert wide.plan.to_json() == narrow.plan.to_json()
    for module, factors in wide.factors.items():
        other = narrow.factors[module].tensors
        assert all((each == other[key]).all() for key, each in factors.tensors.items())
    assert len(kept(tmp_path / "narrow")) < len(kept(tmp_path / "wide"))
    assert size(tmp_path / "narrow") <= 1_400_000


def narrow(work: Path, **more: Any) -> Planned:
    given = {**ASKED, "ratio": "0.2", **more}
    return api.plan(tiny.llama(), tiny.tokenizer(), **given, work=Work(work, disk="1.4MB"))


def test_a_folder_that_is_full_is_opened_again(tmp_path: Path) -> None:
    first = narrow(tmp_path)
    assert kept(tmp_path)
    assert narrow(tmp_path).plan.to_json() == first.plan.to_json()
    assert narrow(tmp_path, ratio="0.3").plan.choices != first.plan.choices
    assert size(tmp_path) <= 1_400_000


@pytest.mark.parametrize(
    "last", few(["hidden.2.0", "grads.1.0", "moments.1", "moments.0"], "grads.1.0", "moments.0")
)
def test_calibration_that_was_stopped_goes_on_in_the_same_room(
    last: str, least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = WorkFolder.put

    def stops(self: WorkFolder, name: str, tensors: dict[str, Tensor]) -> None:
        put(self, name, tensors)
        if name == last:
            raise KeyboardInterrupt

    def calibrated() -> None:
        work = Work(tmp_path / "work", disk=least + JOURNAL_BYTES)
        api.calibrate(tiny.llama(), tiny.tokenizer(), **ASKED, work=work).close()

    with monkeypatch.context() as patch:
        patch.setattr(WorkFolder, "put", stops)
        with pytest.raises(KeyboardInterrupt):
            calibrated()
    calibrated()


@pytest.fixture(scope="module")
def least(tmp_path_factory: pytest.TempPathFactory) -> int:
    """The least that calibration is allowed with, to 8000 bytes."""
    refused, allowed = 0, 2_000_000
    while allowed - refused > 8000:
        disk = (refused + allowed) // 2
        work = Work(tmp_path_factory.mktemp("least"), disk=disk)
        try:
            api.calibrate(tiny.llama(), tiny.tokenizer(), **ASKED, work=work).close()
            allowed = disk
        except CheckpointError:
            refused = disk
    return allowed


def test_calibration_that_does_not_fit_is_refused_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"room for 0\.0 MB more, and calibration takes \d"):
        api.calibrate(
            tiny.llama(),
            tiny.tokenizer(),
            calibration=TEXT,
            work=Work(tmp_path / "work", disk=50_000),
        )
    assert not [*(tmp_path / "work").glob("hidden.*")]


@pytest.mark.parametrize("disk", ["60 elephants", "", 0, -1, "1e-9GB"])
def test_a_size_that_is_none_is_refused(disk: str | int) -> None:
    with pytest.raises(PlanError, match="bytes"):
        Work("work", disk=disk)


@pytest.mark.parametrize(
    ("device", "says"),
    [("cuda:99", "cannot be used here"), ("toaster", "cannot be used"), ("meta", "nothing")],
)
def test_a_device_that_is_not_there_is_refused_in_one_line(device: str, says: str) -> None:
    with pytest.raises(CalibrationError, match=f"^device {device}: .*{says}") as caught:
        Work("work", device=device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", [{"disk": "1GB"}, {"device": "cpu"}])
def test_they_need_a_folder(asked: dict[str, str]) -> None:
    with pytest.raises(CalibrationError, match="needs a work folder"):
        Work(**asked)  # type: ignore[arg-type]


def test_a_plan_is_the_same_on_a_device_of_its_own(tmp_path: Path) -> None:
    made = [
        api.plan(
            tiny.llama(),
            tiny.tokenizer(),
            calibration=TEXT,
            force=True,
            work=Work(tmp_path / str(device), device=device),
        ).plan.to_json()
        for device in (None, "cpu")
    ]
    assert made[0] == made[1]


@pytest.mark.parametrize("option", [("--disk", "1GB"), ("--device", "cpu")])
def test_the_command_line_needs_a_folder_for_them(
    option: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(TEXT), encoding="utf-8")
    assert main(["plan", "model", "--calibration", str(text), *option]) == 2
    assert f"{option[0]} goes with the folder of --work" in capsys.readouterr().err


def test_the_estimate_is_what_the_folder_takes(tmp_path: Path) -> None:
    work, model = tmp_path / "work", tiny.llama()
    made = api.calibrate(model, tiny.tokenizer(), calibration=TEXT, force=True, work=work)
    with closing(made) as study:
        moments = study.full.statistics.moments
        shapes = [(*moments[name].shape, False) for name in moments]
        told = 2 * moment_bytes(shapes)
        files = sum(path.stat().st_size for path in work.glob("moments.*"))
        # q, k and v share their inputs, as do gate and up; headers are a few kilobytes each.
        assert 0.8 * told < files < told + 2**14 * len(model.model.layers)


def test_on_the_way_up_hidden_states_pile_up() -> None:
    layers = [[(4, 8, False)]] * 3
    moments = moment_bytes(layers[0])
    assert moments == 8 * (2 * 10 + 3 * 8)
    assert calibration_bytes(layers, 2, 1000, 4, 2) == 5 * 8000 + 2 * moments
    assert calibration_bytes(layers, 2, 0, 4, 2) == 3 * 2 * moments
