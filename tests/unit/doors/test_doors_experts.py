"""Mixtures of experts from text to a folder: planned, rewritten, saved, loaded, generating."""

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import gacfx
import gacfx.api
from gacfx.calibration.text import Corpus
from gacfx.core.planned import Planned
from gacfx.core.pruning import Width
from gacfx.core.search import Search
from gacfx.errors import PlanMismatch
from tests.few import few
from tests.unit.modules.test_experts import MAKES

SEARCHES = {
    "ranks": Search(value="two-sided"),
    "sizes": Search(value="two-sided", prune="only", align=8),
}


def corpus() -> Corpus:
    generator = torch.Generator().manual_seed(0)
    return Corpus(tuple(torch.randint(3, 97, (40,), generator=generator) for _ in range(8)))


def ids() -> torch.Tensor:
    return torch.arange(3, 24)[None]


def experts_of(plan: Planned) -> list[str]:
    return [name for name in plan.plan.decisions if ".experts." in name]


@pytest.mark.parametrize(
    ("family", "search"),
    few(
        [(family, search) for family in MAKES for search in SEARCHES],
        ("mixtral", "ranks"),
        ("qwen3moe", "sizes"),
    ),
)
@torch.no_grad()
def test_the_whole_road(family: str, search: str, tmp_path: Path) -> None:
    model = MAKES[family]()
    made = gacfx.compress(model, calibration=corpus(), ratio=0.3, search=SEARCHES[search])
    plan = made.planned.plan
    held = sum(w.params for name, w in plan.weights.items() if ".experts." in name)
    assert held > plan.budget.targeted_params / 3, "experts are most of such a model"
    if search == "ranks":
        assert len(experts_of(made.planned)) >= 8
    gacfx.save(made, tmp_path / "model")
    loaded, _ = gacfx.load(tmp_path / "model")
    want = made.model(ids()).logits
    assert torch.equal(loaded(ids()).logits, want)
    with_cache = loaded.generate(ids(), max_new_tokens=6, do_sample=False)
    without = made.model.generate(ids(), max_new_tokens=6, do_sample=False, use_cache=False)
    assert torch.equal(with_cache, without)


@cache
def planned() -> Planned:
    return gacfx.plan(MAKES["mixtral"](), calibration=corpus(), ratio=0.3, search=SEARCHES["ranks"])


def test_a_plan_leaves_the_model_packed() -> None:
    model = MAKES["mixtral"]()
    names = list(model.state_dict())
    gacfx.plan(model, calibration=corpus(), ratio=0.3, search=SEARCHES["ranks"])
    assert list(model.state_dict()) == names


def test_channels_of_an_expert_go_together() -> None:
    model = MAKES["qwen3moe"]()
    made = gacfx.plan(model, calibration=corpus(), ratio=0.3, search=SEARCHES["sizes"])
    widths = [c for c in made.plan.choices if isinstance(c.decision, Width)]
    assert widths and all(len(c.weights) == 2 for c in widths if ".experts." in c.group)


def test_one_layer_at_a_time_is_the_same_plan(tmp_path: Path) -> None:
    model = MAKES["mixtral"]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = gacfx.plan(
            model,
            calibration=corpus(),
            ratio=0.3,
            search=SEARCHES["ranks"],
            work=tmp_path / "work",
        )
    assert made.plan.decisions == planned().plan.decisions


@torch.no_grad()
def test_an_expert_that_no_token_reaches_stays_dense() -> None:
    model = MAKES["mixtral"]()
    router = model.model.layers[0].mlp.gate.weight
    router[3] = 0
    router[3, 0] = -1e4
    hook = model.model.layers[0].post_attention_layernorm.register_forward_hook(
        lambda _, __, out: torch.cat([out[..., :1].abs() + 1, out[..., 1:]], -1)
    )
    made = gacfx.plan(model, calibration=corpus(), ratio=0.2, search=SEARCHES["ranks"])
    hook.remove()
    assert not any(name.startswith("model.layers.0.mlp.experts.3.") for name in made.plan.decisions)
    assert any("experts.3.fc1" in name for name in made.plan.refusals) or any(
        "experts.3.fc1" in c.group and c.reason for c in made.plan.choices
    )


def test_a_plan_for_other_experts_is_refused() -> None:
    other: Any = MAKES["mixtral"]()
    other.model.layers[0].mlp.experts.down_proj.data[1].mul_(2)
    with pytest.raises(PlanMismatch, match=r"experts\.1\.fc2: its weight .* is not what"):
        gacfx.apply(other, planned())
    assert "model.layers.0.mlp.experts.down_proj" in other.state_dict()


@torch.no_grad()
def test_it_is_compiled_once_it_is_unpacked() -> None:
    model = MAKES["mixtral"]()
    torch._dynamo.reset()
    run: Any = torch.compile(
        gacfx.unpacked(model), backend=gacfx.make_backend(planned(), "eager"), fullgraph=True
    )
    want = gacfx.apply(model, planned())(ids(), use_cache=False).logits
    torch.testing.assert_close(run(ids(), use_cache=False).logits, want)
    torch._dynamo.reset()
    packed: Any = torch.compile(model, backend=gacfx.make_backend(planned(), "eager"))
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match=r"gacfx\.unpacked\(model\)"):
        packed(ids(), use_cache=False)


def test_a_configuration_alone_is_planned_expert_by_expert(tmp_path: Path) -> None:
    MAKES["mixtral"]().config.save_pretrained(tmp_path)
    plan = gacfx.api.plan_synthetic(tmp_path, goal="0.3")
    names = {f"model.layers.{n}.mlp.experts.{e}.fc1" for n in range(2) for e in range(4)}
    assert names <= {choice.group for choice in plan.choices}
    assert plan.budget.targeted_params > plan.budget.model_params / 2
    tied = gacfx.api.plan_synthetic(
        tmp_path, goal="0.3", search=Search(form="pair", limits=("tie-experts",))
    )
    first = {str(tied.decisions.get(name)) for name in names if ".layers.0." in name}
    assert len(first) == 1 and tied.rules == 4
