"""The part end-to-end in rehearsal: every cell, its order, its numbers, its failures."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.llama import checks, forward
from benchmarks.gpu.llama.architecture import LLAMA_3_8B, TINY
from benchmarks.gpu.llama.cells import DRY_GRID, GRID, Cell, cells
from benchmarks.gpu.llama.variants import NAMES, variant
from benchmarks.gpu.llama.workbench import Workbench, build
from benchmarks.gpu.parts.end_to_end import EndToEnd
from gacfx.bench import steps
from gacfx.core.sites import Mode, Workload
from gacfx.hardware.kernel_names import Kernel
from gacfx.hardware.measure.part import Part, Rates, Result, Setting
from gacfx.hardware.measure.timing import HostTimer

ROOT = Path(__file__).parents[3]


def setting(**more: Any) -> Setting:
    return Setting(HostTimer(), Rates({"bf16": 1.0}, 10.0), dry=True, **more)


@dataclass(frozen=True)
class Rehearsal:
    part: EndToEnd
    results: dict[Cell, Result] = field(default_factory=dict)
    lines: dict[Cell, str | None] = field(default_factory=dict)


@pytest.fixture(scope="module")
def rehearsal() -> Iterator[Rehearsal]:
    done = Rehearsal(EndToEnd(setting()))
    for item in done.part.items():
        done.results[item] = done.part.measure(item)
        done.lines[item] = done.part.headline(item, done.results[item])
    yield done
    done.part.close()


def test_it_is_a_part() -> None:
    part: Part = EndToEnd(setting())
    assert part.name == "end-to-end"


def test_every_cell_is_measured_and_is_json(rehearsal: Rehearsal) -> None:
    assert len(rehearsal.results) == len(rehearsal.part.items()) > 100
    for item, result in rehearsal.results.items():
        assert json.loads(json.dumps(result, allow_nan=False)) == result
        assert json.loads(json.dumps(asdict(item))) == asdict(item)
        assert rehearsal.part.seconds(item) > 0


def test_times_say_what_the_readme_promises(rehearsal: Rehearsal) -> None:
    for item, result in rehearsal.results.items():
        if item.kind != "time":
            continue
        assert result["times"]["median_us"] > 0 and result["times"]["how"] == "host"
        tokens = item.batch * (item.seq if item.phase == "prefill" else 1)
        rate = tokens / result["times"]["median_us"] * 1e6
        assert result["tokens_per_s"] == pytest.approx(rate, abs=0.1)
        layers = TINY.spread(item.layers)
        assert result["params"] == variant(TINY, item.variant).params(layers)
        assert result["aligned_share"] == variant(TINY, item.variant).aligned_share(layers)
        assert result["floor_us"] == Rates({"bf16": 1.0}, 10.0).floor_us(
            result["flops"], result["bytes"], "bf16"
        )
        compiled = item.mode not in ("eager", "graph")
        assert (result["compile_s"] is not None) == compiled
        if compiled:
            assert (result["graphs"], result["graph_breaks"]) == (1, 0)
        error = result["relative_error"]
        assert error is None if item.mode == "eager" else error <= checks.LOGITS_LIMIT


def test_checks_hold_and_each_says_something_else(rehearsal: Rehearsal) -> None:
    verdicts = [r for item, r in rehearsal.results.items() if item.kind == "check"]
    assert len({verdict["what"] for verdict in verdicts}) == len(verdicts) == 6
    assert all(verdict["relative_error"] <= verdict["limit"] for verdict in verdicts)
    said = " ".join(verdict["what"] for verdict in verdicts)
    for what in ("asvd-padded", "pruner-padded", "float64", "CUDA graph", "filled cache"):
        assert what in said


def test_headlines_compare_with_dense(rehearsal: Rehearsal) -> None:
    cell = Cell("time", "asvd", "graph", "prefill", 1, DRY_GRID.seq, TINY.layers)
    took, dense = (
        rehearsal.results[Cell("time", name, "graph", "prefill", 1, 16, 3)]["times"]["median_us"]
        for name in ("asvd", "dense")
    )
    line = rehearsal.lines[cell]
    assert line is not None and line.startswith("asvd graph prefill 16 ")
    assert f"{took / 1e3:.2f} ms  {took / dense:.2f}x dense" in line and "floor" in line
    few = rehearsal.lines[Cell("time", "asvd", "compiled", "prefill", 1, 16, 1)]
    assert few is not None and ", 1 layers" in few and "x dense" not in few  # dense not compiled
    assert all(line is None for item, line in rehearsal.lines.items() if item.kind == "kernels")


def test_headlines_of_forced_padding_and_of_a_failed_check() -> None:
    part = EndToEnd(setting())
    part._dense_us[Cell("time", "dense", "compiled", "prefill", 1, 16, 1)] = 500.0
    padded = Cell("time", "asvd", "padded-compiled", "prefill", 1, 16, 1)
    line = part.headline(padded, {"times": {"median_us": 400.0}, "floor_us": None})
    assert line is not None and line.endswith("0.40 ms  0.80x dense")
    wrong = {"what": "this", "relative_error": 0.5, "limit": 0.05}
    check = Cell("check", "asvd", "eager", "prefill", 1, 16, 3)
    assert part.headline(check, wrong) == "this: 0.5, limit 0.05  WRONG"


def rank(cell: Cell) -> int:
    """The class that a cell belongs to, by the value of what it tells."""
    deep, grid = cell.layers == LLAMA_3_8B.layers, GRID
    if cell.kind == "check":
        return 0
    if not deep:
        first = cell.mode in ("eager", "graph", "compiled", "padded-compiled")
        return 5 if first and cell.phase == "prefill" and cell.seq == grid.seq else 6
    if cell.kind == "kernels":
        return 4 if cell.phase == "prefill" else 6
    if cell.phase == "prefill":
        return 1 if cell.seq == grid.seq else 3
    return 2 if cell.batch == 1 else 6


def test_the_most_valuable_come_first_and_variants_stay_together() -> None:
    found = cells(GRID)
    assert len(set(found)) == len(found)
    assert [rank(cell) for cell in found] == sorted(rank(cell) for cell in found)
    for number, modes in ((1, 2), (2, 2)):
        names = [cell.variant for cell in found if rank(cell) == number]
        assert names == [name for name in NAMES for _ in range(modes)]
    lengths = {cell.seq for cell in found if cell.phase == "prefill" and cell.layers == 32}
    assert lengths == {128, 256, 512, 1024, 2048, 4096}
    batches = {cell.batch for cell in found if cell.phase == "decode" and cell.layers == 32}
    assert batches == {1, 8, 32}
    assert {cell.mode for cell in found if cell.layers == 8} == {
        *("eager", "graph", "compiled", "padded-compiled", "reduce-overhead")
    }


def test_cells_at_few_layers_have_their_eager_and_dense_counterparts() -> None:
    found = set(cells(GRID))
    for cell in found:
        if cell.mode in ("compiled", "padded-compiled", "reduce-overhead"):
            fields = (cell.phase, cell.batch, cell.seq, cell.layers)
            mode = "compiled" if cell.mode == "padded-compiled" else cell.mode
            assert Cell("time", "dense", mode, *fields) in found
            assert Cell("time", cell.variant, "eager", *fields) in found
            assert Cell("time", cell.variant, "graph", *fields) in found


def test_a_real_run_knows_about_how_long_things_take() -> None:
    part = EndToEnd(Setting(HostTimer(), Rates()))
    part._made = Workbench.__new__(Workbench)  # as if the model were there
    took = {item: part.seconds(item) for item in part.items()}
    assert all(1.0 < seconds < 5.0 for item, seconds in took.items() if item.layers == 32)
    compiled = [s for item, s in took.items() if item.mode == "compiled"]
    assert compiled and all(40 < seconds < 90 for seconds in compiled)


@pytest.mark.parametrize("name", ["dense", "asvd-padded", "pruner"])
@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_flops_are_those_that_torch_counts(name: str, mode: Mode) -> None:
    bench = Workbench(build(TINY, "cpu"), TINY)
    bench.dress(variant(TINY, name))
    call = forward.make(bench.model, Workload(1, 16, mode), 0)
    with FlopCounterMode(display=False) as counter:
        call()
    counts = counter.get_flop_counts()
    head = sum(counts["LlamaForCausalLM.lm_head"].values())
    matmuls = head + counts["LlamaForCausalLM.model"][torch.ops.aten.mm]
    pairs = sum(range(1, 17)) if mode == "prefill" else 16  # of queries and keys that meet
    attention = TINY.layers * TINY.heads * pairs * 2 * (2 * TINY.head_dim)
    layers = range(TINY.layers)
    assert forward.flops(variant(TINY, name), layers, Workload(1, 16, mode)) == matmuls + attention
    twice = forward.flops(variant(TINY, name), layers, Workload(2, 16, mode))
    assert twice == 2 * (matmuls + attention)


def test_bytes_are_those_of_the_weights_and_the_cache() -> None:
    model = build(TINY, "cpu")
    dense, layers = variant(TINY, "dense"), range(TINY.layers)
    table = model.model.embed_tokens.weight
    weights = sum(weight.nbytes for weight in model.parameters()) - table.nbytes
    step = forward.make(model, Workload(2, 16, "decode"), 0)
    assert isinstance(step, steps.Decode)
    cached = sum(layer.keys.nbytes + layer.values.nbytes for layer in step.cache.layers)
    rows = table[0].nbytes
    assert (
        forward.moved_bytes(dense, layers, Workload(2, 16, "decode")) == weights + cached + 2 * rows
    )
    assert forward.moved_bytes(dense, layers, Workload(2, 16)) == weights + 32 * rows


def test_a_wrong_model_is_found_out() -> None:
    bench = Workbench(build(TINY, "cpu"), TINY)
    bench.dress(variant(TINY, "asvd-padded"))
    layer = bench.model.model.layers[0].self_attn.q_proj
    layer.down.weight[-1] = 1.0  # the zeros
    layer.up.weight[:, -1] = 1.0
    cell = Cell("check", "asvd-padded", "eager", "prefill", 1, 16, 3)
    verdict = checks.check(cell, bench, 0)
    assert verdict.relative_error > verdict.limit


def test_nan_is_an_error_and_no_result() -> None:
    part = EndToEnd(setting())
    part._bench.model.model.norm.weight.fill_(math.nan)
    for item in part.items()[:7]:
        if item.kind == "check" and "factors" in str(item):
            continue
        if (item.kind, item.variant, item.mode) == ("check", "asvd", "eager"):
            continue  # looks at one layer, which is sound
        with pytest.raises(ValueError, match="not finite"):
            part.measure(item)
    with pytest.raises(ValueError, match="zero everywhere"):
        checks.relative_error(torch.ones(2), torch.zeros(2))


def test_a_check_without_factors_says_so() -> None:
    cell = Cell("check", "dense", "eager", "prefill", 1, 16, 3)
    with pytest.raises(ValueError, match="no factors"):
        EndToEnd(setting()).measure(cell)


def test_kernels_of_the_same_name_are_added_up() -> None:
    class Timer(HostTimer):
        def kernels(self, call: Any) -> list[Kernel]:
            call()
            return [Kernel("b", 1.0), Kernel("a", 4.0), Kernel("b", 2.5), Kernel("c", 0.25)]

    part = EndToEnd(Setting(Timer(), Rates(), dry=True))
    cell = next(item for item in part.items() if item.kind == "kernels")
    assert part.measure(cell) == {
        "kernels": [["a", 4.0, 1], ["b", 3.5, 2], ["c", 0.2, 1]],
        "kernels_us": 7.8,
        "launches": 4,
    }


@dataclass
class Streams:
    """Stands for torch.cuda where there is none; the capture itself fails."""

    log: list[str] = field(default_factory=list)

    def Stream(self) -> Any:  # noqa: N802 - as torch names it
        return SimpleNamespace(wait_stream=lambda other: None)

    def current_stream(self) -> Any:
        return SimpleNamespace(wait_stream=lambda other: None, home=True)

    def CUDAGraph(self) -> Any:  # noqa: N802
        return SimpleNamespace(replay=lambda: self.log.append("replay"))

    @contextmanager
    def stream(self, side: Any) -> Iterator[None]:
        yield

    @contextmanager
    def graph(self, graph: Any, **_: Any) -> Iterator[None]:
        self.log.append("begin")
        yield

    def set_stream(self, stream: Any) -> None:
        self.log.append("home" if getattr(stream, "home", False) else "lost")

    def synchronize(self) -> None:
        self.log.append("wait")


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[Streams]:
    fake = Streams()
    for name in ("Stream", "current_stream", "CUDAGraph", "stream", "graph", "set_stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    monkeypatch.setattr(torch.cuda, "synchronize", fake.synchronize)
    forward._side_stream.cache_clear()
    yield fake
    forward._side_stream.cache_clear()


def test_a_refused_capture_leaves_the_device_usable(streams: Streams) -> None:
    """collect.py gives the run up at the words "CUDA error", and this is none."""

    def call() -> torch.Tensor:
        if streams.log:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nhint")
        return torch.empty(1, device="meta")

    with pytest.raises(RuntimeError, match="cannot be captured: refused: operation") as caught:
        forward.capture(call)
    assert "CUDA error" not in str(caught.value)
    assert streams.log == ["begin", "home", "wait"]


def test_a_captured_call_is_replayed(streams: Streams) -> None:
    logits = torch.empty(1, device="meta")
    run = forward.capture(lambda: logits)
    assert run() is logits and streams.log == ["begin", "replay"]


BARE = """
import sys
sys.modules.update(dict.fromkeys(["pulp", "pydantic", "rich"]))  # as if not installed
from benchmarks.gpu.llama import architecture, forward, variants, workbench
from benchmarks.gpu.parts.end_to_end import EndToEnd
from gacfx.core.sites import Workload
assert "transformers" not in sys.modules
for name in variants.NAMES:
    variants.variant(architecture.LLAMA_3_8B, name)
bench = workbench.Workbench(workbench.build(architecture.TINY, "cpu"), architecture.TINY)
bench.dress(variants.variant(architecture.TINY, "asvd"))
print(forward.make(bench.model, Workload(1, 8, "decode"), 0)().shape[-1])
"""


def test_it_needs_torch_transformers_and_numpy_only() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "256"


def test_the_sizes_need_no_torch() -> None:
    code = "import sys; import benchmarks.gpu.llama.variants; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_replay_on_a_gpu(mode: Mode) -> None:
    bench = Workbench(build(TINY, "cuda"), TINY)
    bench.dress(variant(TINY, "asvd"))
    with torch.no_grad():
        call = forward.make(bench.model, Workload(2, 16, mode), 0)
        plain = call().clone()
        run = forward.capture(call)
        assert isinstance(run, forward.Replay)
        assert checks.relative_error(run(), plain) < checks.LOGITS_LIMIT
