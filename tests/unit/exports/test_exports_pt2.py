"""pt2: the very logits of the model, where neither transformers nor gacfx can be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gacfx
from tests.families.zoo import FAMILIES
from tests.few import few
from tests.unit.checkpoint.tiny_models import cast_
from tests.unit.exports.kinds import (
    EACH,
    KINDS,
    POSITIONS,
    SIZES,
    SOME,
    ids_of,
    logits_of,
    model_of,
)

CHILD = """
import json, sys
from pathlib import Path
sys.modules["transformers"] = sys.modules["gacfx"] = None
import numpy as np, torch
found = {}
for folder in map(Path, sys.argv[1:]):
    program = torch.export.load(folder / "model.pt2").module()
    apart = [
        float((program(input_ids=torch.from_numpy(np.load(file)))
               - torch.from_numpy(np.load(file.with_suffix(".logits.npy")))).abs().max())
        for file in sorted(folder.parent.glob("ids-*.npy")) if "logits" not in file.name
    ]
    try:
        program(input_ids=torch.zeros(1, POSITIONS + 1, dtype=torch.long))
    except Exception as error:
        apart.append(str(error))
    assert not any(each.requires_grad for each in program.parameters())
    found[folder.parent.name] = [apart, *map(str, program.state_dict())]
print(json.dumps(found))
""".replace("POSITIONS", str(POSITIONS))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Kind -> differences in a process of its own, and names of the tensors there."""
    tried = KINDS if os.environ.get("EXHAUSTIVE") else SOME
    home, folders = tmp_path_factory.mktemp("pt2"), []
    for kind in tried:
        model, place = model_of(kind), home / kind
        place.mkdir()
        made = gacfx.export(model, place / "out", to="pt2")
        assert made.difference == 0.0
        folders.append(str(made.folder))
        for size in SIZES:
            ids = ids_of(*size)
            np.save(place / "ids-{}-{}.npy".format(*size), ids)
            np.save(place / "ids-{}-{}.logits.npy".format(*size), logits_of(model, ids))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, *folders], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    read: dict[str, Any] = json.loads(done.stdout)
    return read


@pytest.mark.parametrize("kind", EACH)
def test_logits_are_equal_without_transformers_and_gacfx(kind: str, found: dict[str, Any]) -> None:
    apart, *names = found[kind]
    assert apart[:-1] == [0.0] * len(SIZES)
    assert str(POSITIONS) in apart[-1]  # a longer sequence is refused, and the limit said
    assert not any("GACFX" in name for name in names)


@pytest.mark.parametrize("kind", few(["pivot", "skipped"], "skipped"))
def test_the_model_is_left_as_it_was(kind: str, tmp_path: Path) -> None:
    model = KINDS[kind]().train()
    model.lm_head.weight.requires_grad_(False)
    before = {n: (t.data_ptr(), t.shape) for n, t in model.state_dict().items()}
    gacfx.export(model, tmp_path / "out", to="pt2")
    assert {n: (t.data_ptr(), t.shape) for n, t in model.state_dict().items()} == before
    assert list(before) == list(model.state_dict())
    assert model.training and model.model.embed_tokens.weight.requires_grad
    assert not model.lm_head.weight.requires_grad


def test_experts_run_without_the_operators_of_transformers(tmp_path: Path) -> None:
    model: Any = FAMILIES["mixtral"].make()
    made = gacfx.export(model, tmp_path / "out", to="pt2")
    assert made.difference is not None and made.difference < 1e-6
    assert model.config._experts_implementation == "grouped_mm"
    program = torch.export.load(made.folder / "model.pt2")
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("grouped_mm" in name for name in called)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.exhaustive)]
)
def test_half_precision_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    model = cast_(KINDS["low rank"](), dtype)
    assert gacfx.export(model, tmp_path / "out", to="pt2").difference == 0.0
