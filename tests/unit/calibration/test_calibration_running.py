"""Running a model: on one thread where it is small; what a token without probability costs."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from gacfx.calibration import running
from gacfx.calibration.running import few_threads, impossible, token_nats


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_row_masked_by_the_smallest_number_of_a_dtype_has_no_probability(
    dtype: torch.dtype,
) -> None:
    logits_TV, ids_T = torch.zeros(3, 5), torch.tensor([0, 1, 4])
    logits_TV[:, 4] = torch.finfo(dtype).min
    why = impossible(token_nats(logits_TV, ids_T), ids_T, 7)
    assert "document 7 has the token id 4, which the model gives no probability" in why
    # A model that is merely sure of something else still says what it thinks.
    logits_TV[:, 4] = -5e4
    assert impossible(token_nats(logits_TV, ids_T), ids_T, 7) == ""
