"""Calibration layer by layer: stopped anywhere it goes on, and models that cannot run so."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gacfx.calibration.batches import Reads
from gacfx.calibration.by_layer import READS
from gacfx.calibration.gather import NotByLayer, gather, gather_texts
from gacfx.calibration.layered import PROBE_TOKENS
from gacfx.calibration.text import Corpus
from gacfx.core.statistics import Moments, Statistics
from gacfx.core.store import MemoryStore, Store
from gacfx.core.work_folder import WorkFolder
from gacfx.errors import CalibrationError
from tests.tiny import llama

NAMES = tuple(
    f"model.layers.{layer}.{part}"
    for layer in (1, 2)  # the first layer is only on the way
    for part in ("self_attn.q_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
)


def model() -> Any:
    return llama(layers=3)


def corpus(seed: int = 0, count: int = 3) -> Corpus:
    random = torch.Generator().manual_seed(seed)
    return Corpus(tuple(torch.randint(2, 258, (40 + i,), generator=random) for i in range(count)))


def same(one: Statistics, other: Statistics) -> bool:
    def tensors(found: Moments) -> list[Tensor]:
        assert found.input_abs_max is not None
        number = torch.tensor([found.grad_output_mean, found.grad_square_mean])
        means = [found.projected_moment, found.side_moment, found.input_abs_mean]
        return [*means, found.input_abs_max, number]

    pairs = [(one.moments[name], other.moments[name]) for name in NAMES]
    return all(
        torch.equal(a, b)
        for left, right in pairs
        for a, b in zip(tensors(left), tensors(right), strict=True)
    )


class Stopped(Exception):  # noqa: N818  # stands for a signal
    pass


class Stopping(Store):
    """A store that stops its user at the n-th set."""

    def __init__(self, inside: Store, after: int) -> None:
        self.inside, self.left, self.put_names = inside, after, list[str]()

    def __contains__(self, name: object) -> bool:
        return name in self.inside

    def keys(self, name: str) -> tuple[str, ...]:
        return self.inside.keys(name)

    def get(self, name: str, key: str) -> Tensor:
        return self.inside.get(name, key)

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        if self.left == 0:
            raise Stopped
        self.left -= 1
        self.put_names.append(name)
        self.inside.put(name, tensors)

    def drop(self, name: str) -> None:
        self.inside.drop(name)

    def names(self) -> tuple[str, ...]:
        return self.inside.names()

    def size(self, name: str) -> int:
        return self.inside.size(name)


def test_stopped_anywhere_it_goes_on_and_ends_with_the_same() -> None:
    texts = (corpus(0), corpus(1))
    through = Stopping(MemoryStore(), -1)
    wanted = gather_texts(model(), texts, NAMES, store=through)
    sets = len(through.put_names)
    assert sets > 10
    for after in range(sets):
        inside = MemoryStore()
        with pytest.raises(Stopped):
            gather_texts(model(), texts, NAMES, store=Stopping(inside, after))
        found = gather_texts(model(), texts, NAMES, store=inside)
        assert all(same(a, b) for a, b in zip(wanted, found, strict=True)), after


@pytest.mark.parametrize("first", [Reads.ALONE, Reads.PADDED])
def test_what_was_batched_otherwise_is_made_again(
    first: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    then = Reads.PADDED if first is Reads.ALONE else Reads.ALONE
    text = corpus(count=5)

    def gathered(reads: Reads, store: Store) -> Statistics:
        monkeypatch.setattr("gacfx.calibration.by_layer.how_read", lambda *_: reads)
        return gather_texts(model(), (text,), NAMES, store=store)[0]

    monkeypatch.setattr("gacfx.calibration.by_layer.SHARD_TOKENS", 40)
    wanted = gathered(then, MemoryStore())
    through = Stopping(MemoryStore(), -1)
    gathered(first, through)
    for after in range(len(through.put_names)):
        inside = MemoryStore()
        with pytest.raises(Stopped):
            gathered(first, Stopping(inside, after))
        done = [name for name in through.put_names if "moments" in name and name in inside]
        found = gathered(then, inside)
        assert done or same(found, wanted), after
        assert READS not in inside and "hidden.1.4" not in inside


def test_what_is_there_is_not_gathered_again() -> None:
    store = Stopping(MemoryStore(), -1)
    gather_texts(model(), (corpus(),), NAMES, store=store)
    store.put_names.clear()
    gather_texts(model(), (corpus(),), NAMES, store=store)
    assert store.put_names == []


def test_only_what_is_needed_later_stays(tmp_path: Path) -> None:
    with WorkFolder(tmp_path / "work", {}) as store:
        gather_texts(model(), (corpus(),), NAMES, store=store)
    left = sorted(path.stem for path in (tmp_path / "work").glob("*.safetensors"))
    assert left == ["moments.1", "moments.2", "nats"]


def test_what_a_killed_run_left_on_its_way_goes(tmp_path: Path) -> None:
    with WorkFolder(tmp_path / "work", {}) as store:
        gather_texts(model(), (corpus(),), NAMES, store=store)
        for name in ("hidden.1.0", "grads.2.0"):  # its moments were there, these not yet dropped
            store.put(name, {"0": torch.zeros(1, 40, 64)})
        gather_texts(model(), (corpus(),), NAMES, store=store)
    left = sorted(path.stem for path in (tmp_path / "work").glob("*.safetensors"))
    assert left == ["moments.1", "moments.2", "nats"]


def test_what_parts_left_before_one_was_refused_goes(tmp_path: Path) -> None:
    odd = model()

    def refuses(_module: nn.Module, args: tuple[Any, ...]) -> None:
        # After the probe, and where the layers below it are only passed through.
        if args[0].shape[1] > PROBE_TOKENS and bool(below[-1].isnan().any()):
            raise ValueError("not a number")

    below = list[Tensor]()
    odd.model.layers[0].register_forward_pre_hook(lambda _m, args: below.append(args[0]))
    odd.model.layers[2].register_forward_pre_hook(refuses)
    with WorkFolder(tmp_path / "work", {}) as store, pytest.warns(NotByLayer):
        gather_texts(odd, (corpus(),), NAMES, store=store)
    left = [path.stem for path in (tmp_path / "work").glob("*.safetensors")]
    assert left == ["moments.whole"]


def test_a_model_whose_code_raises_in_parts_is_calibrated_whole() -> None:
    odd = model()

    def refuses(_module: nn.Module, args: tuple[Any, ...]) -> None:
        if bool(args[0].isnan().any()):
            raise ValueError("not a number")

    odd.model.layers[0].register_forward_pre_hook(refuses)
    with pytest.warns(NotByLayer, match="ValueError: not a number"):
        (found,) = gather_texts(odd, (corpus(),), NAMES, store=MemoryStore())
    assert same(found, gather(model(), corpus(), NAMES))


def test_progress_comes_to_the_number_of_documents() -> None:
    done = list[float]()
    gather_texts(model(), (corpus(), corpus(1)), NAMES, store=MemoryStore(), progress=done.append)
    assert sum(done) <= 6
    gather_texts(model(), (corpus(), corpus(1)), NAMES, progress=done.append)


def test_modules_outside_the_layers_are_calibrated_with_the_whole(tmp_path: Path) -> None:
    names = [*NAMES, "lm_head"]
    for _ in range(2):  # made, and found
        with WorkFolder(tmp_path / "work", {}) as store:
            if "moments.whole" in store:
                (found,) = gather_texts(model(), (corpus(),), names, store=store)
            else:
                with pytest.warns(NotByLayer, match="lm_head: is outside the layers"):
                    (found,) = gather_texts(model(), (corpus(),), names, store=store)
            assert same(found, gather(model(), corpus(), names))
            assert list(found.moments) == names


def test_logits_that_are_no_numbers_are_refused() -> None:
    broken = model()
    with torch.no_grad():
        broken.lm_head = nn.Linear(64, 258, bias=False)
        broken.lm_head.weight.fill_(1e38)
    with pytest.raises(CalibrationError, match="NaN or infinite on document"):
        gather_texts(broken, (corpus(),), NAMES, store=MemoryStore())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_is_the_whole(dtype: torch.dtype) -> None:
    (found,) = gather_texts(model().to(dtype), (corpus(),), NAMES, store=MemoryStore())
    assert same(found, gather(model().to(dtype), corpus(), NAMES))
