"""``gacfx.heal``: what it is given and gives back, LoRA included, and what it refuses."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import gacfx
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.readable import UnreadableWindows
from gacfx.calibration.text import Corpus
from gacfx.core.decision import LowRank
from gacfx.core.plan_folder import load_plan
from gacfx.errors import (
    CalibrationError,
    CheckpointError,
    HealingError,
    NoPeft,
    NotHealed,
    PlanMismatch,
    PoorQuality,
)
from gacfx.healing.door import asked_settings, healing_text
from gacfx.healing.settings import Healing
from gacfx.healing.source import read_source
from gacfx.modules.experts import unpacked
from gacfx.modules.install import decisions_in
from tests.families.zoo import FAMILIES
from tests.unit.healing import patients

FAST: dict[str, Any] = {"tokens": 5_000, "step_tokens": 192}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return patients.folders(tmp_path_factory.mktemp("pair"))


def better(small: Path, out: Path, corpus: Corpus) -> bool:
    models = [AutoModelForCausalLM.from_pretrained(each) for each in (small, out)]
    before, after = (evaluate(model, corpus).nats_per_token for model in models)
    return bool(after < before)


def test_a_healed_model_is_saved_and_comes_back(pair: tuple[Path, Path], tmp_path: Path) -> None:
    small, dense = pair
    stages: set[str] = set()
    healed = gacfx.heal(
        small,
        against=dense,
        calibration=patients.corpus(),
        progress=lambda stage, *_: stages.add(stage),
        settings=Healing(**FAST),
    )
    assert stages == {"learning rates", "heal"}
    out = gacfx.save(healed, tmp_path / "healed")
    again = gacfx.load(out)[0]
    ids = patients.corpus().documents[0][None]
    assert torch.equal(again(ids).logits, healed.model(ids).logits)
    assert decisions_in(again) == decisions_in(gacfx.load(small)[0])
    assert better(small, out, patients.corpus(seed=5))
    plan, factors = load_plan(out / "plan")
    assert plan == healed.planned.plan and factors.keys() == healed.planned.factors.keys()
    with pytest.raises(CheckpointError, match="exists and is not empty"):
        gacfx.save(healed, out)


def test_a_pruned_model_in_half_precision_heals(tmp_path: Path) -> None:
    model: Any = FAMILIES["llama"].make()
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 6 if weight.dim() == 2 else 1
    model = model.to(torch.bfloat16)
    small, dense = patients.folders(tmp_path, model, patients.pruned(model))
    corpus = Corpus(tuple(ids % 96 for ids in patients.corpus().documents))
    healed = gacfx.heal(small, against=dense, calibration=corpus, window=48, **FAST)
    out = gacfx.save(healed, tmp_path / "healed")
    again = AutoModelForCausalLM.from_pretrained(out)
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    said = healed.healing
    assert said["after"]["kl"] < said["before"]["kl"] and said["step_tokens"] == 192


def test_experts_heal_one_by_one(tmp_path: Path) -> None:
    model: Any = FAMILIES["mixtral"].make()
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 5 if weight.dim() > 1 else 1
    single = unpacked(model)
    names = [
        name
        for name, each in single.named_modules()
        if ".experts." in name and isinstance(each, torch.nn.Linear)
    ]
    made = patients.planned(single, {name: LowRank(4) for name in names[:6]})
    small, dense = patients.folders(tmp_path, model, made)
    corpus = Corpus(tuple(ids % 90 for ids in patients.corpus().documents))
    healed = gacfx.heal(small, against=dense, calibration=corpus, window=40, **FAST)
    assert healed.healing["after"]["kl"] < 0.95 * healed.healing["before"]["kl"]
    again = gacfx.load(gacfx.save(healed, tmp_path / "healed"))[0]
    ids = corpus.documents[0][None]
    assert torch.equal(again(ids).logits, healed.model(ids).logits)


def test_adapters_are_merged_into_a_folder_of_the_same_kind(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="LoRA needs peft")
    small, dense = pair
    corpus = patients.corpus()
    healed = gacfx.heal(small, against=dense, calibration=corpus, lora=4, **FAST)
    assert healed.healing["lora"] == 4
    out = gacfx.save(healed, tmp_path / "healed")
    assert better(small, out, patients.corpus(seed=5))
    names = gacfx.load(small)[0].state_dict().keys()
    assert gacfx.load(out)[0].state_dict().keys() == names
    again = gacfx.heal(small, against=dense, calibration=corpus, lora=4, **FAST)
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, healed.model.state_dict()[name])


def test_a_work_folder_belongs_to_one_text_model_and_setting(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    small, dense = pair
    given: dict[str, Any] = {"against": dense, "calibration": patients.corpus(), **FAST}
    given["work"] = tmp_path / "work"
    gacfx.heal(small, **given)
    stages: list[str] = []
    healed = gacfx.heal(small, **given, progress=lambda stage, *_: stages.append(stage))
    assert stages == []  # nothing was left to do
    with pytest.raises(CheckpointError, match="is of other work: its text is"):
        gacfx.heal(small, **{**given, "calibration": patients.corpus(seed=1)})
    with pytest.raises(CheckpointError, match="is of other work: its setting rates is"):
        gacfx.heal(small, **given, rates=(1e-3,))
    again = gacfx.save(healed, tmp_path / "healed")
    with pytest.raises(CheckpointError, match="is of other work: its checkpoint is"):
        gacfx.heal(again, **given)
    other = gacfx.load(dense)[0]
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1  # no plan speaks of it
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="is of other work: its dense model is"):
        gacfx.heal(small, **{**given, "against": tmp_path / "other"})


def test_adapters_without_peft_say_what_to_install(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(NoPeft, match=r'pip install "peft>=0.21", the extra lora'):
        gacfx.heal(pair[0], against=pair[1], calibration=patients.corpus(), lora=4)


def test_nothing_better_is_an_error_of_its_own(pair: tuple[Path, Path]) -> None:
    small, dense = pair
    given: Any = {"against": dense, "calibration": patients.corpus(), **FAST}
    with pytest.raises(NotHealed, match=r"loss are 0.0\d+ and \d.* at best in 2\d steps") as raised:
        gacfx.heal(small, rates=(0.5,), **given)
    assert isinstance(raised.value, PoorQuality)


def test_another_dense_model_is_refused_by_its_weights(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    other = patients.dense()
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[3, 4] += 1e-3
    other.save_pretrained(tmp_path)
    with pytest.raises(PlanMismatch, match="up_proj: its weight") as raised:
        read_source(pair[0], tmp_path)
    assert raised.value.__notes__ == [f"{tmp_path} is not the dense model of this checkpoint"]


def test_a_dense_model_of_another_dtype_is_read_in_that_of_the_plan(tmp_path: Path) -> None:
    half = patients.dense(dtype=torch.bfloat16)
    small, _ = patients.folders(tmp_path, half)
    half.float().save_pretrained(tmp_path / "float")  # the same values
    assert read_source(small, tmp_path / "float").dense.dtype is torch.bfloat16


def test_windows_are_cut_and_a_text_is_read_as_far_as_it_is_trained_on(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    source = read_source(*pair)
    cut = healing_text(patients.corpus(), source, Healing(window=40))
    assert {len(ids) for ids in cut.documents} == {40} and len(cut.documents) == 80
    assert cut.numbers[:4] == (1, 1, 2, 2)
    path = patients.text_file(tmp_path / "text.txt")
    read = healing_text(path, source, Healing(tokens=900))
    assert 900 < read.tokens <= 1200
    with pytest.raises(CalibrationError, match="outside the model's vocabulary of 258"):
        healing_text(Corpus((torch.full((40,), 258),)), source, Healing())


def test_settings_are_one_value_or_names(pair: tuple[Path, Path]) -> None:
    assert asked_settings(None, {"rates": [1e-3], "lora": 2}) == Healing(rates=(1e-3,), lora=2)
    assert asked_settings(Healing(seed=3), {}).seed == 3
    with pytest.raises(HealingError, match="lora and settings are both given"):
        asked_settings(Healing(), {"lora": 2})
    with pytest.raises(HealingError, match="token is no setting of a healing; known: tokens, min"):
        gacfx.heal(pair[0], against=pair[1], calibration=patients.corpus(), token=5)


def test_windows_that_the_dense_model_has_no_numbers_for_are_left_out(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, windows = patients.corpus(), [tuple(ids) for ids in patients.corpus().documents]
    bad = [corpus.documents[place] for place in (4, 11)]  # to learn from, and held back

    def spoilt(checkpoint: str | Path, against: str | Path) -> Any:
        found = read_source(checkpoint, against)
        own = found.dense.forward

        def forward(input_ids: torch.Tensor, *args: Any, **more: Any) -> Any:
            made = own(input_ids, *args, **more)
            for row, ids in enumerate(input_ids):
                if any(torch.equal(ids[: len(each)], each) for each in bad):
                    made.logits[row] = torch.nan
            return made

        found.dense.forward = forward
        return found

    monkeypatch.setattr("gacfx.healing.door.read_source", spoilt)
    small, dense = pair
    asked = {"against": dense, "work": tmp_path / "work", **FAST}
    with pytest.warns(UnreadableWindows, match=f"^2 of {len(windows)} windows"):
        healed = gacfx.heal(small, calibration=corpus, **asked)
    monkeypatch.undo()
    left = Corpus(tuple(ids for place, ids in enumerate(corpus.documents) if place not in (4, 11)))
    wanted = gacfx.heal(small, against=dense, calibration=left, **FAST)
    assert healed.healing["after"] == wanted.healing["after"]
