"""A layer that fails on a document, or gives no numbers: both are named, and nothing is spoilt."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gacfx.calibration import batches
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.faults import first_without_numbers
from gacfx.calibration.gather import NotByLayer, gather, gather_texts
from gacfx.calibration.layered import PROBE_TOKENS
from gacfx.calibration.taylor import taylor_sums
from gacfx.calibration.text import Corpus
from gacfx.core.store import MemoryStore
from gacfx.errors import CalibrationError
from tests.tiny import llama
from tests.unit.calibration.test_calibration_by_layer import NAMES, model, same

LENGTHS = (40, 41, 42)
MARK = 1e4
"""Of a token that one document alone has."""
LAYERS = pytest.mark.parametrize("layer", [0, 1, 2])


@pytest.fixture(autouse=True)
def _alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each document is read alone, so that its length tells a layer which it is."""
    if "together" not in request.node.name:
        monkeypatch.setattr(batches, "MOST_TOKENS", 1)


def corpus() -> Corpus:
    """Of documents that their lengths tell apart, from another text of more documents."""
    random = torch.Generator().manual_seed(0)
    documents = tuple(torch.randint(2, 258, (n,), generator=random) for n in LENGTHS)
    return Corpus(documents, numbers=(4, 7, 9))


def spoilt(layer: int, change: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """The model with a layer whose output for the second document is changed."""
    found = model()
    own = found.model.layers[layer].forward

    def forward(hidden: Tensor, *args: Any, **more: Any) -> Tensor:
        made: Tensor = own(hidden, *args, **more)
        return change(hidden, made) if hidden.shape[1] == LENGTHS[1] else made

    found.model.layers[layer].forward = forward
    return found


def raises(_hidden: Tensor, _made: Tensor) -> Tensor:
    raise ValueError("out of\nluck")


def no_number(_hidden: Tensor, made: Tensor) -> Tensor:
    return made.index_fill(1, torch.tensor(20), torch.nan)


@LAYERS
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (raises, r"ValueError: out of luck \(in model\.layers\.{}\); mend the model$"),
        (no_number, "it gives NaN or infinity; run it in bfloat16 or float32"),
    ],
)
def test_a_layer_that_fails_after_the_probe_is_named_with_its_document(
    layer: int, fault: Callable[[Tensor, Tensor], Tensor], says: str
) -> None:
    broken, store = spoilt(layer, fault), MemoryStore()
    own = [vars(each).get("forward") for each in broken.modules()]
    said = rf"^model\.layers\.{layer} fails on document 7: {says.format(layer)}"
    with pytest.raises(CalibrationError, match=said) as caught:  # and no warning
        gather_texts(broken, (corpus(),), NAMES, store=store)
    assert "\n" not in str(caught.value)
    assert [vars(each).get("forward") for each in broken.modules()] == own
    assert not any(each._forward_hooks for each in broken.modules())
    # What was done before is there, and a sound model goes on with it.
    assert f"hidden.{layer}.0" in store and f"hidden.{layer + 1}.0" not in store
    (found,) = gather_texts(model(), (corpus(),), NAMES, store=store)
    assert same(found, gather(model(), corpus(), NAMES))


def test_of_documents_that_are_read_together_the_one_that_has_no_numbers_is_named() -> None:
    broken, text = model(), corpus()
    text.documents[1][0] = 5
    with torch.no_grad():
        for ids_T in (text.documents[0], text.documents[2]):
            ids_T[ids_T == 5] = 6
        broken.model.embed_tokens.weight[5] = MARK
    own = broken.model.layers[1].forward

    def forward(hidden: Tensor, *args: Any, **more: Any) -> Tensor:
        made: Tensor = own(hidden, *args, **more)
        return made.masked_fill((hidden > MARK / 2).any(-1, keepdim=True), torch.nan)

    broken.model.layers[1].forward = forward
    for store in (MemoryStore(), None):
        with pytest.raises(CalibrationError, match=r"model\.layers\.1.*") as caught:
            gather_texts(broken, (text,), NAMES, store=store)
        assert "document 7" in str(caught.value)


def test_a_layer_that_fails_where_gradients_are_wanted_is_named() -> None:
    def fails(hidden: Tensor, made: Tensor) -> Tensor:
        return raises(hidden, made) if made.requires_grad else made

    with pytest.raises(
        CalibrationError, match=r"^model\.layers\.2 fails on document 7: ValueError"
    ):
        gather_texts(spoilt(2, fails), (corpus(),), NAMES, store=MemoryStore())


def test_what_fails_in_parts_alone_after_the_probe_is_calibrated_whole() -> None:
    def refuses(_module: nn.Module, args: tuple[Any, ...]) -> None:
        if args[0].shape[1] > PROBE_TOKENS and bool(args[0].isnan().any()):
            raise ValueError("not a number")

    odd = model()
    odd.model.layers[0].register_forward_pre_hook(refuses)
    with pytest.warns(NotByLayer, match=r"ValueError: not a number"):
        (found,) = gather_texts(odd, (corpus(),), NAMES, store=MemoryStore())
    assert same(found, gather(model(), corpus(), NAMES))


@LAYERS
@pytest.mark.parametrize(
    "read",
    [
        lambda broken, text: gather(broken, text, NAMES),
        lambda broken, text: taylor_sums(broken, text, NAMES),
        lambda broken, text: evaluate(broken, text).checked(),
    ],
    ids=["gather", "taylor", "evaluate"],
)
def test_numbers_that_end_are_traced_to_the_layer_and_the_document(layer: int, read: Any) -> None:
    broken = spoilt(layer, no_number)
    says = rf"NaN or infinite on document 7, first in model\.layers\.{layer}; run it in"
    with pytest.raises(CalibrationError, match=says):
        read(broken, corpus())
    assert not any(each._forward_hooks for each in broken.modules())


@LAYERS
def test_a_layer_that_raises_is_named_by_the_whole_model(layer: int) -> None:
    says = rf"cannot read 41 tokens: ValueError: out of luck \(in model\.layers\.{layer}\); mend"
    with pytest.raises(CalibrationError, match=says):
        gather(spoilt(layer, raises), corpus(), NAMES)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_that_is_no_number_is_named_by_its_loss(value: float) -> None:
    broken = llama()
    with torch.no_grad():
        broken.model.layers[1].mlp.up_proj.weight[3, 5] = value
    with pytest.raises(CalibrationError, match=r"^model\.layers\.1\.mlp\.up_proj\.weight: NaN or"):
        evaluate(broken, corpus()).checked()


def test_a_model_with_numbers_alone_has_no_fault() -> None:
    assert first_without_numbers(model(), corpus().documents[0]) == ""
    masked = model()
    masked.model.layers[1].register_forward_hook(
        lambda _m, _a, made: made.index_fill(2, torch.tensor(5), -torch.inf)
    )
    found = first_without_numbers(masked, corpus().documents[0])
    assert found.startswith("model.layers.2.")
