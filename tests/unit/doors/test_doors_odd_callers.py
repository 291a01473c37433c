"""Callers in a hurry: no models, odd arguments, threads, and modes of torch around a door."""

import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gacfx
from gacfx import api
from gacfx.checkpoint.rehearsal import ChangedByLoading
from gacfx.core.planned import Planned
from gacfx.errors import CheckpointError, GacError, PlanError, UnsupportedModel
from gacfx.modules.install import compressed_modules
from tests import tiny
from tests.few import few

UP = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def planned() -> Planned:
    return gacfx.plan(tiny.llama(), tiny.tokenizer(), calibration=tiny.texts())


def compress(model: Any, tokenizer: Any = None, **options: Any) -> api.Compressed:
    return api.compress(model, tokenizer or tiny.tokenizer(), calibration=tiny.texts(), **options)


# -- what is no model ----------------------------------------------------------------------------


class Pipeline:
    """As transformers.pipeline gives."""

    model = tiny.llama()


NO_MODELS: list[tuple[Any, str]] = [
    (None, "NoneType is no model; give a Hugging Face model"),
    ("llama", "str is no model; read it with gacfx.load"),
    (Path("llama"), "Path is no model; read it with gacfx.load"),
    (tiny.llama().config, "LlamaConfig is no model; give a Hugging Face model"),
    (type(tiny.llama()), "LlamaForCausalLM is no model; give a Hugging Face model"),
    ((1, 2), "tuple is no model"),
    (Pipeline(), "Pipeline is no model; give its .model"),
    (nn.DataParallel(tiny.llama()), "DataParallel spreads a model over devices; give its .module"),
    (nn.Sequential(), "Sequential has no parameters"),
]


@pytest.mark.parametrize(("given", "said"), NO_MODELS, ids=[said[:20] for _, said in NO_MODELS])
def test_what_is_no_model_is_told_so_by_every_door(planned: Planned, given: Any, said: str) -> None:
    doors: list[Callable[[], object]] = [
        lambda: compress(given),
        lambda: gacfx.plan(given, tiny.tokenizer(), calibration=tiny.texts()),
        lambda: api.calibrate(given, tiny.tokenizer(), calibration=tiny.texts()),
        lambda: gacfx.apply(given, planned),
        lambda: gacfx.apply_(given, planned),
    ]
    if not isinstance(given, str | Path):  # a name can be inspected
        doors += [lambda: gacfx.inspect(given), lambda: gacfx.capture(given)]
    for door in doors:
        with pytest.raises(UnsupportedModel, match=said.replace(".", r"\.")):
            door()


def test_wrappers_of_models_are_told_what_they_wrap() -> None:
    compiled: Any = torch.compile(tiny.llama(), backend="eager")
    with pytest.raises(UnsupportedModel, match=r"is a compiled model; give its \._orig_mod"):
        gacfx.inspect(compiled)

    class PeftModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = tiny.llama()

    with pytest.raises(UnsupportedModel, match=r"merge_and_unload\(\) first, or give its get_base"):
        compress(PeftModel().eval())


def test_a_model_without_values_is_refused() -> None:
    with pytest.raises(GacError, match=r"has no values \(meta device\); load its weights first"):
        compress(tiny.llama().to("meta"))


def test_a_module_without_a_configuration_cannot_come_back() -> None:
    with pytest.raises(UnsupportedModel, match="Linear has no configuration"):
        compress(nn.Linear(3, 3).eval())


# -- odd arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_loss": float("nan")}, "max_loss nan: give nats per token"),
        ({"max_loss": "x"}, "max_loss 'x': give nats"),
        ({"max_loss": None}, "max_loss None: give nats"),
        ({"seed": "x"}, "seed 'x': give a whole number"),
        ({"seed": 1.5}, "seed 1.5: give a whole number"),
        ({"skip": "mlp"}, r"skip 'mlp': give a tuple of patterns"),
        ({"skip": None}, "skip None: give a tuple"),
        ({"skip": (5,)}, r"skip \(5,\): give a tuple"),
        ({"search": None}, r"search None: give gacfx\.Search"),
        ({"search": "auto"}, r"search 'auto': give gacfx\.Search"),
        ({"workload": "x"}, "workload 'x': give"),
        ({"force": "no"}, "force 'no': give True or False"),
        ({"gpu": None}, "gpu None: give a name such as h200"),
        ({"gpu": 5}, "gpu 5: give a name such as h200"),
        ({"ratio": "1e400"}, "ratio 1e400: the share removed must be below 1"),
        ({"ratio": "9" * 400}, "ratio '999.*': not a number such as 0.2"),
        ({"ratio": "1e999999999"}, "ratio '1e999999999': not a number such as 0.2"),
        ({"ratio": "1e-9_999_999"}, "ratio '1e-9_999_999': not a number such as 0.2"),
    ],
    ids=lambda found: str(found)[:30],
)
def test_an_odd_argument_is_refused_before_any_work(options: dict[str, Any], said: str) -> None:
    work: list[object] = []
    with pytest.raises(GacError, match=said) as error:
        compress(tiny.llama(), progress=lambda *done: work.append(done), **options)
    assert not work and "\n" not in str(error.value)


def test_calibrating_refuses_the_same(tmp_path: Path) -> None:
    odd: Any = "mlp"
    with pytest.raises(PlanError, match="skip 'mlp'"):
        api.calibrate(tiny.llama(), tiny.tokenizer(), calibration=tiny.texts(), skip=odd)


@pytest.mark.parametrize("given", [5, None, "plan", "compressed"], ids=str)
def test_what_is_no_plan_is_not_applied(planned: Planned, given: Any) -> None:
    made = api.Compressed(None, None, planned, None)  # type: ignore[arg-type]
    given = {"plan": planned.plan, "compressed": made}.get(given, given)
    with pytest.raises(PlanError, match=r"is no plan with factors; give (what|its \.planned)"):
        gacfx.apply_(tiny.llama(), given)


def test_what_was_not_compressed_is_not_saved(tmp_path: Path) -> None:
    given: Any = tiny.llama()
    with pytest.raises(CheckpointError, match="LlamaForCausalLM is not what gacfx.compress"):
        gacfx.save(given, tmp_path / "out")


def test_a_tokenizer_of_ones_own_that_cannot_be_saved_is_said_before_writing(
    tmp_path: Path,
) -> None:
    made = compress(tiny.llama(), lambda text: {"input_ids": list(text.encode())})
    with pytest.raises(CheckpointError, match="function has no save_pretrained, so it cannot"):
        gacfx.save(made, tmp_path / "out")
    assert not list(tmp_path.iterdir())


# -- what no folder holds ------------------------------------------------------------------------


def test_hooks_that_change_the_model_are_said_to_be_lost() -> None:
    model = tiny.llama()
    model.model.layers[0].register_forward_hook(lambda _module, _args, out: out)
    with pytest.warns(ChangedByLoading, match="layers.0: has forward hooks; no folder holds that"):
        api.check_saves(model)


def test_a_forward_of_ones_own_is_said_to_be_lost() -> None:
    model = tiny.llama()
    layer = model.model.layers[1]
    layer.forward = layer.forward
    with pytest.warns(ChangedByLoading, match="layers.1: has a forward of its own; no folder"):
        api.check_saves(model)


def test_a_cast_of_rotary_frequencies_is_said_to_be_lost() -> None:
    with pytest.warns(ChangedByLoading, match="inv_freq: is torch.bfloat16, as Module.to makes it"):
        api.check_saves(tiny.llama().to(torch.bfloat16))


def _backward(layer: nn.Linear) -> None:
    layer.register_full_backward_hook(lambda *_: None)


def _before_backward(layer: nn.Linear) -> None:
    layer.register_full_backward_pre_hook(lambda *_: None)


def _gradient(layer: nn.Linear) -> None:
    layer.weight.register_hook(lambda grad: grad)


def _accumulated(layer: nn.Linear) -> None:
    layer.weight.register_post_accumulate_grad_hook(lambda _: None)


def _replaced(layer: nn.Linear) -> None:
    layer.forward = layer.forward  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "attach", [_backward, _before_backward, _gradient, _accumulated, _replaced]
)
def test_a_layer_is_not_replaced_under_what_is_attached_to_it(
    planned: Planned, attach: Callable[[nn.Linear], None]
) -> None:
    model = tiny.llama()
    attach(model.get_submodule(UP))
    with pytest.raises(UnsupportedModel, match=f"{UP}: (has hooks|its forward was replaced)"):
        gacfx.apply_(model, planned)
    assert compressed_modules(model) == {}


# -- threads and modes ---------------------------------------------------------------------------


def same(one: Planned, other: Planned) -> bool:
    """Equal decisions, and equal tensors to the last bit."""
    assert UP in one.factors
    return one.plan.decisions == other.plan.decisions and all(
        torch.equal(tensor, other.factors[module].tensors[name])
        for module, factors in one.factors.items()
        for name, tensor in factors.tensors.items()
    )


def test_two_threads_that_compress_do_not_meet(planned: Planned) -> None:
    found: dict[int, object] = {}
    models = [tiny.llama() for _ in range(3)]  # made from the one random state of the process

    def work(number: int) -> None:
        try:
            found[number] = gacfx.plan(models[number], tiny.tokenizer(), calibration=tiny.texts())
        except Exception as error:  # shown below
            found[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found.values():
        assert isinstance(one, Planned), one
        assert same(one, planned)


@pytest.mark.parametrize(
    "around",
    [
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.device("meta"),
        pytest.param(torch.inference_mode, marks=pytest.mark.exhaustive),
        pytest.param(torch.no_grad, marks=pytest.mark.exhaustive),
    ],
    ids=["autocast", "device", "inference", "no_grad"],
)
def test_a_mode_around_a_door_changes_nothing(
    planned: Planned, around: Callable[[], AbstractContextManager[object]]
) -> None:
    model = tiny.llama()
    with around():
        made = compress(model, ratio="0.2")
    assert same(made.planned, planned)


def test_loading_names_its_device_itself(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "dense")
    with torch.device("meta"):
        model, _ = gacfx.load(folder)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def compile_in_place(model: Any, backend: Callable[..., Any]) -> None:
    model.compile(backend=backend)


def compile_forward(model: Any, backend: Callable[..., Any]) -> None:
    model.forward = torch.compile(model.forward, backend=backend)


def compile_layer(model: Any, backend: Callable[..., Any]) -> None:
    model.model.layers[0].compile(backend=backend)


@pytest.mark.parametrize(
    "compiles", few([compile_in_place, compile_forward, compile_layer], compile_forward)
)
def test_a_compiled_module_is_not_compiled_anew_for_every_text(
    compiles: Callable[..., None],
) -> None:
    model = tiny.llama(layers=1)
    calls: list[object] = []

    def counted(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        calls.append(graph)
        return graph.forward

    compiles(model, counted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ChangedByLoading)  # a forward of its own is in no folder
        gacfx.plan(model, tiny.tokenizer(), calibration=tiny.texts())
    assert not calls


def test_a_compiled_part_can_be_looked_at_and_is_refused_before_calibration() -> None:
    model = tiny.llama()
    model.model.layers[1] = torch.compile(model.model.layers[1], backend="eager")
    assert gacfx.inspect(model).params == gacfx.inspect(tiny.llama()).params
    with pytest.raises(
        UnsupportedModel, match=r"^model\.layers\.1 is compiled.*layers\.1\._orig_mod"
    ):
        compress(model)
