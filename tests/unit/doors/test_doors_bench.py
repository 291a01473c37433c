"""Bench: cells and ratios from known times, what a step really runs, and what cannot be measured.

Time is virtual: a forward pass moves the clock by what the test says.
"""

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gacfx.bench import Bench, Effort, Setting, bench, need, read_models, run
from gacfx.bench.need import least_bytes
from gacfx.bench.steps import Decode, make_step, random_tokens
from gacfx.bench.why import CALLS, small_call_us
from gacfx.core.materialise import Factors
from gacfx.core.pruning import Skip
from gacfx.core.sites import Workload
from gacfx.errors import BenchError, GacError
from gacfx.graph.compat import cache_argument
from gacfx.hardware.measure.clock import Call
from gacfx.modules.install import install_, swapped
from tests import tiny
from tests.families import narrow
from tests.families.zoo import FAMILIES
from tests.few import few

CPU = torch.device("cpu")
Q = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj")
QUICK = Effort(runs=6, seconds=1.0)


class Virtual:
    """A clock that models move; a call that moves nothing takes ``least_s``."""

    def __init__(self, least_s: float = 0.0) -> None:
        self.device, self.least_s, self.now = CPU, least_s, 0.0
        self.made: list[str] = []

    def moved_by(self, model: Any, name: str, seconds: Callable[[Tensor], float]) -> Any:
        """The model, whose every forward pass now takes so long."""

        def hook(_: object, __: object, told: dict[str, Any]) -> None:
            self.now += seconds(told["input_ids"])
            self.made.append(name)

        model.register_forward_pre_hook(hook, with_kwargs=True)
        return model

    def once(self, call: Call) -> float:
        before = self.now
        call()
        return max(self.now - before, self.least_s)

    def issue(self, call: Call) -> float:
        return self.once(call)


def low_rank() -> Any:
    """A compressed model: two of fourteen layers are pairs."""
    model = tiny.llama()
    draw = torch.Generator().manual_seed(1)
    pair = [torch.randn(size, generator=draw) / 8 for size in ((8, 64), (64, 8))]
    install_(model, {name: Factors.pair(*pair) for name in Q})
    return model


def setting(**asked: Any) -> Setting:
    return Setting(**{"batches": (1, 2), "seq": 8, "effort": QUICK, **asked})


def pair(clock: Virtual, small_s: float, dense_s: float) -> tuple[Any, Any]:
    """Two models, each with one time for all its steps."""
    small = clock.moved_by(low_rank(), "small", lambda _: small_s)
    return small, clock.moved_by(tiny.llama(), "dense", lambda _: dense_s)


def test_times_tokens_and_ratio_of_every_cell() -> None:
    clock = Virtual()
    small = clock.moved_by(low_rank(), "small", lambda ids: 0.01 * ids.shape[0])
    dense = clock.moved_by(tiny.llama(), "dense", lambda ids: 0.015 * ids.shape[0])
    found = bench(small, dense, setting=setting(), clock=clock)
    assert [(c.work.mode, c.work.batch, c.work.seq) for c in found.cells] == [
        ("prefill", 1, 8),
        ("prefill", 2, 8),
        ("decode", 1, 8),
        ("decode", 2, 8),
    ]
    for cell in found.cells:
        assert cell.model and cell.dense and cell.ratio
        assert cell.model.median_us == pytest.approx(1e4 * cell.work.batch)
        assert cell.dense.median_us == pytest.approx(1.5e4 * cell.work.batch)
        assert cell.ratio.median == pytest.approx(1.5)
        assert cell.verdict == "faster"
        tokens = 8 if cell.work.mode == "prefill" else 1
        assert cell.tokens_per_s(cell.model) == pytest.approx(tokens / 0.01)
    assert (found.model.low_rank_layers, found.model.linear_calls) == (2, 17)
    assert found.dense and (found.dense.low_rank_layers, found.dense.linear_calls) == (0, 15)


def test_spread_and_interval_come_from_the_rounds() -> None:
    clock = Virtual()
    times = iter([1.0, 1.0, *(1 + k / 10 for k in range(10))] + [1.0] * 9)
    small = clock.moved_by(low_rank(), "small", lambda _: next(times))
    dense = clock.moved_by(tiny.llama(), "dense", lambda _: 2.0)
    asked = setting(modes=("prefill",), batches=(1,), effort=Effort(10, 1000.0))
    (cell,) = bench(small, dense, setting=asked, clock=clock).cells
    assert cell.model and cell.ratio
    assert cell.model.median_us == pytest.approx(1.45e6)
    assert (cell.model.p10_us, cell.model.p90_us) == pytest.approx((1.1e6, 1.8e6))
    assert cell.ratio.median == pytest.approx((2 / 1.4 + 2 / 1.5) / 2)
    assert (cell.ratio.low, cell.ratio.high) == pytest.approx((2 / 1.8, 2 / 1.1))
    assert cell.ratio.confidence == pytest.approx(1 - 2 * 11 / 1024)


def test_the_two_models_are_measured_in_turn() -> None:
    clock = Virtual()
    small, dense = pair(clock, 2.0, 2.0)
    bench(small, dense, setting=setting(modes=("prefill",), batches=(1,)), clock=clock)
    # First calls, one round of warm-up, six rounds, and a last look at the logits.
    assert clock.made == ["small", "dense"] * 9


def test_a_ratio_of_too_few_rounds_or_around_one_is_unclear() -> None:
    clock = Virtual()
    small, dense = pair(clock, 1.0, 2.0)
    asked = setting(modes=("prefill",), batches=(1,), effort=Effort(5, 100.0))
    (few,) = bench(small, dense, setting=asked, clock=clock).cells
    assert few.ratio and few.ratio.median == 2.0 and few.verdict == "unclear"
    same = bench(*pair(clock, 1.0, 1.0), setting=setting(), clock=clock).cells
    assert {cell.verdict for cell in same} == {"unclear"}


def calls_of(model: Any) -> list[tuple[tuple[int, ...], int | None]]:
    """(shape of the tokens, tokens in the cache) of every forward pass from now on."""
    seen: list[tuple[tuple[int, ...], int | None]] = []

    def hook(_: object, __: object, told: dict[str, Any]) -> None:
        cache = told.get(str(cache_argument(model)))
        held = None if cache is None else int(cache.get_seq_length())
        assert told["use_cache"] is (cache is not None)
        seen.append((tuple(told["input_ids"].shape), held))

    model.register_forward_pre_hook(hook, with_kwargs=True)
    return seen


def test_decode_uses_a_cache_of_seq_tokens_each_time_and_prefill_none() -> None:
    model = tiny.llama()
    seen = calls_of(model)
    found = bench(model, setting=setting(batches=(3,)), clock=Virtual(least_s=1.0))
    assert [cell.status for cell in found.cells] == ["measured"] * 2
    prefill = [call for call in seen if call[1] is None]
    decode = [call for call in seen if call[1]]
    assert set(prefill) == {((3, 8), None)} and len(prefill) == 9
    assert set(decode) == {((3, 1), 8)} and len(decode) == 9
    assert len(seen) == 19  # and the one that has filled the cache


def test_a_long_cache_is_filled_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.llama()
    seen = calls_of(model)
    monkeypatch.setattr("gacfx.bench.steps.FILL_TOKENS", 6)
    with torch.no_grad():
        make_step(model, Workload(2, 8, "decode"), 0)
    assert seen == [((2, 3), 0), ((2, 3), 3), ((2, 2), 6)]


CAUSAL = [f for f in FAMILIES.values() if f.cache and f.feeds == "tokens"]


@pytest.mark.parametrize("family", CAUSAL, ids=lambda family: family.name)
@pytest.mark.parametrize("execution", ["eager", "compiled"])
def test_every_decode_step_is_the_next_token_of_the_whole_text(
    family: Any, execution: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)  # the static cache, uncompiled
    model = family.make()
    with torch.no_grad():
        step = make_step(model, Workload(2, 20, "decode", execution), seed=3)
        assert isinstance(step, Decode)
        first, again = step().clone(), step()
        tokens_BS = random_tokens(model, Workload(2, 20), seed=3)
        # The new token is the last one again.
        tokens_BS = torch.cat([tokens_BS, tokens_BS[:, -1:]], dim=1)
        whole = model(input_ids=tokens_BS, use_cache=False).logits[:, -1:]
    assert first.shape == whole.shape
    moves_on = execution == "compiled" and family.name == "gemma3"  # its window of 16 is full
    assert torch.equal(first, again) != moves_on
    torch.testing.assert_close(first, whole, rtol=1e-4, atol=1e-5)


def failing(model: Any, error: BaseException, batch: int = 2) -> Any:
    """The model, which raises for one batch size."""

    def hook(_: object, __: object, told: dict[str, Any]) -> None:
        if told["input_ids"].shape[0] == batch:
            raise error

    model.register_forward_pre_hook(hook, with_kwargs=True)
    return model


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=["cuda", "python", "cpu"],
)
def test_a_cell_that_runs_out_of_memory_is_a_row_and_the_others_go_on(error: Exception) -> None:
    dense = failing(tiny.llama(), error)
    found = bench(low_rank(), dense, setting=setting(), clock=Virtual(least_s=1.0))
    assert [cell.status for cell in found.cells] == ["measured", "out of memory"] * 2
    assert found.cells[1].model is None and found.cells[1].ratio is None


def test_a_cell_that_cannot_fit_is_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny.llama()
    work = Workload(2, 8, "decode")
    need_bytes = least_bytes(model, work)
    assert need_bytes is not None
    monkeypatch.setattr(need, "free_bytes", lambda _: need_bytes)
    seen = calls_of(model)
    asked = setting(modes=("decode",), batches=(1, 2, 3))
    found = bench(model, setting=asked, clock=Virtual(least_s=1.0))
    assert [cell.status for cell in found.cells] == ["measured", "measured", "skipped"]
    assert found.cells[2].reason.startswith("needs at least 0.0 GiB beside the weights")
    assert all(shape[0] < 3 for shape, _ in seen)
    both = bench(model, tiny.llama(), setting=asked, clock=Virtual(least_s=1.0))
    assert [cell.status for cell in both.cells] == ["measured", "skipped", "skipped"]


@pytest.mark.parametrize(
    "name", few(["llama", "mistral", "gemma3", "gpt2", "mixtral"], "llama", "gemma3")
)
def test_the_least_memory_of_decode_is_what_the_cache_takes(name: str) -> None:
    model: Any = FAMILIES[name].make()
    work = Workload(3, 40, "decode")
    with torch.no_grad():
        step = make_step(model, work, 0)
    assert isinstance(step, Decode)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in step.cache.layers)
    least = least_bytes(model, work)
    assert least == held


def test_fewer_heads_and_skipped_attentions_take_less_cache() -> None:
    model: Any = copy.deepcopy(FAMILIES["llama"].make())
    first, second = narrow.attention(model, "llama", 0), narrow.attention(model, "llama", 1)
    made = narrow.plan_of(model, (first, narrow.decision_of(first, (1,))), (second, Skip()))
    work = Workload(3, 40, "decode")
    dense = least_bytes(model, work)
    with swapped(model, made.factors, made.plan.blocks), torch.no_grad():
        step = make_step(model, work, 0)
        assert isinstance(step, Decode)
        held = sum(layer.keys.nbytes + layer.values.nbytes for layer in step.cache.layers)
        assert least_bytes(model, work) == held
    assert least_bytes(model, work) == dense
    assert dense is not None and held < dense / 3


def test_memory_of_an_unknown_cache_is_not_guessed() -> None:
    assert least_bytes(FAMILIES["deepseekv3"].make(), Workload(1, 8, "decode")) is None


def test_prefill_needs_more_for_more_tokens() -> None:
    model = tiny.llama()
    small, large = (least_bytes(model, Workload(batch, 8)) for batch in (1, 100))
    assert small == 4 * 8 * 2 * (64 + 176) and large == 100 * small


def test_logits_that_are_not_finite_are_no_result() -> None:
    model = tiny.llama()
    with torch.no_grad():
        model.lm_head.weight[5, 5] = float("nan")
    found = bench(model, setting=setting(batches=(1,)), clock=Virtual(least_s=1.0))
    assert {(cell.status, cell.reason) for cell in found.cells} == {
        ("failed", "the logits are not finite; try another dtype")
    }


def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(model: Any, **_: Any) -> Any:
        def fails(**_: Any) -> None:
            raise RuntimeError("\nNo working C++ compiler found in config.cpp.cxx\nmore\nlines")

        return fails

    monkeypatch.setattr(torch, "compile", compiled)
    asked = setting(batches=(1,), execution="compiled")
    found = bench(tiny.llama(), setting=asked, clock=Virtual(least_s=1.0))
    why = "torch.compile: RuntimeError: No working C++ compiler found in config.cpp.cxx"
    assert {(cell.status, cell.reason) for cell in found.cells} == {("failed", why)}


def test_compiled_steps_are_traced_once_for_their_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[Any] = []

    def backend(gm: Any, inputs: Any) -> Any:
        graphs.append(gm)
        return gm.forward

    real: Any = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m, **more: real(m, backend=backend, **more))
    asked = setting(batches=(2,), execution="compiled", modes=("decode",))
    found = bench(tiny.llama(layers=1), setting=asked, clock=Virtual(least_s=1.0))
    assert [(cell.status, cell.reason) for cell in found.cells] == [("measured", "")]
    assert len(graphs) == 1 and len(found.cells[0].compile_s) == 1


def test_slower_says_why_only_where_the_calls_account_for_it() -> None:
    asked = setting(batches=(1,), modes=("decode",))
    clock = Virtual(least_s=50 * 5e-6)  # 50 small calls, 5 us each
    (cell,) = bench(*pair(clock, 0.010015, 0.010), setting=asked, clock=clock).cells
    assert cell.verdict == "slower"
    assert cell.why == "2 more matmul calls x 5.0 us, 15 us lost: launch-bound"
    (cell,) = bench(*pair(clock, 0.011, 0.010), setting=asked, clock=clock).cells
    assert cell.verdict == "slower" and cell.why == ""
    (cell,) = bench(*pair(clock, 0.010, 0.011), setting=asked, clock=clock).cells
    assert cell.verdict == "faster" and cell.why == ""


def test_a_gpu_that_is_busy_to_the_end_is_not_called_launch_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = setting(batches=(1,), modes=("decode",))
    clock = Virtual(least_s=50 * 5e-6)
    monkeypatch.setattr("gacfx.bench.why.host_share", lambda *_: 0.4)
    (cell,) = bench(*pair(clock, 0.010015, 0.010), setting=asked, clock=clock).cells
    assert cell.verdict == "slower" and cell.why == ""


SCHEMA = {
    *("format", "version", "command", "date", "machine", "setting", "model", "dense", "cells"),
}
CELL = {
    *("batch", "seq", "mode", "execution", "status", "reason", "model", "dense", "ratio"),
    *("verdict", "calls_per_sample", "compile_s", "why"),
}
TIMES = {"median_us", "p10_us", "p90_us", "runs", "how", "tokens_per_s"}


def test_the_result_is_plain_json_that_says_how_it_was_made() -> None:
    model = failing(low_rank(), MemoryError())
    found = bench(model, tiny.llama(), setting=setting(), names=("small", "big"))
    text = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert text.keys() == SCHEMA and (text["format"], text["version"]) == ("gacfx-bench", 1)
    assert text["machine"].keys() == {"device", "name", "threads", "versions"}
    assert text["machine"]["versions"].keys() == {"python", "gacfx", "torch", "transformers"}
    assert (text["model"]["name"], text["dense"]["name"]) == ("small", "big")
    assert text["setting"]["effort"] == {"runs": 6, "seconds": 1.0}
    good, bad = text["cells"][:2]
    assert good.keys() == bad.keys() == CELL
    assert good["model"].keys() == good["dense"].keys() == TIMES
    assert good["model"]["runs"] == 6 and good["model"]["median_us"] > 0
    assert good["ratio"].keys() == {"median", "low", "high", "confidence"}
    assert bad["model"] is bad["dense"] is bad["ratio"] is bad["verdict"] is None


def test_seq_is_512_or_what_the_positions_leave() -> None:
    def seq(asked: Setting, model: Any) -> int:
        return asked.workloads([model])[0].seq

    small, large = tiny.llama(), tiny.llama(max_position_embeddings=4096)
    assert seq(Setting(), small) == 95 and seq(Setting(modes=("prefill",)), small) == 96
    assert seq(Setting(), large) == 512
    assert seq(Setting(seq=95), small) == 95
    with pytest.raises(BenchError, match=r"96 positions, and decode .* at most 95"):
        seq(Setting(seq=96), small)
    with pytest.raises(BenchError, match=r"96 positions; give at most 96"):
        seq(Setting(seq=97, modes=("prefill",)), small)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"batches": (0,)}, "batch 0"),
        ({"batches": ()}, "no batch"),
        ({"modes": ("both",)}, "mode 'both'"),
        ({"execution": "fast"}, "execution 'fast'"),
        ({"seq": 0}, "seq 0"),
        ({"effort": Effort(runs=0)}, "runs 0"),
        ({"effort": Effort(seconds=float("nan"))}, "seconds nan"),
    ],
)
def test_a_setting_that_cannot_be_measured_is_refused(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(BenchError, match=says):
        Setting(**asked)


def others() -> Sequence[tuple[Any, str]]:
    return [
        (tiny.llama(vocab_size=300), "vocabulary 258 and 300"),
        (FAMILIES["qwen2"].make(), "architecture LlamaForCausalLM and Qwen2ForCausalLM"),
        (tiny.llama().train(), "training mode"),
        (tiny.llama().to("meta"), "device cpu and meta"),
    ]


def test_models_that_cannot_be_compared_are_refused() -> None:
    for other, says in others():
        with pytest.raises(BenchError, match=says):
            bench(tiny.llama(), other, setting=setting())


def test_a_model_without_such_a_cache_is_told_so() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        vocab_size=40, hidden_size=16, state_size=4, num_hidden_layers=1, expand=1, conv_kernel=2
    )
    model = MambaForCausalLM(config).eval()
    why = "MambaForCausalLM (takes no cache of keys and values|holds 0 of 4 tokens in its cache)"
    with pytest.raises(BenchError, match=why):
        make_step(model, Workload(1, 4, "decode"), 0)


def test_threads_are_those_asked_for_and_then_as_before() -> None:
    before = torch.get_num_threads()
    asked = setting(batches=(1,), modes=("prefill",))
    found: Bench = bench(
        tiny.llama(), setting=asked, threads=before + 1, clock=Virtual(least_s=1.0)
    )
    assert found.machine.threads == before + 1 and torch.get_num_threads() == before


def test_devices_and_dtypes_that_are_not_there_are_refused() -> None:
    for name in ("tpu9", "meta", "cuda:99"):
        with pytest.raises(BenchError, match=name):
            read_models(["anything"], device=name)
    with pytest.raises(BenchError, match="'fp8'"):
        read_models(["anything"], device="cpu", dtype="fp8")


def test_weights_that_do_not_fit_are_one_line(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.checkpoint(tmp_path / "model")

    def too_large(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.Module, "to", too_large)
    with pytest.raises(BenchError, match="the weights do not fit on cpu"):
        read_models([tmp_path / "model"], device="cpu")


def test_the_dense_model_is_read_in_the_dtype_of_the_first(tmp_path: Any) -> None:
    tiny.llama().to(torch.bfloat16).save_pretrained(tmp_path / "half")
    tiny.checkpoint(tmp_path / "full")
    models: list[Any] = list(read_models([tmp_path / "half", tmp_path / "full"], device="cpu"))
    assert [model.dtype for model in models] == [torch.bfloat16] * 2
    models = list(read_models([tmp_path / "half"], device="cpu", dtype="fp32"))
    assert models[0].dtype == torch.float32


def test_the_smallest_call_is_a_mean_of_many() -> None:
    assert small_call_us(Virtual(least_s=1e-3), torch.float32) == pytest.approx(1e3 / CALLS)


def test_first_lines_are_short() -> None:
    assert run._first_line(ValueError("")) == "ValueError: no reason given"
    assert len(run._first_line(ValueError("x" * 999))) == run.ONE_LINE


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (nn.Linear(2, 2).eval(), "Linear is no language model of transformers"),
        (None, "NoneType is no model"),
        ("small", "str is no model; read it with gacfx.load"),
    ],
    ids=["linear", "none", "name"],
)
def test_what_is_no_language_model_is_not_measured(given: Any, said: str) -> None:
    with pytest.raises(GacError, match=said):
        bench(given, setting=Setting())


@pytest.mark.parametrize(
    "options", [{"setting": "x"}, {"names": ()}, {"threads": 0}, {"threads": True}], ids=str
)
def test_an_odd_argument_of_bench_is_one_line(options: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match=f"^{next(iter(options))} .*: give"):
        bench(tiny.llama(), **options)
