"""save_checkpoint: a complete folder, or nothing at all."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from gacfx.checkpoint.hf import GacfxConfig
from gacfx.checkpoint.load import load_checkpoint
from gacfx.checkpoint.save import save_checkpoint
from gacfx.core.materialise import FactorSet
from gacfx.core.plan import Plan
from gacfx.core.plan_folder import load_plan
from gacfx.errors import CheckpointError, PlanError
from gacfx.modules.install import install_, skeleton_, swapped
from tests.unit.checkpoint.tiny_models import factors_for, llama, plan_for, skeleton_of, token_ids
from tests.unit.checkpoint.tiny_tokenizer import tokenizer

Compressed = tuple[PreTrainedModel, Plan, FactorSet]


@pytest.fixture
def compressed() -> Compressed:
    torch.manual_seed(0)
    model = llama()
    factors = factors_for(model, ("q_proj",))
    plan = plan_for(model, factors)
    install_(model, factors)
    return model, plan, factors


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_everything_is_there(compressed: Compressed, tmp_path: Path) -> None:
    model, plan, factors = compressed
    out = tmp_path / "deep" / "tiny-0.2"
    done = save_checkpoint(
        model, tokenizer(), out, plan=plan, factors=factors, report={"loss": 1.5}
    )
    assert done == out
    assert set(names(out)) >= {
        "README.md",
        "config.json",
        "gacfx_report.json",
        "generation_config.json",
        "model.safetensors",
        "plan/factors.safetensors",
        "plan/plan.json",
        "tokenizer.json",
    }
    assert [path.name for path in out.parent.iterdir()] == ["tiny-0.2"]
    assert json.loads((out / "gacfx_report.json").read_text()) == {"loss": 1.5}
    assert AutoTokenizer.from_pretrained(out)("b c")["input_ids"] == [4, 5]
    back, pairs = load_plan(out / "plan")
    assert back == plan
    assert all(torch.equal(pairs[n].tensors["down"], factors[n].tensors["down"]) for n in factors)


def test_the_card_says_how_to_load(compressed: Compressed, tmp_path: Path) -> None:
    model, plan, factors = compressed
    out = save_checkpoint(model, None, tmp_path / "tiny", plan=plan, factors=factors)
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "Import gacfx before loading" in card
    assert "import gacfx  # registers the loader\n" in card
    assert 'AutoModelForCausalLM.from_pretrained("tiny")' in card
    assert "| 1,824 of 4,608 (60.4% removed) |" in card
    assert str(tmp_path) not in card


def test_the_model_is_left_as_it_was(compressed: Compressed, tmp_path: Path) -> None:
    model, plan, factors = compressed
    before = set(vars(model.config))
    save_checkpoint(model, None, tmp_path / "out", plan=plan, factors=factors)
    assert set(vars(model.config)) - before <= {"dtype", "architectures"}
    assert not hasattr(model.config, "quantization_config")


def test_a_swapped_model_can_be_saved(tmp_path: Path) -> None:
    model = llama()
    factors = factors_for(model, ("q_proj",))
    plan = plan_for(model, factors)
    with swapped(model, factors):
        want = model(token_ids()).logits
        out = save_checkpoint(model, None, tmp_path / "out", plan=plan, factors=factors)
    assert torch.equal(load_checkpoint(out)(token_ids()).logits, want)


def test_a_reloaded_model_keeps_its_block(compressed: Compressed, tmp_path: Path) -> None:
    model, plan, factors = compressed
    out = save_checkpoint(model, None, tmp_path / "one", plan=plan, factors=factors)
    back = load_checkpoint(out)
    save_checkpoint(back, None, tmp_path / "two", plan=plan, factors=factors)
    assert isinstance(back.config.quantization_config, GacfxConfig)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_an_existing_folder_is_refused(compressed: Compressed, tmp_path: Path) -> None:
    model, plan, factors = compressed
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(CheckpointError, match="exists and is not empty; allow overwrite"):
        save_checkpoint(model, None, tmp_path / "out", plan=plan, factors=factors)
    with pytest.raises(CheckpointError, match="is not a checkpoint folder"):
        save_checkpoint(model, None, tmp_path / "out", plan=plan, factors=factors, overwrite=True)
    assert names(tmp_path) == ["out/mine.txt"]


def test_a_file_is_refused(compressed: Compressed, tmp_path: Path) -> None:
    model, plan, factors = compressed
    (tmp_path / "out").touch()
    with pytest.raises(CheckpointError, match="is a file; name a folder"):
        save_checkpoint(model, None, tmp_path / "out", plan=plan, factors=factors, overwrite=True)


def test_an_empty_folder_is_filled(compressed: Compressed, tmp_path: Path) -> None:
    model, plan, factors = compressed
    (tmp_path / "out").mkdir()
    out = save_checkpoint(model, None, tmp_path / "out", plan=plan, factors=factors)
    assert (out / "model.safetensors").exists()


def test_overwriting_replaces_the_whole_folder(compressed: Compressed, tmp_path: Path) -> None:
    model, plan, factors = compressed
    out = save_checkpoint(model, None, tmp_path / "out", plan=plan, factors=factors, report={})
    (out / "stale.txt").touch()
    save_checkpoint(model, None, out, plan=plan, factors=factors, overwrite=True)
    assert "stale.txt" not in names(out)
    assert "gacfx_report.json" not in names(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_to_a_folder_stays_a_link(compressed: Compressed, tmp_path: Path) -> None:
    model, plan, factors = compressed
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    save_checkpoint(model, None, tmp_path / "link", plan=plan, factors=factors)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "config.json").exists()


@pytest.mark.parametrize(
    "target", ["gacfx.checkpoint.save.model_card", "safetensors.torch.save_file"]
)
@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (OSError(28, "No space left on device"), CheckpointError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_in_the_middle(
    compressed: Compressed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    failure: BaseException,
    raised: type[BaseException],
    existing: bool,
) -> None:
    model, plan, factors = compressed
    if existing:
        save_checkpoint(model, None, tmp_path / "out", plan=plan, factors=factors)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}

    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(target, fail)
    with pytest.raises(raised):
        save_checkpoint(model, None, tmp_path / "out", plan=plan, factors=factors, overwrite=True)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"] * existing
    assert not hasattr(model.config, "quantization_config")


def _not_applied(model: PreTrainedModel, plan: Plan) -> tuple[PreTrainedModel, Plan]:
    return llama(), plan


def _other_plan(model: PreTrainedModel, plan: Plan) -> tuple[PreTrainedModel, Plan]:
    return model, replace(plan, choices=plan.choices[:1])


def _nan(model: PreTrainedModel, plan: Plan) -> tuple[PreTrainedModel, Plan]:
    with torch.no_grad():
        model.get_parameter("model.norm.weight").fill_(torch.nan)
    return model, plan


def _meta(model: PreTrainedModel, plan: Plan) -> tuple[PreTrainedModel, Plan]:
    empty = skeleton_of(model)
    skeleton_(empty, plan.decisions)
    return empty, plan


def _quantized(model: PreTrainedModel, plan: Plan) -> tuple[PreTrainedModel, Plan]:
    class Other:
        quant_method = "awq"

    model.config.quantization_config = Other()
    return model, plan


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_not_applied, "q_proj: dense in the model, rank 9 in the plan; apply the plan"),
        (_other_plan, "layers.1.*q_proj: rank 10 in the model, dense in the plan"),
        (_nan, "model.norm.weight: NaN"),
        (_meta, "has no values"),
        (_quantized, "quantized with awq"),
    ],
)
def test_models_that_are_not_what_the_plan_says(
    compressed: Compressed,
    tmp_path: Path,
    spoil: Callable[[PreTrainedModel, Plan], tuple[PreTrainedModel, Plan]],
    message: str,
) -> None:
    model, plan = spoil(*compressed[:2])
    with pytest.raises(CheckpointError, match=message):
        save_checkpoint(model, None, tmp_path / "out", plan=plan, factors=compressed[2])
    assert not any(tmp_path.iterdir())


def test_factors_of_another_plan(compressed: Compressed, tmp_path: Path) -> None:
    model, plan, _ = compressed
    with pytest.raises(PlanError, match="is in the plan but not in the factors"):
        save_checkpoint(model, None, tmp_path / "out", plan=plan, factors={})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("report", [{"loss": float("nan")}, {"model": object()}])
def test_a_report_that_is_no_json(
    compressed: Compressed, tmp_path: Path, report: dict[str, object]
) -> None:
    model, plan, factors = compressed
    with pytest.raises(CheckpointError, match="the report is not plain JSON"):
        save_checkpoint(model, None, tmp_path / "out", plan=plan, factors=factors, report=report)
    assert not any(tmp_path.iterdir())


def test_a_card_tells_of_healings_and_passes_over_what_is_none(
    compressed: Compressed, tmp_path: Path
) -> None:
    model, plan, factors = compressed
    good = {"tokens": 5_000, "before": {"kl": 0.1}, "after": {"kl": 0.05}}
    odd: list[object] = [3, {}, {**good, "tokens": "5"}, {**good, "after": {"kl": None}}]
    for number, healed in enumerate(([good, *odd], "yes", None)):
        out = save_checkpoint(
            model,
            None,
            tmp_path / str(number),
            plan=plan,
            factors=factors,
            report={"healed": healed},
        )
        text = (out / "README.md").read_text()
        row = "| healed | on 5,000 tokens: KL to the dense model 0.1000 -> 0.0500 nats/token on"
        assert text.count("| healed |") == text.count(row) == (number == 0)
