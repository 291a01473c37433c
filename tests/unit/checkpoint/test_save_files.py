"""save_checkpoint and the file system: full disks, two writers, links."""

import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch

from gacfx.checkpoint import save
from gacfx.checkpoint.card import model_card
from gacfx.checkpoint.checksums import verify_checksums
from gacfx.checkpoint.load import load_checkpoint
from gacfx.errors import CheckpointError
from gacfx.modules.install import install_
from tests.unit.checkpoint.tiny_models import factors_for, llama, plan_for

Write = Callable[[Path, bool], Path]


def writer(mark: float = 0.0) -> Write:
    """Writes a small checkpoint whose last norm holds ``mark``."""
    torch.manual_seed(0)
    model = llama()
    factors = factors_for(model, ("q_proj",))
    plan = plan_for(model, factors)
    install_(model, factors)
    with torch.no_grad():
        model.get_parameter("model.norm.weight").fill_(mark)
    return lambda out, overwrite: save.save_checkpoint(
        model, None, out, plan=plan, factors=factors, overwrite=overwrite
    )


def mark_of(folder: Path) -> float:
    assert verify_checksums(folder).whole
    return float(load_checkpoint(folder).get_parameter("model.norm.weight").detach()[0])


@pytest.mark.parametrize("most_bytes", [200, 8000, 60000], ids=["config", "factors", "weights"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, most_bytes: int) -> None:
    write = writer()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        with pytest.raises(CheckpointError, match="out: cannot be written: .*oo large") as caught:
            write(tmp_path / "deep" / "er" / "out", False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("overwrite", [False, True])
def test_of_two_writers_one_wins_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    writers = [writer(1.0), writer(2.0)]
    together = Barrier(2)

    def both_are_writing(*arguments: object) -> str:
        together.wait(30)
        return model_card(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(save, "model_card", both_are_writing)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(write, tmp_path / "out", overwrite) for write in writers]
        errors = [run.exception() for run in runs]
    if overwrite:
        assert errors == [None, None]
        assert mark_of(tmp_path / "out") in (1.0, 2.0)
    else:
        (lost,) = (error for error in errors if error is not None)
        assert isinstance(lost, CheckpointError) and "exists, another writer" in str(lost)
        assert mark_of(tmp_path / "out") == 1.0 + errors.index(None)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="out: is a link that leads nowhere"):
        writer()(tmp_path / "out", True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
