"""Windows that the model has no numbers for: left out and counted, wherever text is read."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gacfx.calibration.readable import UNREADABLE, UnreadableWindows, of_readable
from gacfx.calibration.text import Corpus
from gacfx.core.store import MemoryStore, Store
from gacfx.core.work_folder import WorkFolder
from gacfx.errors import CalibrationError, NoNumbers
from gacfx.slicing.door import slice_hidden
from gacfx.study import Study
from tests.tiny import llama
from tests.unit.slicing.stream_models import turned

WORD = 9
"""A token at which the model overflows."""
COUNT = 16


def overflowing() -> Any:
    """A model that gives NaN from the first such token of a window on, as float16 does."""
    found = llama(hidden_size=32, intermediate_size=48, vocab_size=96)
    with torch.no_grad():
        found.model.embed_tokens.weight[WORD] = 1e4
    own = found.model.layers[1].forward

    def forward(hidden: Tensor, *args: Any, **more: Any) -> Tensor:
        made: Tensor = own(hidden, *args, **more)
        over_BT = (hidden > 5e3).any(-1).cumsum(-1) > 0
        return made.masked_fill(over_BT[..., None], torch.nan)

    found.model.layers[1].forward = forward
    return found


def text(bad: tuple[int, ...], at: int = 20) -> Corpus:
    """Windows of which some have the token at a place."""
    random = torch.Generator().manual_seed(3)
    documents = [torch.randint(10, 96, (40,), generator=random) for _ in range(COUNT)]
    for place in bad:
        documents[place][at] = WORD
    return Corpus(tuple(documents))


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return MemoryStore()
    return WorkFolder(tmp_path / "work", {"of": "this"})


@pytest.mark.parametrize("at", [0, 20, 39], ids=["first", "middle", "last"])
@pytest.mark.parametrize("method", ["gfwsvd", "llm-pruner"])
def test_a_study_is_one_of_the_windows_that_have_numbers(method: str, at: int) -> None:
    model, bad = overflowing(), (1, 6)
    with pytest.warns(UnreadableWindows, match=r"^2 of 16 windows .* \(document 2, 7\)"):
        found = Study.make(model, text(bad, at), method=method, force=True)
    left = text(bad).part([place for place in range(COUNT) if place not in bad])
    wanted = Study.make(model, left, method=method, force=True)
    assert found.full.statistics.windows == COUNT - 2
    for name, moments in wanted.full.statistics.moments.items():
        assert torch.equal(moments.side_moment, found.full.statistics.moments[name].side_moment)
    assert found.dense_nats == wanted.dense_nats


def test_a_store_is_told_and_a_run_that_goes_on_reads_the_others(store: Store) -> None:
    model, corpus = overflowing(), text((5,))
    store.put("of the whole text", {"some": torch.zeros(1)})
    with pytest.warns(UnreadableWindows):
        first = Study.make(model, corpus, store=store, force=True)
    assert "of the whole text" not in store  # steps of another text would be taken for its own
    assert store.get(UNREADABLE, UNREADABLE).tolist() == [5]
    read = list[int]()

    def counted(corpus: Corpus) -> int:
        read.append(len(corpus.documents))
        return len(corpus.documents)

    with pytest.warns(UnreadableWindows, match="^1 of 16"):
        assert of_readable(counted, model, corpus, store=store) == COUNT - 1
    assert read == [COUNT - 1]
    with pytest.warns(UnreadableWindows):
        again = Study.make(model, corpus, store=store, force=True)
    assert again.dense_nats == first.dense_nats


def test_a_folder_in_which_shards_lie_is_emptied(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path / "work", {"of": "this"})
    folder.put("one", {"some": torch.zeros(1)})
    (folder.path / "shard-1").mkdir()
    (folder.path / "shard-1" / "moments").write_text("of a text with other windows")
    folder.clear()
    assert "one" not in folder and not (folder.path / "shard-1").exists()
    folder.put("two", {"some": torch.ones(1)})
    folder.close()
    assert "two" in WorkFolder(tmp_path / "work", {"of": "this"})


def test_all_bad_is_an_error_that_names_the_module() -> None:
    with pytest.raises(NoNumbers, match=r"NaN or infinite on document \d+, first in model\.layer"):
        Study.make(overflowing(), text(tuple(range(COUNT))), force=True)


def test_all_but_one_bad_is_too_little_text() -> None:
    with (
        pytest.warns(UnreadableWindows, match="^15 of 16"),
        pytest.raises(CalibrationError, match="1 window of 40 tokens cannot be split"),
    ):
        Study.make(overflowing(), text(tuple(range(1, COUNT))), force=True)


def test_weights_without_numbers_are_no_matter_of_windows() -> None:
    broken, asked = llama(), list[Corpus]()
    with torch.no_grad():
        broken.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan

    def made(corpus: Corpus) -> None:
        asked.append(corpus)
        raise NoNumbers("model.layers.0.mlp.up_proj.weight: NaN")

    with pytest.raises(NoNumbers, match="up_proj"):
        of_readable(made, broken, text(()))
    assert len(asked) == 1


def test_a_text_that_is_read_says_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert of_readable(lambda corpus: len(corpus.documents), llama(), text(())) == COUNT


def test_slicing_leaves_them_out_too() -> None:
    model = turned("phi, parallel, LayerNorm, shift")
    with torch.no_grad():
        model.model.embed_tokens.weight[WORD] = 3e38  # whose mean is infinite in float32
    with pytest.warns(UnreadableWindows, match="^1 of 16"):
        found = slice_hidden(model, calibration=text((3,)), ratio=0.1, align=4, force=True)
    assert "15 windows" in found.text and found.nats < float("inf")
