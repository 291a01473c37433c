"""The report says what compiled graphs call: their own sizes, their own attention, their tiers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import gacfx
from gacfx.core.sites import Workload
from gacfx.hardware.profile import load_profile
from gacfx.inspection import annotate_graph
from tests import tiny
from tests.few import few
from tests.unit.dynamo.compiled import compiled, ids, planned, through


def read(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["graphs"]
    return found


def test_every_compilation_is_an_entry(tmp_path: Path) -> None:
    run = compiled(tiny.llama(), report=tmp_path / "graphs.json", inner="eager")
    run(ids(2, 11))
    run(ids(3, 14))
    first, second = read(tmp_path / "graphs.json")
    assert (first["workload"]["batch"], first["workload"]["seq"]) == (2, 11)
    assert (second["workload"]["batch"], second["workload"]["seq"]) == (3, 14)
    assert not first["dynamic"] and second["dynamic"]
    assert json.loads((tmp_path / "graphs.json").read_text())["inner"] == "eager"


def test_two_models_of_one_report(tmp_path: Path) -> None:
    for name in (str(tmp_path / "text.json"), tmp_path / "path.json"):
        for asked in (name, type(name)(name)):
            torch._dynamo.reset()
            compiled(tiny.llama(layers=1), report=asked)(ids())
        assert len(read(Path(name))) == 2


@pytest.mark.parametrize("dynamic", few([False, True], True))
def test_sites_are_those_of_the_model_with_the_plan(dynamic: bool, tmp_path: Path) -> None:
    model, plan = tiny.llama(), planned("all at once")
    path = tmp_path / "graphs.json"
    compiled(model, plan, report=path, dynamic=dynamic)(ids())
    (graph,) = read(path)
    assert graph["decisions"] == {m: str(d) for m, d in plan.plan.decisions.items()}
    again = gacfx.capture(gacfx.apply(model, plan))
    run = Workload(2, 11, execution="compiled")
    want = annotate_graph(again, load_profile("h200"), run, "").rows
    got = {(row["name"], row["sizes"], row["tier"], row["kernel"]) for row in graph["rows"]}
    assert got == {(row.name, row.sizes, row.tier, row.kernel) for row in want}
    assert not any(row["note"].startswith("the eager call") for row in graph["rows"])


def test_one_new_token(tmp_path: Path) -> None:
    model = tiny.llama()
    path = tmp_path / "graphs.json"
    model.forward = through(model.forward, report=path, dynamic=False)
    model.generate(
        ids(),
        max_new_tokens=3,
        do_sample=False,
        cache_implementation="static",
        attention_mask=torch.ones_like(ids()),
    )
    last = read(path)[-1]
    sizes = {row["sizes"] for row in last["rows"] if row["name"].endswith("up_proj")}
    assert sizes == {"2 x 64 x 176"}, "two sequences, one new token each"
    assert (last["workload"]["mode"], last["workload"]["seq"]) == ("decode", 11 + 2)
    (flops,) = {row["flops"] for row in last["rows"] if row["name"].endswith("self_attn")}
    assert flops == 2 * 2 * 4 * 13 * (16 + 16), "one query meets the whole cache"


def test_a_part_that_takes_hidden_states(tmp_path: Path) -> None:
    path = tmp_path / "graphs.json"
    through(tiny.llama().model.layers[1].mlp, report=path)(torch.randn(2, 11, 64))
    (graph,) = read(path)
    assert (graph["workload"]["batch"], graph["workload"]["seq"]) == (2, 11)
    assert {row["sizes"] for row in graph["rows"]} == {"22 x 64 x 176", "22 x 176 x 64"}


def test_a_graph_without_products(tmp_path: Path) -> None:
    path = tmp_path / "graphs.json"
    through(lambda x: torch.relu(x) * 2, report=path)(torch.randn(2, 11))
    (graph,) = read(path)
    assert (graph["rows"], graph["tiers"], graph["latency_us"]) == ([], {}, 0)
