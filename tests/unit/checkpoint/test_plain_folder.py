"""save_plain: a uniform pruned model is an ordinary folder; anything else is refused by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import gacfx
from gacfx.checkpoint.plain_folder import save_plain
from gacfx.checkpoint.pretrained import save_pretrained
from gacfx.core.decision import LowRank
from gacfx.core.pruning import Skip
from gacfx.errors import CheckpointError
from gacfx.modules.install import install_
from tests import stock
from tests.families.narrow import LAYOUTS, attention, decision_of, mlp, plan_of
from tests.families.zoo import CORNERS, FAMILIES
from tests.few import few
from tests.unit.checkpoint.tiny_models import factors_for

DENSE_MLP = [
    name for name in FAMILIES if LAYOUTS[name].opening and name not in ("bert", "t5", "vit")
]
HEADS = [name for name in DENSE_MLP if name not in ("gpt2", "opt", "gptneox")]
KEPT = tuple(range(0, 88, 2))


def ids() -> torch.Tensor:
    return FAMILIES["llama"].inputs()["input_ids"]


def narrow(family: str, *, heads: bool, layers: int = 2) -> Any:
    """All layers with half their channels, and one key-value head of two query heads."""
    model: Any = FAMILIES[family].make()
    chosen: list[Any] = []
    for layer in range(layers):
        width = mlp(model, family, layer)
        chosen.append((width, decision_of(width, KEPT)))
        if heads:
            block = attention(model, family, layer)
            chosen.append((block, decision_of(block, (1,), ((0, 2),))))
    gacfx.apply_(model, plan_of(model, *chosen))
    return model


def same(model: Any, folder: Path) -> Any:
    """What a loader makes of the folder, once it gives the very same logits."""
    back = AutoModelForCausalLM.from_pretrained(folder)
    assert "quantization_config" not in back.config.to_dict()
    assert not any("GACFX" in name for name in back.state_dict())
    with torch.no_grad():
        assert torch.equal(back(ids()).logits, model(ids()).logits)
    return back


@pytest.mark.parametrize("family", few(DENSE_MLP, *CORNERS))
def test_equal_widths_are_a_plain_folder(family: str, tmp_path: Path) -> None:
    model = narrow(family, heads=False)
    config = model.config.to_dict()
    save_plain(model, tmp_path / "out")
    back = same(model, tmp_path / "out")
    assert 44 in back.config.to_dict().values()
    assert model.config.to_dict() == config
    saved = gacfx.load(tmp_path / "out")[0]
    assert type(saved) is type(model)


@pytest.mark.parametrize("family", HEADS)
def test_equal_heads_are_a_plain_folder(family: str, tmp_path: Path) -> None:
    model = narrow(family, heads=True)
    back = same(model, save_plain(model, tmp_path / "out"))
    config = back.config
    assert (config.num_attention_heads, config.num_key_value_heads) == (2, 1)
    tokens = [
        each.generate(ids(), max_new_tokens=5, do_sample=False, eos_token_id=None).tolist()
        for each in (back, model)
    ]
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3", "gptneox", "gpt2"])
def test_a_layer_that_is_skipped_whole_is_left_out(family: str, layer: int, tmp_path: Path) -> None:
    model: Any = FAMILIES[family].make()
    both = (attention(model, family, layer), Skip()), (mlp(model, family, layer), Skip())
    gacfx.apply_(model, plan_of(model, *both))
    back = same(model, save_plain(model, tmp_path / "out"))
    assert back.config.num_hidden_layers == 1


def test_plain_transformers_loads_it_without_gacfx(tmp_path: Path) -> None:
    model = narrow("llama", heads=True)
    save_plain(model, tmp_path / "out")
    code = (
        "import sys; from transformers import AutoModelForCausalLM as A; "
        "print(A.from_pretrained(sys.argv[1]).num_parameters(), 'gacfx' in sys.modules)"
    )
    done = stock.run(code, str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [str(model.num_parameters()), "False"]


def test_a_dense_model_is_written_as_it_is(tmp_path: Path) -> None:
    model: Any = FAMILIES["llama"].make()
    same(model, save_plain(model, tmp_path / "out"))


def _one_layer(model: Any) -> list[Any]:
    return [(mlp(model, "llama", 1), decision_of(mlp(model, "llama", 1), KEPT))]


def _one_attention(model: Any) -> list[Any]:
    return [(attention(model, "llama", 1), decision_of(attention(model, "llama", 1), (0,)))]


def _half_skipped(model: Any) -> list[Any]:
    return [(attention(model, "llama", 1), Skip())]


def _all_skipped(model: Any) -> list[Any]:
    return [(kind(model, "llama", at), Skip()) for kind in (attention, mlp) for at in (0, 1)]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (_one_layer, "model.layers.0 has width 88, model.layers.1 has width 44"),
        (_one_attention, "model.layers.0 has heads 6/2, model.layers.1 has heads 3/1"),
        (_half_skipped, "model.layers.1: its attention is skipped and its MLP is not"),
        (_all_skipped, "every layer is skipped"),
    ],
)
def test_what_is_not_uniform_is_refused_by_name(chosen: Any, message: str, tmp_path: Path) -> None:
    model: Any = FAMILIES["llama"].make()
    gacfx.apply_(model, plan_of(model, *chosen(model)))
    with pytest.raises(CheckpointError, match=message):
        save_plain(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_low_ranks_are_refused_by_name(tmp_path: Path) -> None:
    model: Any = FAMILIES["llama"].make()
    install_(model, factors_for(model, ("q_proj",), kind=LowRank))
    with pytest.raises(CheckpointError, match=r"layers\.0\.self_attn\.q_proj: is rank 9"):
        save_plain(model, tmp_path / "out")


@pytest.mark.parametrize("family", ["gpt2", "opt", "gptneox"])
def test_heads_that_a_family_cannot_say_are_refused(family: str, tmp_path: Path) -> None:
    model: Any = FAMILIES[family].make()
    blocks = [attention(model, family, at) for at in (0, 1)]
    gacfx.apply_(model, plan_of(model, *((each, decision_of(each, (0, 3))) for each in blocks)))
    with pytest.raises(CheckpointError, match="this architecture cannot say it"):
        save_plain(model, tmp_path / "out")


def test_what_no_configuration_says_is_refused(tmp_path: Path) -> None:
    model = narrow("llama", heads=False)
    model.model.layers[0].register_forward_hook(lambda _module, _args, out: out * 2)
    with pytest.raises(CheckpointError, match="differs from the pruned one by"):
        save_plain(model, tmp_path / "out")


def test_a_folder_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError):
        save_plain(narrow("llama", heads=False), tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_tensor_that_was_written_wrong_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoils(model: Any, folder: Path) -> None:
        before = model.model.norm.weight.clone()
        with torch.no_grad():
            model.model.norm.weight[3] += 1e-6
            save_pretrained(model, folder)
            model.model.norm.weight.copy_(before)

    monkeypatch.setattr("gacfx.checkpoint.plain_folder.save_pretrained", spoils)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight: .* is not the"):
        save_plain(narrow("llama", heads=False), tmp_path / "plain")
    assert not list(tmp_path.iterdir())
