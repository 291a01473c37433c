"""Every causal family, one layer at a time on another device: here a copy on the CPU itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from gacfx.calibration import layered, predictions, running
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.gather import gather, gather_texts
from gacfx.core.placed import placed_on, tensors_of
from gacfx.core.work_folder import WorkFolder
from tests.families.test_families_by_layer import CAUSAL, assert_equal, corpus, difference, targets
from tests.families.zoo import CORNERS, FAMILIES
from tests.few import few

CPU = torch.device("cpu")


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tensors that are on the device, after each change."""
    found, now = [0], [0]
    real = placed_on

    @contextmanager
    def spy(tensors: Any, *where: Any) -> Iterator[None]:
        few = {id(each) for each in tensors}
        with real(tensors, *where):
            now[0] += len(few)
            found.append(now[0])
            yield
            now[0] -= len(few)

    monkeypatch.setattr(layered, "placed_on", spy)
    return found


@pytest.mark.parametrize("name", few(CAUSAL, *CORNERS))
def test_statistics_and_losses_are_the_same(name: str, tmp_path: Path, lent: list[int]) -> None:
    model, text = FAMILIES[name].make(), corpus(0)
    names = targets(name)
    addresses = {key: each.data_ptr() for key, each in model.state_dict().items()}
    with WorkFolder(tmp_path / "work", {}) as store:
        (found,) = gather_texts(model, (text,), names, store=store, device=CPU)
        assert_equal(gather(model, text, names), found, 0.0)
    loss = evaluate(model, text, device=CPU).nats_per_token
    assert loss == pytest.approx(evaluate(model, text).nats_per_token, rel=1e-6)
    # All is where it was, and no two layers were ever on the device together.
    assert {key: each.data_ptr() for key, each in model.state_dict().items()} == addresses
    largest = max(len(tensors_of(layer)) for layer in layered.Layered(model).layers)
    few = {id(each) for each in tensors_of(model)}
    inside = [tensors_of(layer) for layer in layered.Layered(model).layers]
    outside = len(few - {id(each) for layer in inside for each in layer})
    assert max(lent) == outside + largest


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_that_is_slow_is_computed_in_float32(
    name: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lent: list[int]
) -> None:
    monkeypatch.setattr(running, "multiplies_bfloat16", lambda: False)
    model, text = FAMILIES[name].make().to(dtype), corpus(0)
    names, before = targets(name), {key: each.dtype for key, each in model.state_dict().items()}
    with WorkFolder(tmp_path / "work", {}) as store:
        (found,) = gather_texts(model, (text,), names, store=store)
    exact = FAMILIES[name].make().to(dtype).float()
    assert max(lent) < len({id(each) for each in tensors_of(model)})
    want = gather(exact, text, names)
    for module, moments in found.moments.items():
        assert difference(want.moments[module], moments) < 1e-6
    loss = evaluate(model, text).nats_per_token
    assert loss == pytest.approx(evaluate(exact, text).nats_per_token, rel=1e-6)
    assert {key: each.dtype for key, each in model.state_dict().items()} == before


def test_half_precision_that_is_fast_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "multiplies_bfloat16", lambda: True)
    model = FAMILIES["llama"].make()
    assert running.computing_dtype(model) is None
    assert running.computing_dtype(model.bfloat16()) is None
    assert running.computing_dtype(model.half()) is torch.float32
    assert running.computing_dtype(model, torch.device("cuda")) is None  # the weights stay here
    monkeypatch.setattr(running, "multiplies_bfloat16", lambda: False)
    assert running.computing_dtype(model.bfloat16()) is torch.float32
    assert running.computing_dtype(model.to("meta")) is None


def test_a_large_model_reads_a_text_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model, text = FAMILIES["llama"].make(), corpus(0)
    want, seen = evaluate(model, text).nats_per_token, list[int]()
    real = layered.Layered.between

    def spy(self: Any, ids_BT: Any, at: int, *args: Any, **more: Any) -> Any:
        seen.append(at)
        return real(self, ids_BT, at, *args, **more)

    monkeypatch.setattr(layered.Layered, "between", spy)
    monkeypatch.setattr(predictions, "LARGE", 0)
    monkeypatch.setattr("gacfx.calibration.batches.MOST_TOKENS", 1)
    assert evaluate(model, text).nats_per_token == pytest.approx(want, rel=1e-6)
    count = len(layered.Layered(model).layers)
    three = [at for at in range(-1, count) for _ in text.documents]
    assert seen[-len(three) - 3 :] == [*three, *[count] * 3]
    monkeypatch.setattr(predictions, "GROUP_TOKENS", 60)
    assert evaluate(model, text).nats_per_token == pytest.approx(want, rel=1e-6)


def test_tensors_come_back_whatever_happens() -> None:
    one = torch.nn.Parameter(torch.ones(3))
    address = one.data_ptr()

    def fail() -> None:
        with placed_on([one, one], CPU):
            assert one.data_ptr() != address
            one.data += 1
            raise ValueError("so")

    with pytest.raises(ValueError, match="so"):
        fail()
    assert one.data_ptr() == address and bool((one == 1).all())
    with placed_on([one], None):
        assert one.data_ptr() == address
