"""Plans with a work folder are those without, and what it holds is not computed again."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from gacfx.api import calibrate, load_profile
from gacfx.calibration.text import Corpus
from gacfx.core.curve_file import load_curves
from gacfx.core.search import Search
from gacfx.core.store import MemoryStore, remembered
from gacfx.core.stored_gradients import kept_gradients
from gacfx.core.taylor import TaylorSums
from gacfx.errors import CalibrationError, CheckpointError
from gacfx.study import Study
from gacfx.work import PLANNED, plan_digest, work_key
from tests import tiny
from tests.few import few

PROFILE = load_profile("h200")
SEARCHES = (
    Search(align=8),
    Search(align=1, form="pair"),
    Search(prune="auto", align=8),
    Search(align=8, value="two-sided", corrections=1),
)


def corpus(seed: int = 0) -> Corpus:
    random = torch.Generator().manual_seed(seed)
    return Corpus(tuple(torch.randint(2, 258, (48,), generator=random) for _ in range(8)))


def calibrated(work: Path | None, layers: int = 2, **asked: Any) -> Study:
    return calibrate(
        tiny.llama(layers=layers),
        calibration=corpus(),
        force=True,
        work=work,
        **{"structures": True, **asked},
    )


@pytest.mark.parametrize(
    "search",
    few(SEARCHES, *SEARCHES[2:]),
    ids=lambda one: f"{one.prune} {one.form} {one.align} {one.corrections}",
)
def test_a_plan_is_the_same_with_and_without(search: Search, tmp_path: Path) -> None:
    found = [
        calibrated(work).plan("0.3", profile=PROFILE, search=search)
        for work in (None, tmp_path / "work", tmp_path / "work")
    ]
    texts = [each.plan.to_json() for each in found]
    assert texts[0] == texts[1] == texts[2]
    for name, made in found[0].factors.items():
        for other in found[1:]:
            same = other.factors[name].tensors
            assert made.tensors.keys() == same.keys()
            assert all(torch.equal(made.tensors[key], same[key]) for key in same)


@pytest.mark.parametrize(
    "method",
    ["llm-pruner", *(pytest.param(n, marks=pytest.mark.exhaustive) for n in ("svd", "svd-llm"))],
)
def test_every_method_is_the_same_with_and_without(method: str, tmp_path: Path) -> None:
    found = [
        calibrated(work, layers=5, method=method).upstream("0.2", profile=PROFILE)
        for work in (None, tmp_path / "work")
    ]
    assert found[0].plan.to_json() == found[1].plan.to_json()


def test_another_method_takes_the_same_statistics(tmp_path: Path) -> None:
    study, search = calibrated(tmp_path / "work"), Search(align=8)
    for method in ("svd-llm", "gfwsvd"):
        ours = study.with_method(method).plan("0.2", profile=PROFILE, search=search)
        alone = calibrated(None, method=method).plan("0.2", profile=PROFILE, search=search)
        assert ours.plan.to_json() == alone.plan.to_json()


@pytest.mark.parametrize(
    "search", few([Search(align=8), SEARCHES[3]], SEARCHES[3]), ids=["values", "corrections"]
)
def test_what_is_there_is_not_measured_again(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = calibrated(tmp_path / "work").plan("0.3", profile=PROFILE, search=search)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was measured again")

    losses = "study.evaluate", "study.token_losses", "evidence.evaluate", "best_plan.divergence"
    for name in (*losses, "calibration.sanity.evaluate", "calibration.by_layer.ByLayer._backward"):
        monkeypatch.setattr(f"gacfx.{name}", never)
    monkeypatch.setattr("gacfx.compressors.methods.Method.decompose", never)
    again = calibrated(tmp_path / "work").plan("0.3", profile=PROFILE, search=search)
    assert again.plan.to_json() == first.plan.to_json()


def test_gradients_are_gathered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, alone = (
        calibrated(work, method="llm-pruner").full.gradients for work in (tmp_path / "work", None)
    )
    monkeypatch.setattr("gacfx.evidence.taylor_sums", lambda *_, **__: pytest.fail("again"))
    again = calibrated(tmp_path / "work", method="llm-pruner").full.gradients
    assert [*first] == [*again] == [*alone] != []
    for name, found in alone.items():
        for key, tensor in vars(found).items():
            for other in (first[name], again[name]):
                assert torch.equal(tensor, getattr(other, key))


def test_gradients_that_the_folder_has_no_room_for_are_not_kept() -> None:
    class Full(MemoryStore):
        def room(self) -> float:
            return 8 * 4 + 9

    one = TaylorSums(*(torch.arange(float(n)) for n in (4, 4, 1, 1)))
    for name, count in (("small", 1), ("large", 2)):
        store, made = Full(), {str(number): one for number in range(count)}
        found = kept_gradients(store, name, [*made], partial(dict, made))
        assert [*found] == [*made] and torch.equal(found["0"].mean, one.mean)
        assert (name in store) == (count == 1)


def test_curves_that_were_harmed_are_measured_again(tmp_path: Path) -> None:
    search = Search(align=8, value="two-sided")
    first = calibrated(tmp_path / "work").plan("0.3", profile=PROFILE, search=search)
    (path,) = (tmp_path / "work").glob(f"*.full.*{PLANNED}")
    assert load_curves(path).value_model.startswith("two-sided")
    path.write_bytes(path.read_bytes()[:-8])
    again = calibrated(tmp_path / "work").plan("0.3", profile=PROFILE, search=search)
    assert again.plan.to_json() == first.plan.to_json()
    load_curves(path)


@pytest.mark.parametrize("asked", few([{"seed": 1}, {"skip": ("*.q_proj",)}], {"seed": 1}))
def test_a_folder_of_other_work_is_refused(asked: dict[str, Any], tmp_path: Path) -> None:
    calibrated(tmp_path / "work")
    with pytest.raises(CheckpointError, match="is of other work"):
        calibrated(tmp_path / "work", **asked)


def test_statistics_for_pruning_serve_ranks_alone_and_not_the_other_way(tmp_path: Path) -> None:
    calibrated(tmp_path / "both")
    calibrated(tmp_path / "ranks", structures=False)
    search = Search(align=8)
    plans = [
        calibrated(tmp_path / name, structures=False).plan("0.3", profile=PROFILE, search=search)
        for name in ("both", "ranks")
    ]
    assert plans[0].plan.to_json() == plans[1].plan.to_json()
    with pytest.raises(CheckpointError, match="its pruning is False, and True is asked for"):
        calibrated(tmp_path / "ranks")


def test_work_is_told_apart_by_weights() -> None:
    model = tiny.llama()

    def key() -> object:
        return work_key(model, corpus(), skip=(), seed=0, structures=False)["model"]

    before = key()
    assert before == key()
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    changed = key()
    assert changed != before
    model.config.rope_parameters["rope_theta"] *= 2  # in no weight, and in every attention
    assert key() != changed


def test_work_is_told_apart_by_buffers_that_a_checkpoint_has() -> None:
    found = []
    for value in (0.0, 1.0):
        model = tiny.llama()
        model.model.norm.register_buffer("shift", torch.full((1,), value))
        key = work_key(model, corpus(), skip=(), seed=0, structures=False)
        found.append(key["model"])
    assert found[0] != found[1]


def test_work_is_told_apart_by_buffers_that_no_checkpoint_has() -> None:
    one, other = tiny.llama(), tiny.llama()
    other.model.rotary_emb.inv_freq *= 0.5
    keys = [work_key(m, corpus(), skip=(), seed=0, structures=False) for m in (one, other)]
    assert keys[0]["model"] != keys[1]["model"]


def test_plans_are_told_apart_by_what_they_choose_and_by_their_value_model() -> None:
    study = calibrated(None)
    one, smaller = (
        study.plan(ratio, profile=PROFILE, search=SEARCHES[3]) for ratio in ("0.3", "0.5")
    )
    other = replace(one.plan.provenance, value_model="fisher")
    plans = one.plan, smaller.plan, replace(one.plan, provenance=other)
    assert len({*map(plan_digest, plans)}) == 3
    assert plan_digest(one.plan) == plan_digest(replace(one.plan))


def test_a_folder_for_pruning_is_filled_for_it_whatever_a_plan_wants(tmp_path: Path) -> None:
    study = calibrated(tmp_path / "work")
    study.close()
    for path in (tmp_path / "work").glob("moments.*"):
        path.unlink()  # as if the run had been killed before
    calibrated(tmp_path / "work", structures=False).close()
    search = Search(prune="both", align=8, value="two-sided")
    found = calibrated(tmp_path / "work").plan("0.3", profile=PROFILE, search=search)
    alone = calibrated(None).plan("0.3", profile=PROFILE, search=search)
    assert found.plan.to_json() == alone.plan.to_json()


def test_a_model_without_values_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="has no values"):
        calibrate(tiny.llama().to("meta"), calibration=corpus(), work=tmp_path / "work")


def test_a_number_is_computed_once_unless_it_is_none() -> None:
    store, asked = MemoryStore(), list[float]()

    def compute(found: float) -> float:
        asked.append(found)
        return found

    assert remembered(store, "loss", lambda: compute(1.5)) == 1.5
    assert remembered(store, "loss", lambda: compute(2.5)) == 1.5
    for _ in range(2):  # infinite: a later run may do better
        assert remembered(store, "broken", lambda: compute(float("inf"))) == float("inf")
    assert remembered(None, "loss", lambda: compute(3.5)) == 3.5
    assert asked == [1.5, float("inf"), float("inf"), 3.5]
    assert [remembered(store, "third", lambda: 1 / 3) for _ in range(2)] == [1 / 3, 1 / 3]
