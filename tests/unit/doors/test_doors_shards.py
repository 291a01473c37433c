"""Shards of a text that were gathered apart and merged are the text gathered as a whole."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from gacfx.api import calibrate, load_profile
from gacfx.calibration.few_tokens import FewTokens
from gacfx.calibration.gather import NotByLayer, gather
from gacfx.calibration.shards import Shard
from gacfx.calibration.shards import merge_shards as merge_stores
from gacfx.calibration.text import Corpus, split
from gacfx.core.search import Search
from gacfx.core.statistics import Moments
from gacfx.core.work_folder import JOURNAL, WorkFolder
from gacfx.errors import CalibrationError, CheckpointError
from gacfx.shards import gather_shard, merge_shards
from gacfx.study import Study
from tests import tiny

PROFILE = load_profile("h200")
COUNT = 3


def corpus(seed: int = 0, windows: int = 13) -> Corpus:
    """Windows of unlike lengths, so that shards have unlike numbers of tokens."""
    random = torch.Generator().manual_seed(seed)
    lengths = [33 + 5 * at % 23 for at in range(windows)]
    return Corpus(tuple(torch.randint(2, 258, (n,), generator=random) for n in lengths))


def llama(layers: int = 2) -> Any:
    """In float64: which windows are read together moves its numbers by 1e-15."""
    return tiny.llama(layers=layers).double()


def gathered(folder: Path, layers: int = 2, count: int = COUNT, **asked: Any) -> list[Path]:
    """All shards, the last one first."""
    made = []
    for number in reversed(range(1, count + 1)):
        made.append(folder / f"shard-{number}")
        gather_shard(
            llama(layers),
            shard=Shard(number, count),
            work=made[-1],
            force=True,
            **{"calibration": corpus(), "structures": True, **asked},
        )
    return made


def merged(folder: Path, shards: Sequence[Path], layers: int = 2, **asked: Any) -> Path:
    model = llama(layers)
    count = merge_shards(
        model,
        shards=shards,
        work=folder / "work",
        **{"calibration": corpus(), **asked},
    )
    assert count == 7 * layers
    return folder / "work"


def calibrated(work: Path | None, layers: int = 2) -> Study:
    model = llama(layers)
    return calibrate(model, calibration=corpus(), force=True, work=work, structures=True)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return gathered(tmp_path_factory.mktemp("shards"))


def difference(one: Moments, other: Moments) -> float:
    """Largest relative error of all parts."""
    assert (one.shape, one.tokens_seen) == (other.shape, other.tokens_seen)
    found = [abs(one.grad_square_mean / other.grad_square_mean - 1)]
    for name in (
        *("projected_moment", "side_moment", "input_abs_mean"),
        *("input_abs_max", "long_moment"),
    ):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        found += [] if a is None else [float((a - b).norm() / b.norm())]
    return max(found)


def assert_alike(study: Study, whole: Study) -> None:
    assert study.dense_nats == pytest.approx(whole.dense_nats, rel=1e-12)
    for mine, theirs in ((study.fit, whole.fit), (study.full, whole.full)):
        assert list(mine.statistics.moments) == list(theirs.statistics.moments)
        assert mine.statistics.tokens == theirs.statistics.tokens
        assert mine.statistics.dense_nats_per_token == pytest.approx(
            theirs.statistics.dense_nats_per_token, rel=1e-12
        )
        for name, moments in theirs.statistics.moments.items():
            assert difference(mine.statistics.moments[name], moments) < 1e-10, name
    for search in (Search(align=8), Search(align=8, prune="both", value="two-sided")):
        plans = [one.plan("0.3", profile=PROFILE, search=search).plan for one in (study, whole)]
        assert plans[0].decisions == plans[1].decisions
        assert plans[0].loss_nats == pytest.approx(plans[1].loss_nats, rel=1e-9)
        trials = [[t.nats_per_token for t in plan.provenance.trials] for plan in plans]
        assert trials[0] == pytest.approx(trials[1], rel=1e-9)


def test_merged_shards_are_the_whole_and_nothing_is_gathered_again(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, work = calibrated(tmp_path / "whole"), merged(tmp_path, shards)
    for name in ("moments.0", "moments.1"):  # what is shared in one folder is in the other
        sizes = [
            (each / f"{name}.safetensors").stat().st_size for each in (work, tmp_path / "whole")
        ]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.01)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was gathered again")

    with monkeypatch.context() as patch:
        for name in ("study.evaluate", "calibration.by_layer.ByLayer._backward"):
            patch.setattr(f"gacfx.{name}", never)
        study = calibrated(work)
        with pytest.raises(AssertionError, match="gathered again"):
            calibrated(tmp_path / "new")
    assert_alike(study, whole)


def test_shards_of_a_model_that_is_calibrated_whole(tmp_path: Path) -> None:
    with pytest.warns(NotByLayer):
        found = gathered(tmp_path, layers=1)
    work = merged(tmp_path, found, layers=1)
    assert_alike(calibrated(work, layers=1), calibrated(None, layers=1))


def test_labels_of_a_shard_are_drawn_with_the_seed(tmp_path: Path) -> None:
    (shard,) = gathered(tmp_path, count=1, seed=3, structures=False)
    work, model = merged(tmp_path, [shard], seed=3), llama()
    study = calibrate(model, calibration=corpus(), force=True, work=work, seed=3)
    names = list(study.fit.statistics.moments)
    whole, other = (gather(llama(), split(corpus())[0], names, seed=seed) for seed in (3, 0))
    for name in names:
        assert difference(study.fit.statistics.moments[name], whole.moments[name]) < 1e-10
        assert difference(other.moments[name], whole.moments[name]) > 1e-3


def test_nobody_else_works_in_a_shard_while_it_is_merged(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = list[Path]()

    def looks(*given: Any) -> None:
        for shard in shards:
            with pytest.raises(CheckpointError, match="another process works there"):
                WorkFolder(shard, {})
            held.append(shard)
        merge_stores(*given)

    monkeypatch.setattr("gacfx.shards.merge_stores", looks)
    merged(tmp_path, shards)
    assert held == shards


def test_a_merge_that_was_stopped_goes_on(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = WorkFolder.put

    def stops(self: WorkFolder, name: str, tensors: Any) -> None:
        if name == "moments.1":
            raise KeyboardInterrupt
        put(self, name, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(WorkFolder, "put", stops)
        with pytest.raises(KeyboardInterrupt):
            merged(tmp_path, shards)
    puts = list[str]()

    def counts(self: WorkFolder, name: str, tensors: Any) -> None:
        puts.append(name)
        put(self, name, tensors)

    monkeypatch.setattr(WorkFolder, "put", counts)
    merged(tmp_path, shards)
    assert puts == ["moments.1"]


def test_a_shard_goes_on_and_is_of_its_own_folder(shards: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "shard-3"
    shutil.copytree(shards[0], copy)
    (copy / "moments.0.safetensors").unlink()
    said = r"shard-3: shard 3/3 is not finished, it lacks moments\.0; gather it again"
    with pytest.raises(CheckpointError, match=said):
        merged(tmp_path, [copy, *shards[1:]])
    asked: Any = {"calibration": corpus(), "structures": True, "force": True}
    gather_shard(llama(), shard="3/3", work=copy, **asked)
    merged(tmp_path, [copy, *shards[1:]])
    with pytest.raises(CheckpointError, match="its shard is '3/3', and '2/3' is asked for"):
        gather_shard(llama(), shard="2/3", work=copy, **asked)
    with pytest.raises(CheckpointError, match="its shard is '3/3', and None is asked for"):
        calibrated(copy)


def test_what_is_missing_or_there_twice_is_refused(shards: list[Path], tmp_path: Path) -> None:
    three, two, one = shards
    for found, said in (
        ([one, three], "shard 2/3 is missing; gather it, and name it too"),
        ([two], "shard 1/3, 3/3 is missing"),
        ([], "no shard is given"),
        ([one, two, one], r"shard-1: is shard 1/3, as is .*shard-1; give each once"),
        ([one, two, three, tmp_path], "is no work folder; gather a shard there first"),
    ):
        with pytest.raises(CheckpointError, match=said):
            merged(tmp_path, found)
    assert not (tmp_path / "work").exists()
    other = gathered(tmp_path, count=2)
    with pytest.raises(CheckpointError, match="is shard 2/2, and .*shard-1 is shard 1/3; shards"):
        merged(tmp_path, [one, two, other[0]])
    calibrated(tmp_path / "whole").close()
    with pytest.raises(CheckpointError, match="is the work folder of a whole text"):
        merged(tmp_path, [one, two, tmp_path / "whole"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"calibration": corpus(1)}, "its text is"),
        pytest.param(
            {"seed": 1}, "its seed is 0, and 1 is asked for", marks=pytest.mark.exhaustive
        ),
        pytest.param({"skip": ("*.q_proj",)}, "its skip is", marks=pytest.mark.exhaustive),
    ],
)
def test_shards_of_other_work_are_refused(
    asked: dict[str, Any], said: str, shards: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=f"shard-3: is a shard of other work: {said}"):
        merged(tmp_path, shards, **asked)
    assert not (tmp_path / "work").exists()


def test_shards_of_other_weights_or_of_less_are_refused(shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="shard-3: is a shard of other work: its model is"):
        merge_shards(tiny.llama(seed=1), calibration=corpus(), shards=shards, work=tmp_path / "w")
    less = gathered(tmp_path, structures=False)
    with pytest.raises(CheckpointError, match="shard-2: is a shard of other work: its pruning is"):
        merged(tmp_path, [shards[0], *less[1:]])


@pytest.mark.parametrize("text", ["1", "a/3", "0/3", "4/3", "1/0", "-1/3", "1/3/5", ""])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(CalibrationError, match="shard"):
        Shard.parse(text)


def test_shards_are_every_window_once_and_none_is_empty(tmp_path: Path) -> None:
    texts = split(corpus())
    found = [Shard(number, COUNT).of(texts) for number in (1, 2, 3)]
    for index, text in enumerate(texts):
        windows = [window for shard in found for window in shard[index].documents]
        assert len(windows) == len(text.documents)
        assert {*map(id, windows)} == {*map(id, text.documents)}
    with pytest.raises(
        CalibrationError, match="shard 4/4: there is no window for it.* has 3; make"
    ):
        gather_shard(llama(), calibration=corpus(), shard="4/4", work=tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_a_journal_that_names_no_shard(shards: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "shard-3"
    shutil.copytree(shards[0], copy)
    journal = json.loads((copy / JOURNAL).read_text())
    for odd in ("7/3", "x"):
        journal["key"]["shard"] = odd
        (copy / JOURNAL).write_text(json.dumps(journal))
        with pytest.raises(CalibrationError, match="shard"):
            merged(tmp_path, [copy, *shards[1:]])


def test_too_little_text_is_said_of_the_whole_text(tmp_path: Path) -> None:
    text = Corpus(corpus().documents[:2])
    with pytest.warns(FewTokens, match="has 71 tokens, and .* has 128 directions"):
        gather_shard(
            tiny.llama(hidden=128), calibration=text, shard="1/1", work=tmp_path / "w", force=True
        )
