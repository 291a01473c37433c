"""A saved model is the model: to 0.0, in fresh interpreters too, and never without gacfx."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from gacfx.checkpoint.save import save_checkpoint
from gacfx.core.decision import LowRank, Pivot
from gacfx.modules.install import compressed_modules, install_
from tests.few import few
from tests.unit.checkpoint.tiny_models import (
    LAYERS,
    MODELS,
    cast_,
    factors_for,
    plan_for,
    token_ids,
)

ROOT = Path(__file__).parents[2]
KINDS: tuple[type[LowRank | Pivot], ...] = (LowRank, Pivot)
CASES = {
    family if kind is LowRank else f"{family}-{kind.kind}": (family, kind)
    for family in MODELS
    for kind in KINDS
}
"""Name of a checkpoint -> its family, and the kind of all its decisions."""
FAMILIES = list(CASES)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def compress(name: str, out: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The compressed model, saved in ``out`` with the logits that it gives."""
    torch.manual_seed(0)
    family, kind = CASES[name]
    model = cast_(MODELS[family](), dtype)
    factors = factors_for(model, LAYERS[family], kind=kind)
    plan = plan_for(model, factors)
    install_(model, factors)
    save_checkpoint(model, None, out, plan=plan, factors=factors)
    torch.save(logits(model), out / "logits.pt")
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, PreTrainedModel]]:
    """A folder with one checkpoint for each family, and the models in memory."""
    root = tmp_path_factory.mktemp("checkpoints")
    return root, {family: compress(family, root / family) for family in FAMILIES}


def logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(token_ids()).logits
    return out


def reload(folder: Path, **settings: Any) -> PreTrainedModel:
    """Plain transformers; no key may be left over."""
    loader: Any = AutoModelForCausalLM
    model, info = loader.from_pretrained(folder, output_loading_info=True, **settings)
    assert not any(info.values()), info
    assert isinstance(model, PreTrainedModel)
    return model


Saved = tuple[Path, dict[str, PreTrainedModel]]


@pytest.mark.parametrize("family", FAMILIES)
def test_reloaded_and_saved_again_it_agrees_to_the_bit(
    saved: Saved, tmp_path: Path, family: str
) -> None:
    root, models = saved
    want = logits(models[family])
    back = reload(root / family)
    assert list(compressed_modules(back)) == list(compressed_modules(models[family]))
    assert torch.equal(logits(back), want)
    back.save_pretrained(tmp_path)
    assert torch.equal(logits(reload(tmp_path)), want)


@pytest.mark.parametrize("dtype", few([torch.bfloat16, torch.float16], torch.bfloat16))
@pytest.mark.parametrize("family", few(FAMILIES, "llama", "gpt2-pivot"))
def test_half_precision(tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    model = compress(family, tmp_path, dtype)
    back = reload(tmp_path, dtype="auto")
    assert {parameter.dtype for parameter in back.parameters()} == {dtype}
    assert torch.equal(logits(back), logits(model))
    for name, layer in compressed_modules(back).items():
        known = compressed_modules(model)[name].tensors()
        assert {n: t.dtype for n, t in layer.tensors().items()} == {
            n: t.dtype for n, t in known.items()
        }
        assert all(torch.equal(tensor, known[n]) for n, tensor in layer.tensors().items())


@pytest.mark.parametrize("family", few(["llama", "llama-pivot", "qwen2-pivot"], "qwen2-pivot"))
def test_float32_weights_loaded_as_bfloat16(saved: Saved, family: str) -> None:
    root, models = saved
    twin = cast_(copy.deepcopy(models[family]), torch.bfloat16)
    assert torch.equal(logits(reload(root / family, dtype=torch.bfloat16)), logits(twin))


@pytest.mark.parametrize("family", few(FAMILIES, "llama", "gpt2-pivot"))
def test_generation_with_a_cache_gives_the_same_tokens(saved: Saved, family: str) -> None:
    root, models = saved
    ids = token_ids(2, 9)
    settings: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "use_cache": True}
    mask = torch.ones_like(ids)
    texts = [
        model.generate(ids, attention_mask=mask, **settings)  # type: ignore[operator]
        for model in (models[family], reload(root / family))
    ]
    assert texts[0].shape[1] > 9
    assert torch.equal(texts[0], texts[1])
    without = models[family].generate(  # type: ignore[operator]
        ids, attention_mask=mask, **{**settings, "use_cache": False}
    )
    assert torch.equal(texts[0], without)


@pytest.mark.parametrize(
    "family", few(["llama", "gpt2", "llama-pivot", "gpt2-pivot"], "llama", "gpt2-pivot")
)
def test_it_compiles_as_one_graph(saved: Saved, family: str) -> None:
    back = reload(saved[0] / family)
    torch.compiler.reset()
    compiled = torch.compile(back, fullgraph=True, backend="eager")
    with torch.no_grad():
        out = compiled(token_ids(), use_cache=False).logits
    torch.testing.assert_close(out, logits(back))


@pytest.mark.parametrize("family", few(["qwen2", "qwen2-pivot"], "qwen2-pivot"))
def test_training_reaches_every_tensor(saved: Saved, family: str) -> None:
    back = reload(saved[0] / family).train()
    back(token_ids(), labels=token_ids()).loss.backward()
    for layer in compressed_modules(back).values():
        for parameter in layer.parameters():
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 0


# What an interpreter does, in words; the folder with the checkpoints is sys.argv[1].

LOAD_ALL = """
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    want = torch.load(folder / "logits.pt")
    with torch.no_grad():
        assert torch.equal(model(token_ids).logits, want), folder
    print("equal", folder.name)
"""

WITHOUT = """
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        AutoModelForCausalLM.from_pretrained(folder)
    except RuntimeError as error:
        assert "ignore_mismatched_sizes" in str(error), error
        print("refused", folder.name)
assert "gacfx" not in sys.modules
"""

GACFX_FIRST_AND_A_THREAD = """
import gacfx
def work():
    import transformers
    transformers.AutoModelForCausalLM
thread = threading.Thread(target=work)
thread.start()
thread.join()
from transformers import AutoModelForCausalLM
"""

WITHOUT_A_TRACE = """
assert not [finder for finder in sys.meta_path if "gacfx" in type(finder).__module__]
"""

LOADER_FIRST = """
import gacfx.checkpoint.hf
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
assert AUTO_QUANTIZER_MAPPING["gacfx"] is gacfx.checkpoint.hf.GacfxQuantizer
print("registered")
"""

LIGHT = """
start = time.perf_counter()
import gacfx
seconds = time.perf_counter() - start
assert not {"torch", "transformers", "numpy", "pydantic"} & set(sys.modules), "heavy imports"
print(f"{seconds:.3f}")
"""


def fresh(*parts: str, folder: Path | None = None) -> list[str]:
    """The words that a fresh interpreter prints; it must end well and not warn about gacfx."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(parts), str(folder or "")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "cannot be loaded in this process" not in done.stderr
    return done.stdout.split()


def with_torch() -> str:
    return f"""
import pathlib, sys, threading
import torch
torch.set_num_threads(1)
token_ids = torch.tensor({token_ids().tolist()})
"""


def expected(word: str) -> list[str]:
    return [each for family in sorted(FAMILIES) for each in (word, family)]


def test_nothing_loads_without_gacfx_and_everything_once_it_is_imported(saved: Saved) -> None:
    first = "from transformers import AutoModelForCausalLM"
    words = fresh(with_torch(), first, WITHOUT, "import gacfx", LOAD_ALL, folder=saved[0])
    assert words == expected("refused") + expected("equal")


def test_gacfx_may_be_imported_before_transformers(saved: Saved) -> None:
    order = (with_torch(), GACFX_FIRST_AND_A_THREAD, LOAD_ALL, WITHOUT_A_TRACE)
    assert fresh(*order, folder=saved[0]) == expected("equal")


def test_the_plug_in_may_be_what_imports_transformers() -> None:
    assert fresh(LOADER_FIRST) == ["registered"]


def test_importing_gacfx_is_light() -> None:
    seconds = min(float(fresh("import sys, time", LIGHT)[0]) for _ in range(3))
    assert seconds < 0.3
