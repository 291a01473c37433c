"""Running a model: small ones on one thread, and afterwards as many threads as before."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from gacfx.calibration import running
from gacfx.calibration.running import few_threads


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_a_small_model_on_a_cpu_runs_on_one_thread_even_if_it_fails() -> None:
    with few_threads(nn.Linear(2, 2)):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), few_threads(nn.Linear(2, 2)):
        raise KeyError
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_large_models_and_those_elsewhere_keep_their_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with few_threads(nn.Linear(2, 2, device="meta")):
        assert torch.get_num_threads() == 2
    monkeypatch.setattr(running, "SMALL_PARAMS", 6)
    with few_threads(nn.Linear(2, 2)):
        assert torch.get_num_threads() == 2
    with few_threads(nn.Linear(2, 2, bias=False)):
        assert torch.get_num_threads() == 1
