"""Masks trained on a model with planted pieces; what is frozen, resumed and refused."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gacfx.errors import CalibrationError, CheckpointError, PlanError, UnsupportedModel
from gacfx.modules.routing_hooks import pools
from gacfx.routing.against_dense import kl_to_dense
from gacfx.routing.classes import principal
from gacfx.routing.one_basis.mask_steps import MaskTraining
from gacfx.routing.one_basis.mask_training import best_learning_rate, train_masks, untrained_masks
from gacfx.routing.one_basis.masks import KINDS, Kind, TrainedMasks
from tests import tiny
from tests.unit.routing_training import planted
from tests.unit.routing_training.planted import PROMPT

COUNT = 12
"""Windows of each kind."""
FAST = MaskTraining(steps=50, batch=8, bias_rate=0.1, map_rate=0.1)
SHORT = replace(FAST, steps=7, hidden=3)


class StopError(Exception):
    """Somebody killed the run."""


@cache
def models() -> tuple[Any, Any]:
    """(dense, pooled)"""
    dense = planted.dense_model()
    return dense, planted.pooled(dense)


def numbers(ids_PT: Tensor) -> Tensor:
    """Features that the embeddings of prompts give, [P, 2]."""
    table = models()[0].get_input_embeddings().weight.detach()
    fit = planted.windows(COUNT)
    projection = principal(table[fit[:, :PROMPT]].mean(1), 2)
    found_PD, _ = projection(table[ids_PT[:, :PROMPT]].mean(1).double())
    return found_PD.float()


def features(kind: Kind, ids_PT: Tensor) -> Tensor | None:
    if kind == "static":
        return None
    return planted.kinds(len(ids_PT) // 2) if kind == "domain" else numbers(ids_PT)


def train(settings: MaskTraining, **options: Any) -> TrainedMasks:
    dense, model = models()
    ids_PT = planted.windows(COUNT)
    options = {"energies": planted.prefix_energies(), **options}
    return train_masks(
        model, ids_PT, PROMPT, dense, features(settings.kind, ids_PT), settings, **options
    )


@cache
def trained(kind: Kind) -> TrainedMasks:
    start = None if kind == "static" else trained("static")
    return train(replace(FAST, kind=kind), start=start)


def unseen(masks: TrainedMasks | None) -> float:
    """Divergence on windows that nobody trained on."""
    dense, model = models()
    ids_PT = planted.windows(COUNT, seed=9)
    pick = None if masks is None else masks.pick(features(masks.kind, ids_PT))
    return float(kl_to_dense(model, ids_PT, PROMPT, dense, pick).mean())


def stopping(after: int) -> Any:
    def progress(what: str, done: int, total: int) -> None:
        assert what == "train masks" and total == SHORT.steps
        if done == after:
            raise StopError

    return progress


def same(one: TrainedMasks, other: TrainedMasks) -> bool:
    bits = all(torch.equal(one.parameters[n], other.parameters[n]) for n in one.parameters)
    return bits and one.losses == other.losses and one.parameters.keys() == other.parameters.keys()


def test_a_trained_static_mask_beats_the_prefix() -> None:
    assert unseen(trained("static")) < 0.8 * unseen(None)
    begun = untrained_masks(
        models()[1], planted.windows(2), PROMPT, None, FAST, energies=planted.prefix_energies()
    )
    assert all(b.tolist() == [list(range(8))] for b in begun.pick().blocks.values())


@pytest.mark.parametrize("kind", ["domain", "linear", "two-layer"])
def test_masks_that_see_the_prompt_beat_a_static_one_where_prompts_differ(kind: Kind) -> None:
    assert unseen(trained(kind)) < 0.5 * unseen(trained("static"))


def test_a_router_of_trained_masks_picks_the_planted_pieces() -> None:
    pick = trained("linear").pick(numbers(planted.windows(COUNT, seed=9)))
    for blocks_PB in pick.blocks.values():
        parity_P = (blocks_PB % 2).float().mean(1)
        assert bool((parity_P[:COUNT] < 0.3).all()) and bool((parity_P[COUNT:] > 0.7).all())


def test_a_warm_start_begins_with_the_static_masks() -> None:
    ids_PT = planted.windows(COUNT)
    given = features("domain", ids_PT)
    settings = replace(FAST, kind="domain")
    begun = untrained_masks(models()[1], ids_PT, PROMPT, given, settings, start=trained("static"))
    static = trained("static").pick()
    for name, blocks_PB in begun.pick(given).blocks.items():
        assert torch.equal(blocks_PB, static.blocks[name].expand(len(ids_PT), -1))
    again = untrained_masks(models()[1], ids_PT, PROMPT, given, settings, start=trained("domain"))
    assert torch.equal(again.parameters["map"], trained("domain").parameters["map"])


def test_nothing_but_the_maps_is_changed() -> None:
    dense = planted.dense_model()
    model, ids_PT = planted.pooled(dense), planted.windows(COUNT)
    model.lm_head.weight.requires_grad_(False)
    before = {n: (p.detach().clone(), p.requires_grad) for n, p in model.named_parameters()}
    given = features("two-layer", ids_PT)
    settings = replace(SHORT, kind="two-layer", layer_error=0.1)
    begun = untrained_masks(model, ids_PT, PROMPT, given, settings)
    found = train_masks(model, ids_PT, PROMPT, dense, given, settings)
    for name, parameter in [*model.named_parameters(), *dense.named_parameters()]:
        assert parameter.grad is None, name
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name][0])
        assert parameter.requires_grad == before[name][1]
    assert all(each.weights is None for each in pools(model).values())
    for name, tensor in found.parameters.items():
        assert not torch.equal(tensor, begun.parameters[name]), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("more", [{}, {"layer_error": 0.3}, {"cache_bytes": 0}], ids=str)
def test_a_run_that_was_stopped_ends_with_the_same_bits(
    kind: Kind, more: dict[str, Any], tmp_path: Path
) -> None:
    settings, path = replace(SHORT, kind=kind, **more), tmp_path / "deep" / "masks.safetensors"
    whole = train(settings)
    for after in (1, 4):  # behind no checkpoint, behind one
        with pytest.raises(StopError):
            train(settings, checkpoint=path, every=3, progress=stopping(after))
    assert path.exists()
    steps: list[int] = []
    resumed = train(
        settings, checkpoint=path, every=3, progress=lambda _, done, __: steps.append(done)
    )
    assert steps == [4, 5, 6, 7]
    assert same(resumed, whole) and len(whole.losses) == 7
    assert same(train(settings, checkpoint=path, progress=stopping(7)), whole)  # nothing is done


def test_other_seeds_see_other_windows() -> None:
    assert train(SHORT).losses != train(replace(SHORT, seed=1)).losses


def test_a_cache_changes_no_more_than_rounding() -> None:
    kept, computed = train(SHORT), train(replace(SHORT, cache_bytes=0))
    assert kept.losses == pytest.approx(computed.losses, rel=1e-4)


def test_a_function_serves_as_the_dense_model() -> None:
    dense, model = models()
    ids_PT = planted.windows(COUNT)

    def function(ids: Tensor) -> Tensor:
        logits: Tensor = dense(ids).logits
        return logits

    energies = planted.prefix_energies()
    found = train_masks(model, ids_PT, PROMPT, function, None, SHORT, energies=energies)
    assert found.losses == pytest.approx(train(SHORT).losses, rel=1e-5)
    with pytest.raises(UnsupportedModel, match="a function has no hidden states"):
        train_masks(model, ids_PT, PROMPT, function, None, replace(SHORT, layer_error=1.0))


def test_the_error_of_layers_adds_to_the_first_third() -> None:
    plain, more = train(SHORT).losses, train(replace(SHORT, layer_error=0.5)).losses
    assert more[0] > plain[0] * 1.01
    settings = replace(SHORT, steps=9, layer_error=0.5)
    assert [settings.layers(step) > 0 for step in range(9)] == [True] * 3 + [False] * 6


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda raw: raw[: len(raw) // 2], "cannot be read"),
        (lambda raw: b"", "is empty"),
        (lambda raw: raw[:-9] + bytes(9), "its tensors are harmed"),
        (lambda raw: raw.replace(b"gacfx masks 1", b"gacfx masks 7"), "format 'gacfx masks 7'"),
    ],
)
def test_a_harmed_checkpoint_is_refused(harm: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    train(SHORT, checkpoint=path)
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(CheckpointError, match=says):
        train(SHORT, checkpoint=path)


def test_a_checkpoint_of_other_work_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    train(SHORT, checkpoint=path)
    with pytest.raises(CheckpointError, match="its setting seed is '0', and '3' is asked for"):
        train(replace(SHORT, seed=3), checkpoint=path)
    with pytest.raises(CheckpointError, match="its start is"):
        train(SHORT, checkpoint=path, start=trained("static"))
    dense, model = models()
    options: Any = {"energies": planted.prefix_energies(), "checkpoint": path}
    with pytest.raises(CheckpointError, match="its text is"):
        train_masks(model, planted.windows(COUNT, seed=5), PROMPT, dense, None, SHORT, **options)
    other = planted.dense_model(seed=1)
    with pytest.raises(CheckpointError, match="its dense model is"):
        train_masks(model, planted.windows(COUNT), PROMPT, other, None, SHORT, **options)
    with pytest.raises(CheckpointError, match="its model is"):
        train_masks(
            planted.pooled(other), planted.windows(COUNT), PROMPT, dense, None, SHORT, **options
        )


@pytest.mark.parametrize("sizes", [{"active": 12, "pool": 12}, {"shared": 8}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_can_be_chosen_nothing_is_trained(
    sizes: dict[str, int], kind: Kind, tmp_path: Path
) -> None:
    dense, ids_PT = models()[0], planted.windows(2)
    model, given = planted.pooled(dense, **sizes), features(kind, ids_PT)
    path, active = tmp_path / "masks.safetensors", sizes.get("active", 8)
    found = train_masks(
        model,
        ids_PT,
        PROMPT,
        dense,
        given,
        replace(SHORT, kind=kind),
        checkpoint=path,
        progress=stopping(1),
    )
    assert "nothing to choose" in found.reason and not found.losses and not path.exists()
    for blocks_PB in found.pick(given).blocks.values():
        assert blocks_PB.tolist() == [list(range(active))] * (1 if kind == "static" else 4)


def test_the_rate_that_does_best_on_held_back_windows_is_kept() -> None:
    dense, model = models()
    fit, held = planted.windows(COUNT), planted.windows(4, seed=7)
    tried = best_learning_rate(
        model,
        (fit, held),
        PROMPT,
        dense,
        (features("domain", fit), features("domain", held)),
        replace(FAST, kind="domain", steps=25),
        rates=(0.0, 0.01, 1.0),
        energies=planted.prefix_energies(),
    )
    assert min(tried.held_nats, key=lambda rate: tried.held_nats[rate]) == 1.0
    pick = tried.masks.pick(features("domain", held))
    found = float(kl_to_dense(model, held, PROMPT, dense, pick).mean())
    assert found == pytest.approx(tried.held_nats[1.0]) and found < tried.held_nats[0.0]


def test_nothing_worse_than_the_start_is_kept(tmp_path: Path) -> None:
    dense, model = models()
    both = planted.windows(COUNT), planted.windows(4, seed=7)
    tried = best_learning_rate(
        model, both, PROMPT, dense, (None, None), replace(SHORT, bias_rate=5.0), rates=(0.0, 1.0),
        start=trained("static"), checkpoints=tmp_path,
    )  # fmt: skip
    assert tried.held_nats[0.0] < tried.held_nats[1.0]
    assert torch.equal(tried.masks.parameters["bias"], trained("static").parameters["bias"])
    assert [file.name for file in tmp_path.iterdir()] == ["masks-1.safetensors"]
    with pytest.raises(PlanError, match="no learning rate"):
        best_learning_rate(model, both, PROMPT, dense, (None, None), SHORT, rates=())


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    dense, ids_PT = planted.dense_model(), planted.windows(2)
    model = planted.pooled(dense)
    dense.lm_head.weight.data[3] = torch.nan
    with pytest.raises(CalibrationError, match="step 1: the loss is nan"):
        train_masks(model, ids_PT, PROMPT, dense, None, SHORT)
    assert all(each.requires_grad for each in model.parameters())
    assert all(each.weights is None for each in pools(model).values())


def test_what_cannot_be_trained_is_said() -> None:
    dense, model = models()
    ids_PT = planted.windows(2)
    linear = replace(SHORT, kind="linear")
    with pytest.raises(PlanError, match="static masks look at no features"):
        train_masks(model, ids_PT, PROMPT, dense, torch.ones(4, 2), SHORT)
    with pytest.raises(PlanError, match="none are given"):
        train_masks(model, ids_PT, PROMPT, dense, None, linear)
    with pytest.raises(PlanError, match="features of 3 prompts for 4 windows"):
        train_masks(model, ids_PT, PROMPT, dense, torch.ones(3, 2), linear)
    with pytest.raises(CalibrationError, match="more than the 14 tokens"):
        train_masks(model, ids_PT, 14, dense, None, SHORT)
    with pytest.raises(UnsupportedModel, match="has no pools"):
        train_masks(tiny.llama(16, 24, 1), ids_PT, PROMPT, dense, None, SHORT)
    smaller = planted.pooled(dense, active=6)
    with pytest.raises(PlanError, match="for other pools"):
        train_masks(smaller, ids_PT, PROMPT, dense, None, SHORT, start=trained("static"))
    with pytest.raises(UnsupportedModel, match="training mode"):
        train_masks(planted.pooled(dense).train(), ids_PT, PROMPT, dense, None, SHORT)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "cubic"},
        {"steps": 0},
        {"batch": 0},
        {"bias_rate": -1.0},
        {"eps": 0.0},
        {"width_end": 0.0},
        {"width_begin": 0.01},
        {"layer_error": float("nan")},
        {"cache_bytes": -1},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        MaskTraining(**wrong)


def test_widths_and_rates_fall_from_the_first_step_to_the_last() -> None:
    settings = MaskTraining(steps=10)
    widths = [settings.width(step) for step in range(11)]
    assert widths[0] == 0.34 and widths[10] == pytest.approx(0.04)
    assert widths == sorted(widths, reverse=True)
    rates = [settings.rate(step) for step in range(11)]
    assert rates[0] == 1 and rates[5] == pytest.approx(0.5) and rates[10] == pytest.approx(0)
