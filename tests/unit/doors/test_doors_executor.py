"""Plans are the same whoever decomposes the weights, and whoever gathers the text."""

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gacfx.api import calibrate, compress, load_profile, plan
from gacfx.calibration.gather import gather_texts
from gacfx.calibration.scattered import gather_by_shards
from gacfx.calibration.text import Corpus, split
from gacfx.core.planned import Planned
from gacfx.core.search import Search
from gacfx.errors import CalibrationError, CheckpointError, PassError, WorkerFailed
from gacfx.study import Study
from gacfx.work import Work
from tests import processes, tiny
from tests.few import few
from tests.unit.calibration.samples import Toy
from tests.unit.calibration.samples import corpus as corpus_of
from tests.unit.doors.test_doors_shards import corpus, difference, llama

PROFILE, SEARCH = load_profile("h200"), Search(align=8)


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with ProcessPoolExecutor(2, mp_context=processes.context()) as found:
        yield found


@pytest.fixture(scope="module")
def alone() -> Study:
    return calibrated()


def calibrated(**asked: Any) -> Study:
    model, method = asked.pop("model", None) or tiny.llama(), asked.pop("method", "gfwsvd")
    work = Work(**asked)
    return calibrate(
        model, calibration=corpus(), force=True, structures=True, method=method, work=work
    )


def planned(study: Study) -> Planned:
    return study.plan("0.3", profile=PROFILE, search=SEARCH)


def assert_same(one: Planned, other: Planned) -> None:
    """To the last bit."""
    assert one.plan.to_json() == other.plan.to_json()
    for name, made in one.factors.items():
        same = other.factors[name].tensors
        assert all(torch.equal(tensor, same[key]) for key, tensor in made.tensors.items())


def assert_alike_moments(one: Study, other: Study) -> None:
    assert list(one.full.statistics.moments) == list(other.full.statistics.moments)
    for name, moments in other.full.statistics.moments.items():
        assert difference(one.full.statistics.moments[name], moments) < 1e-10
        assert (
            difference(one.fit.statistics.moments[name], other.fit.statistics.moments[name]) < 1e-10
        )


def never(*_: object, **__: object) -> None:
    raise AssertionError("this process did it")


@pytest.mark.parametrize("method", ["gfwsvd", pytest.param("asvd", marks=pytest.mark.exhaustive)])
def test_a_pool_of_processes_decomposes_to_the_same_bits(
    method: str, pool: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = planned(calibrated(method=method))
    with monkeypatch.context() as patch:
        patch.setattr("gacfx.compressors.methods.Method.decompose", never)
        with pytest.raises(PassError, match="this process did it"):
            planned(calibrated(method=method))
        assert_same(alone, planned(calibrated(method=method, executor=pool)))
        folder = calibrated(method=method, executor=pool, folder=tmp_path / "work")
        assert_same(alone, planned(folder))


@pytest.mark.parametrize("kept", few([False, True], True))
def test_a_pool_of_processes_gathers_shards(
    kept: bool, pool: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, work = calibrated(model=llama()), tmp_path / "work" if kept else None
    with monkeypatch.context() as patch:
        for name in ("gather.gather", "by_layer.ByLayer._backward"):
            patch.setattr(f"gacfx.calibration.{name}", never)
        study = calibrated(model=llama(), executor=pool, shards=3, folder=work)
        if work is not None:
            study.close()
            assert not list(work.glob("shard-*"))
            study = calibrated(
                model=llama(), executor=pool, shards=2, folder=work
            )  # gathers nothing
    assert_alike_moments(study, whole)


def test_doors_take_an_executor(pool: Executor) -> None:
    asked: Any = {"calibration": corpus(), "ratio": "0.3", "search": SEARCH, "force": True}
    assert_same(plan(tiny.llama(), **asked), plan(tiny.llama(), **asked, work=Work(executor=pool)))
    asked["max_loss"] = 9.0
    made = [
        compress(tiny.llama(), **asked, work=Work(executor=executor, shards=shards)).planned.plan
        for executor, shards in ((None, 1), (pool, 2))
    ]
    assert made[0].decisions == made[1].decisions


def test_ties_and_buffers_reach_the_workers(pool: Executor) -> None:
    model = tiny.llama(tie_word_embeddings=True).double()
    model.model.rotary_emb.inv_freq *= 0.5  # a buffer that no checkpoint has
    text: Any = {"calibration": corpus(), "force": True}
    whole = calibrate(model, **text)
    assert_alike_moments(calibrate(model, **text, work=Work(executor=pool, shards=2)), whole)


def test_a_fault_of_a_shard_names_the_document_of_the_whole_text() -> None:
    model, draw = tiny.llama(), torch.Generator().manual_seed(0)
    documents = [torch.randint(2, 250, (40,), generator=draw) for _ in range(12)]
    documents[6][20] = 255
    model.lm_head.register_forward_hook(
        lambda _module, _args, made: made.index_fill(-1, torch.tensor(255), -torch.inf)
    )
    texts, names = split(Corpus(tuple(documents))), ["model.layers.0.mlp.up_proj"]
    with pytest.raises(CalibrationError, match="document 7 has the token id 255"):
        gather_texts(model, texts, names)
    with (
        ThreadPoolExecutor(1) as thread,
        pytest.raises(CalibrationError, match="document 7 has the token id 255"),
    ):
        gather_by_shards(model, texts, names, executor=thread, shards=3)


def test_a_worker_that_dies_is_one_line() -> None:
    context = get_context("spawn")
    for asked, said in (
        ({"shards": 2}, "^shard 1/2: a worker ended before its task was done, perhaps for want"),
        ({}, "^model.layers.0.self_attn.q_proj: a worker ended before its task was done"),
    ):
        with (
            ProcessPoolExecutor(1, context, initializer=os._exit, initargs=(3,)) as dies,
            pytest.raises(WorkerFailed, match=said) as told,
        ):
            planned(calibrated(executor=dies, **asked))
        assert len(str(told.value).splitlines()) == 1


def test_a_model_that_cannot_be_sent_is_one_line(pool: Executor) -> None:
    class Local(nn.Module):  # of no module that a worker could import
        def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
            return ids_BT

    model = tiny.llama()
    model.extra = Local()
    with pytest.raises(WorkerFailed, match=r"^shard 1/2: a worker failed, \w+: .*Local") as told:
        calibrate(model, calibration=corpus(), force=True, work=Work(executor=pool, shards=2))
    assert len(str(told.value).splitlines()) == 1


def test_shards_need_an_executor_and_windows(pool: Executor, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="shards 2: give 1, or more with an executor"):
        calibrated(shards=2)
    with pytest.raises(CalibrationError, match="shards 0: give 1"):
        calibrated(shards=0, executor=pool)
    with pytest.raises(CalibrationError, match="shard 4/4: there is no window for it"):
        calibrated(shards=4, executor=pool)
    with pytest.raises(CheckpointError, match="leave out shards, or disk"):
        calibrated(shards=2, executor=pool, folder=tmp_path / "work", disk="1GB")


def test_a_dask_cluster_decomposes_and_gathers(alone: Study) -> None:
    distributed = pytest.importorskip("distributed", reason="a Dask cluster needs distributed")
    model = Toy("every second")
    parts, names = (corpus_of(40, 33, 57), corpus_of(36, 45)), ["wide", "narrow", "idle"]
    whole = gather_texts(model, parts, names, both_sides=names)
    dask = pytest.importorskip("dask", reason="it comes with distributed")
    patient = {"distributed.comm.timeouts.connect": "120s", "distributed.comm.timeouts.tcp": "120s"}
    with (
        dask.config.set(patient),  # workers of a busy machine take long to begin
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        executor = client.get_executor()
        assert_same(planned(alone), planned(calibrated(executor=executor)))
        found = gather_by_shards(model, parts, names, both_sides=names, executor=executor, shards=2)
    for mine, theirs in zip(found, whole, strict=True):
        assert mine.text_digest == theirs.text_digest
        for name in names[:2]:
            assert difference(mine.moments[name], theirs.moments[name]) < 1e-10
        assert mine.moments["wide"].tokens_seen < mine.tokens
        assert mine.moments["idle"].problem() == "no calibration token reached this weight"
