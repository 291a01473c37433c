"""A whole Llama-3-8B with random weights: dense, compressed, aligned, padded (GAC-v2, Table 5).

eager             as the host launches it: what a script of transformers gets
graph             the same work in one CUDA graph: what the GPU needs, without launch gaps
compiled          torch.compile, static shapes
padded-compiled   the same with force_shape_pad: inductor pads every matmul in every call
reduce-overhead   torch.compile with its own CUDA graphs

The compiled modes run a quarter of the layers, and eager and graph are measured at that depth too.
``compile_s`` is the first call; the very first of a process also loads inductor.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch

from benchmarks.gpu.llama import checks, forward
from benchmarks.gpu.llama.cells import DRY_GRID, GRID, Cell, Mode, cells
from benchmarks.gpu.llama.variants import Variant, variant
from benchmarks.gpu.llama.workbench import Workbench, build
from gacfx.hardware.measure.memory import release
from gacfx.hardware.measure.part import Result, Setting
from gacfx.hardware.measure.times import Times

EAGER = ("eager", "graph")
LARGEST_KERNELS = 20
"""Kernels of a call that are recorded by name."""
COMPILE_S = 64.0
"""A guess of the first cell under torch.compile; the next ones go by the longest seen."""


class EndToEnd:
    """Times, kernels and checks of whole models."""

    name = "end-to-end"

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._grid = DRY_GRID if setting.dry else GRID
        self._made: Workbench | None = None
        self._dense_us: dict[Cell, float] = {}
        self._compiled_s = 0.0

    def items(self) -> Sequence[Cell]:
        """See ``cells``."""
        return cells(self._grid)

    def seconds(self, item: Cell) -> float:
        """About how long it takes, the first one with the making of the model."""
        if self._setting.dry:
            return 0.1 if item.mode in EAGER else 2.0
        start = 30.0 if self._made is None else 0.0
        if item.kind != "time":
            return start + 4.0
        if item.mode not in EAGER:
            return start + (self._compiled_s or COMPILE_S)
        one_s = self._flops(item) / 4e14
        return start + 1.5 + 16 * max(one_s, 0.02)

    @torch.no_grad()
    def measure(self, item: Cell) -> Result:
        """Times of a cell, its kernels, or the error that a check has found.

        Raises:
            ValueError: logits are not finite.
            RuntimeError: the call cannot be captured or compiled.
        """
        bench = self._bench
        bench.dress(self._variant(item))
        with bench.shallow(item.layers) as layers:
            if item.kind == "check":
                return asdict(checks.check(item, bench, self._setting.seed))
            if item.kind == "kernels":
                return self._kernels(item)
            result = self._times(item, layers)
        if item.variant == "dense":
            self._dense_us[item] = result["times"]["median_us"]
        return result

    def headline(self, item: Cell, result: Result) -> str | None:
        """Times of the comparison that matters most, beside the dense model's of the same run."""
        if item.kind == "check":
            error, limit = result["relative_error"], result["limit"]
            verdict = "" if error <= limit else "  WRONG"
            return f"{result['what']}: {error:.2g}, limit {limit:g}{verdict}"
        if item.kind == "kernels":
            return None
        if item.batch != 1 or item.seq != self._grid.seq:
            return None
        took_us = result["times"]["median_us"]
        mode: Mode = "compiled" if item.mode == "padded-compiled" else item.mode
        dense_us = self._dense_us.get(replace(item, variant="dense", mode=mode))
        ratio = f"{took_us / dense_us:.2f}x dense" if dense_us else ""
        floor = f"floor {result['floor_us'] / 1e3:.2f}" if result["floor_us"] else ""
        depth = "" if item.layers == self._grid.architecture.layers else f", {item.layers} layers"
        where = f"{item.variant} {item.mode} {item.phase} {item.seq}{depth}"
        return f"{where:54}{took_us / 1e3:9.2f} ms  {ratio:11}  {floor}".rstrip()

    def close(self) -> None:
        """Free the model."""
        self._made = None
        release(self._setting.timer.device)

    @property
    def _bench(self) -> Workbench:
        if self._made is None:
            architecture, seed = self._grid.architecture, self._setting.seed
            model = build(architecture, self._setting.timer.device, seed=seed)
            self._made = Workbench(model, architecture, seed=seed)
        return self._made

    def _variant(self, cell: Cell) -> Variant:
        return variant(self._grid.architecture, cell.variant)

    def _flops(self, cell: Cell) -> int:
        layers = self._grid.architecture.spread(cell.layers)
        return forward.flops(self._variant(cell), layers, cell.work)

    def _call(self, cell: Cell, run: Any = None) -> forward.Call:
        return forward.make(self._bench.model, cell.work, self._setting.seed, run)

    def _kernels(self, cell: Cell) -> Result:
        """The kernels that take longest, the same names together."""
        call = self._call(cell)
        call()
        took: defaultdict[str, float] = defaultdict(float)
        count = Counter[str]()
        for kernel in self._setting.timer.kernels(call):
            took[kernel.name] += kernel.us
            count[kernel.name] += 1
        first = sorted(took, key=lambda name: (-took[name], name))[:LARGEST_KERNELS]
        return {
            "kernels": [[name, round(took[name], 1), count[name]] for name in first],
            "kernels_us": round(sum(took.values()), 1),
            "launches": count.total(),
        }

    def _times(self, cell: Cell, layers: Sequence[int]) -> Result:
        peak_gib = _peak(self._bench)
        plain = checks.finite(self._call(cell)()).clone()
        with self._started(cell) as (run, about):
            times = self._timed(cell, run)
            error = None if cell.mode == "eager" else checks.relative_error(run(), plain)
        return {
            **self._work(cell, layers),
            "times": asdict(times),
            "tokens_per_s": round(cell.work.new_tokens / times.median_us * 1e6, 1),
            "relative_error": error,
            "peak_gib": peak_gib(),
            **about,
        }

    def _timed(self, cell: Cell, run: forward.Call) -> Times:
        times = self._setting.timer.eager(run)
        captured = isinstance(run, forward.Replay)
        return replace(times, how="graph") if captured else times

    @contextmanager
    def _started(self, cell: Cell) -> Iterator[tuple[forward.Call, Result]]:
        """The call in the cell's mode, and what its making has cost."""
        about: Result = {"compile_s": None}
        if cell.mode == "eager":
            yield self._call(cell), about
        elif cell.mode == "graph":
            yield forward.capture(self._call(cell)), about
        else:
            yield from self._compiled(cell, about)

    def _compiled(self, cell: Cell, about: Result) -> Iterator[tuple[forward.Call, Result]]:
        from torch._dynamo.utils import counters

        torch._dynamo.reset()
        counters.clear()
        try:
            call = self._call(cell, forward.compiled(self._bench.model, cell.mode))
            about["compile_s"] = took_s = round(self._setting.timer.once(call), 2)
            self._compiled_s = max(self._compiled_s, 1.2 * took_s + 3)
            yield call, about
            about["graphs"] = counters["stats"]["unique_graphs"]
            about["graph_breaks"] = counters["graph_break"].total()
            about["cudagraph_skips"] = counters["inductor"]["cudagraph_skips"]
        finally:
            torch._dynamo.reset()

    def _work(self, cell: Cell, layers: Sequence[int]) -> Result:
        """What the cell has to do at least."""
        made = self._variant(cell)
        flops = forward.flops(made, layers, cell.work)
        moved = forward.moved_bytes(made, layers, cell.work)
        params = made.params(layers)
        dense = variant(self._grid.architecture, "dense").params(layers)
        return {
            "flops": flops,
            "bytes": moved,
            "floor_us": self._setting.rates.floor_us(flops, moved, "bf16"),
            "params": params,
            "ratio": round(1 - params / dense, 6),
            "aligned_share": made.aligned_share(layers),
        }


def _peak(bench: Workbench) -> Callable[[], float | None]:
    """From now on: GiB that the model in use and its call need; None without CUDA.

    Dense layers that a variant replaces lie beside it. They and everything else that is allocated
    now and is no weight in use are left out. What compiling tries out is in it.
    """
    if bench.device.type != "cuda":
        return lambda: None
    torch.cuda.reset_peak_memory_stats()
    beside = torch.cuda.memory_allocated() - bench.resident_bytes()
    return lambda: round((torch.cuda.max_memory_allocated() - beside) / 2**30, 3)
