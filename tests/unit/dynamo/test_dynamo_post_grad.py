"""What inductor calls: names of modules, sizes after its padding, and nothing of it is changed."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._inductor import config
from torch._inductor.fx_passes import pad_mm
from torch._inductor.utils import fresh_cache

import gacfx
from gacfx.core.sites import Workload
from gacfx.dynamo.sources import source_digest
from gacfx.dynamo.weights import with_names
from gacfx.errors import PipelineError, ProfileError
from gacfx.hardware.profile import load_profile
from gacfx.inspection import annotate_graph
from tests import tiny
from tests.unit.dynamo.compiled import ids, planned

Rows = set[tuple[str, str, str, int, str]]


@pytest.fixture(autouse=True)
def own_cache() -> Iterator[None]:
    """No test finds what another one compiled."""
    with fresh_cache():
        yield


def inductor(called: Any, **more: Any) -> Any:
    """A module or function, compiled by inductor."""
    return torch.compile(called, **more)


class Enough(Exception):  # noqa: N818
    """The report is written, and no test asks for the C++ code."""


def reported(model: Any, path: Path, *args: Any, **more: Any) -> None:
    """Compiles a model or function as far as to the report of its last graph."""
    report, graphs = gacfx.InductorReport(path), more.pop("graphs", 1)

    def stop(graph: torch.fx.Graph) -> None:
        report(graph)
        if len(json.loads(path.read_text())["graphs"]) == graphs:
            raise Enough

    run = inductor(model, dynamic=more.pop("dynamic", None))
    with (
        config.patch(post_grad_custom_post_pass=stop),
        pytest.raises(torch._inductor.exc.InductorError, match="Enough"),
    ):
        run(*args, **more)


def graphs(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["graphs"]
    return found


def rows(path: Path) -> dict[str, str]:
    """Name -> sizes, of the only graph."""
    (graph,) = graphs(path)
    return {row["name"]: row["sizes"] for row in graph["rows"]}


def captured(model: Any) -> dict[str, Any]:
    run = Workload(2, 11, execution="compiled")
    return annotate_graph(gacfx.capture(model), load_profile("h200"), run, "").to_dict()


@pytest.mark.parametrize(
    ("dtype", "dynamic"),
    [
        (torch.bfloat16, True),
        pytest.param(torch.float32, False, marks=pytest.mark.exhaustive),
        pytest.param(torch.bfloat16, False, marks=pytest.mark.exhaustive),
    ],
)
def test_names_and_sizes_are_those_of_our_own_capture(
    tmp_path: Path, dtype: torch.dtype, dynamic: bool
) -> None:
    model, path = tiny.llama().to(dtype), tmp_path / "graphs.json"
    reported(model, path, ids(2, 11), use_cache=False, dynamic=dynamic)
    (graph,), want = graphs(path), captured(model)
    keys = ("name", "layers", "sizes", "dtype", "tier", "flops")
    products = [
        {tuple(row[key] for key in keys) for row in each["rows"] if "heads" not in row["sizes"]}
        for each in (graph, want)
    ]
    assert products[0] == products[1] and len(products[0]) == 15
    buffers = model.model.rotary_emb.inv_freq.numel()  # cannot be told from a vector of a norm
    assert graph["params"] == want["params"] + buffers
    assert (graph["workload"], graph["dynamic"]) == (want["workload"], dynamic)
    assert graph.keys() == {*want, "dynamic", "decisions"}, "the form of the backend's report"


def test_attention_is_the_kernel_that_torch_chose(tmp_path: Path) -> None:
    model, path = tiny.llama(), tmp_path / "graphs.json"
    reported(model, path, ids(2, 11), use_cache=False)
    attentions = [row for row in graphs(path)[0]["rows"] if "heads" in row["sizes"]]
    assert [row["name"] for row in attentions] == [f"model.layers.{i}.self_attn" for i in (0, 1)]
    for row in attentions:
        assert (row["sizes"], row["dtype"]) == ("4/2 heads x 16", "fp32")
        assert row["note"] == (
            "torch chose _scaled_dot_product_flash_attention_for_cpu when it compiled"
        )


def test_a_compressed_model(tmp_path: Path) -> None:
    model, path = gacfx.apply(tiny.llama(), planned("low-rank")), tmp_path / "graphs.json"
    reported(model, path, ids(2, 11), use_cache=False)
    want = {row["name"]: row["sizes"] for row in captured(model)["rows"]}
    assert rows(path) == want and any(name.endswith("up_proj.down") for name in want)


def test_results_are_the_same_to_the_bit(tmp_path: Path) -> None:
    model, x = tiny.llama(layers=1).model.layers[0].mlp, torch.randn(2, 11, 64)
    want = inductor(model)(x)
    torch._dynamo.reset()
    report = gacfx.InductorReport(tmp_path / "graphs.json", cached=False)
    with config.patch(post_grad_custom_post_pass=report):
        got = inductor(model)(x)
    assert torch.equal(got, want) and len(rows(tmp_path / "graphs.json")) == 3


def test_the_graph_is_left_as_it_is(tmp_path: Path) -> None:
    report, seen = gacfx.InductorReport(tmp_path / "graphs.json"), []

    def watched(graph: torch.fx.Graph) -> None:
        before = [(n.format_node(), sorted(n.meta), dict(n.meta)) for n in graph.nodes]
        owner, attributes = graph.owning_module, set(dir(graph.owning_module))
        report(graph)
        after = [(n.format_node(), sorted(n.meta), dict(n.meta)) for n in graph.nodes]
        assert [one[:2] for one in before] == [one[:2] for one in after]
        assert all(a[2][k] is b[2][k] for a, b in zip(before, after, strict=True) for k in a[1])
        assert graph.owning_module is owner and set(dir(owner)) == attributes
        seen.append(graph)
        raise Enough

    with (
        config.patch(post_grad_custom_post_pass=watched),
        pytest.raises(torch._inductor.exc.InductorError, match="Enough"),
    ):
        inductor(tiny.llama(layers=1))(ids(), use_cache=False)
    assert len(seen) == 1


def test_a_step_of_training(tmp_path: Path) -> None:
    model, path = tiny.llama(layers=1).model.layers[0].mlp, tmp_path / "graphs.json"
    report = gacfx.InductorReport(path, cached=False)
    with torch.enable_grad(), config.patch(post_grad_custom_post_pass=report):
        inductor(model)(torch.randn(2, 11, 64, requires_grad=True)).sum().backward()
    forward, backward = graphs(path)
    assert (forward["model"], backward["model"]) == ("graph 1", "backward graph 2")
    assert not any("times" in row["note"] for row in forward["rows"])
    products = sorted(row["sizes"] for row in backward["rows"] if row["name"] == "up_proj")
    assert products == ["176 x 22 x 64", "22 x 176 x 64"], "of the weight, and of its input"


def test_sizes_are_those_after_the_padding_of_inductor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU pad_mm asks a clock; here it is told to pad."""
    monkeypatch.setattr(pad_mm, "check_device", lambda *_: True)
    monkeypatch.setattr(pad_mm, "has_triton", lambda: True)
    model, path = tiny.llama(width=171, tie_word_embeddings=True), tmp_path / "graphs.json"
    with config.patch(shape_padding=True, force_shape_pad=True):
        reported(model, path, ids(2, 11), use_cache=False)
    found = rows(path)
    assert found["model.layers.1.mlp.up_proj"] == "24 x 64 x 172"
    assert found["model.layers.1.mlp.down_proj"] == "24 x 172 x 64"
    assert found["lm_head"] == "24 x 64 x 260", "its weight is that of the embedding as well"
    assert not any("activations" in row["note"] for row in graphs(path)[0]["rows"])


def padded(how: str, fill: int) -> torch.fx.Graph:
    """A product with an input and five more columns behind it."""
    aten, graph = torch.ops.aten, torch.fx.Graph()
    stack = {"q": ("L['self'].layers.0.q", nn.Linear)}

    def call(target: Any, args: tuple[Any, ...], *sizes: int) -> torch.fx.Node:
        node = graph.call_function(target, args)
        node.meta = {"val": torch.empty(sizes, dtype=torch.bfloat16), "nn_module_stack": stack}
        return node

    inputs = [graph.placeholder(name) for name in ("arg0_1", "arg1_1")]
    for node, sizes in zip(inputs, ((16, 64), (107, 64)), strict=True):
        node.meta["val"] = torch.empty(sizes, dtype=torch.bfloat16)
    weight = call(aten.permute.default, (inputs[1], [1, 0]), 64, 107)
    if how == "cat":
        zeros = call(aten.full.default, ([64, 5], fill), 64, 5)
        weight = call(aten.cat.default, ([weight, zeros], 1), 64, 112)
    else:
        weight = call(aten.constant_pad_nd.default, (weight, [0, 5, 0, 0], fill), 64, 112)
    product = call(aten.mm.default, (inputs[0], weight), 16, 112)
    graph.output((call(aten.slice.Tensor, (product, 1, 0, 107), 16, 107),))
    return graph


@pytest.mark.parametrize("how", ["constant_pad_nd", "cat"])
def test_a_graph_that_is_padded_by_hand(tmp_path: Path, how: str) -> None:
    graph = padded(how, fill=0)
    assert shapes(with_names(graph)) == {"layers.0.q.weight": (64, 112)}
    gacfx.InductorReport(tmp_path / "graphs.json")(graph)  # it belongs to no module
    (row,) = graphs(tmp_path / "graphs.json")[0]["rows"]
    assert (row["name"], row["sizes"]) == ("layers.0.q", "16 x 64 x 112")
    assert (row["tier"], row["reason"], row["note"]) == (1, "", "outside the repeated layers")


@pytest.mark.parametrize("how", ["constant_pad_nd", "cat"])
def test_what_is_filled_with_other_numbers_is_no_padding(how: str) -> None:
    assert (64, 112) not in shapes(with_names(padded(how, fill=1))).values()


def shapes(gm: torch.fx.GraphModule) -> dict[str, tuple[int, ...]]:
    """Name -> sizes of each parameter."""
    return {name: tuple(parameter.shape) for name, parameter in gm.named_parameters()}


class Branches(nn.Module):
    """Two graphs inside a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.first = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[M, 8] -> [M, 6]."""
        x = self.first(x)
        out: torch.Tensor = torch.cond(x.sum() > 0, self.one, self.two, (x,))
        return out


def test_graphs_inside_a_graph_are_reports_of_their_own(tmp_path: Path) -> None:
    reported(Branches(), tmp_path / "graphs.json", torch.randn(5, 8), graphs=3)
    found = [[row["name"] for row in graph["rows"]] for graph in graphs(tmp_path / "graphs.json")]
    assert found == [["one"], ["two"], ["first"]]


class Experts(nn.Module):
    """Two weights in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(4, 8, 6))
        self.down = nn.Parameter(torch.randn(4, 6, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[4, M, 8] -> [4, M, 8]."""
        return torch.bmm(torch.bmm(x, self.up).relu(), self.down)


@pytest.mark.parametrize(
    ("run", "sizes", "want"),
    [
        (lambda x, w, b: nn.functional.linear(x, w, b), [(5, 8), (6, 8), (6,)], {"arg1_1"}),
        (lambda x, y: x @ y, [(5, 8), (8, 6)], {"mm"}),
        (nn.Linear(8, 6), [(5, 8)], {"weight"}),
        (nn.Sequential(Experts()), [(4, 5, 8)], {"0", "0.weight_2"}),
        (lambda x: torch.relu(x) + 1, [(5, 8)], set()),
    ],
)
def test_what_has_no_names(
    tmp_path: Path, run: Any, sizes: list[tuple[int, ...]], want: set[str]
) -> None:
    reported(run, tmp_path / "graphs.json", *(torch.randn(size) for size in sizes))
    assert rows(tmp_path / "graphs.json").keys() == want


def test_a_head_that_is_tied_has_the_name_of_the_product(tmp_path: Path) -> None:
    model = tiny.llama(layers=1, tie_word_embeddings=True)
    reported(model, tmp_path / "graphs.json", ids(), use_cache=False)
    (graph,) = graphs(tmp_path / "graphs.json")
    assert [row["name"] for row in graph["rows"]][-1] == "lm_head"
    buffers = model.model.rotary_emb.inv_freq.numel()
    assert graph["params"] == sum(p.numel() for p in model.parameters()) + buffers


def test_a_function_around_the_model(tmp_path: Path) -> None:
    model = tiny.llama(layers=1)
    reported(lambda i: model(i, use_cache=False).logits, tmp_path / "graphs.json", ids())
    assert "model.layers.0.self_attn.q_proj" in rows(tmp_path / "graphs.json")


def test_a_file_that_cannot_be_written_is_an_error_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "graphs.json"
    with (
        config.patch(post_grad_custom_post_pass=gacfx.InductorReport(path)),
        pytest.raises(torch._inductor.exc.InductorError, match=re.escape(str(path))),
    ):
        inductor(lambda x: x + 1)(torch.randn(3))


@pytest.mark.parametrize(
    ("path", "gpu", "error", "said"),
    [
        ("graphs.txt", "h200", PipelineError, r"graphs\.txt.*path of a \.json file"),
        (None, "h200", PipelineError, r"path=None: give the path of a \.json file"),
        ("graphs.json", "h2000", ProfileError, "h2000"),
    ],
)
def test_what_is_asked_wrongly(path: Any, gpu: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        gacfx.InductorReport(path, gpu)


UUID = """
import sys, torch, gacfx
assert "torch._inductor" not in sys.modules
print(gacfx.InductorReport("/tmp/graphs.json", gpu="a100").uuid())
"""


def test_an_id_is_the_same_in_every_process_and_another_for_other_options() -> None:
    done = subprocess.run([sys.executable, "-c", UUID], capture_output=True, text=True, check=True)
    here = gacfx.InductorReport("/tmp/graphs.json", gpu="a100").uuid()
    assert done.stdout.strip() == here and re.fullmatch("[0-9a-f]{64}", here)
    others = {
        gacfx.InductorReport("/tmp/graphs.json", gpu="h200").uuid(),
        gacfx.InductorReport("/tmp/others.json", gpu="a100").uuid(),
        gacfx.InductorReport(
            "/tmp/graphs.json", gpu=load_profile("a100").with_stack(cudnn=1)
        ).uuid(),
    }
    assert len(others) == 3 and here not in others
    assert gacfx.InductorReport("/tmp/graphs.json", cached=False).uuid() is None


@pytest.mark.parametrize(
    "changed",
    [
        *("graph/ops.py", "hardware/profiles/h200.json", "passes/analysis/annotate_sites.py"),
        "inspection.py",
        *(
            pytest.param(name, marks=pytest.mark.exhaustive)
            for name in ("core/sites.py", "hardware/gemm.py", "dynamo/report.py")
        ),
    ],
)
def test_an_id_is_another_after_a_change_of_the_source(tmp_path: Path, changed: str) -> None:
    home, copied = Path(gacfx.__file__).parent, tmp_path / "gacfx"
    for name in ("graph", "core", "hardware", "dynamo"):
        shutil.copytree(home / name, copied / name)
    shutil.copytree(home / "passes", tmp_path / "passes")
    (copied / "passes").symlink_to(Path("..") / "passes")  # as in a checkout
    shutil.copy(home / "inspection.py", copied)
    before = source_digest.__wrapped__(copied)
    assert source_digest.__wrapped__(copied) == before
    with (copied / changed).open("a", encoding="utf-8") as file:
        file.write(" ")
    assert source_digest.__wrapped__(copied) != before


@pytest.mark.parametrize(("cached", "times"), [(True, 1), (False, 2)])
def test_a_graph_from_the_cache_is_not_seen(tmp_path: Path, cached: bool, times: int) -> None:
    report = gacfx.InductorReport(tmp_path / "graphs.json", cached=cached)
    model = nn.Linear(8, 6)
    for _ in range(2):
        torch._dynamo.reset()
        with config.patch(post_grad_custom_post_pass=report):
            inductor(model)(torch.ones(5, 8))
    assert len(graphs(tmp_path / "graphs.json")) == times


def test_a_list_of_passes(tmp_path: Path) -> None:
    report = gacfx.InductorReport(tmp_path / "graphs.json", cached=False)
    with config.patch(post_grad_custom_post_pass=[report]):
        inductor(nn.Linear(8, 6))(torch.ones(5, 8))
    assert rows(tmp_path / "graphs.json") == {"weight": "5 x 8 x 6"}
