"""What does the torch.compile backend cost, and does it compute what the rewritten model computes?

    python -m benchmarks.compiling

    compile   seconds of the processor, of the C++ compiler too, for the first call of a tiny Llama,
              by inner backend: bare, through gacfx without a plan, with a plan of pivots, and with
              one that prunes as well; ratios to bare of the same round
    families  largest difference to the model that the plan was put into (``gacfx.apply``), in
              inference, for tiny random models of eight families and each inner backend
    check     microseconds in which a call makes sure that the weights are still those of the plan

Every compilation is made anew: graphs come from no cache. The models are random, which is enough
for differences and times and says nothing about quality.
"""

import argparse
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch._inductor import config as inductor
from torch._inductor.utils import fresh_cache

import gacfx
from benchmarks import record
from gacfx.calibration.text import Corpus
from gacfx.core.planned import Planned
from gacfx.core.search import Bound, Search
from gacfx.dynamo.values import Replaced
from tests.families.zoo import FAMILIES, VOCAB, Family

ROUNDS = {"eager": 7, "aot_eager": 7, "inductor": 3}
"""Inner backend -> rounds, each with all ways of compiling."""
NAMES = ("llama", "gpt2", "qwen3", "gemma3", "mixtral", "gptneox", "phi3", "opt")
PIVOT = Search(value="two-sided")
PRUNED = Search(
    value="two-sided", prune="both", bounds=(Bound("*.mlp", 8), Bound("*.self_attn", 1))
)
RATIO = 0.4
LAYERS = (2, 32)
CALLS = 300
MOST_DIFFERENCE = {"eager": 0.0, "aot_eager": 1e-5, "inductor": 1e-5}
"""Inner backends that decompose operators may add in another order."""
MOST_US_PER_WEIGHT = 5.0


@dataclass(frozen=True, slots=True)
class Compiled:
    """One way of compiling, one inner backend."""

    inner: str
    how: str
    seconds: float
    """Of the processor; median of the rounds."""
    ratio: float
    """To bare in the same round, median."""
    rounds: int


@dataclass(frozen=True, slots=True)
class Difference:
    """One family through one inner backend."""

    family: str
    inner: str
    decisions: int
    """Weights that the plan replaces."""
    largest: float
    """Difference of a logit."""
    logit: float
    """Largest logit."""
    moved: float
    """What the plan itself changes in a logit: more, or the comparison says nothing."""


@dataclass(frozen=True, slots=True)
class Check:
    """The check of weights before a call."""

    layers: int
    weights: int
    us: float
    """Median of the calls."""


def planned(model: nn.Module, search: Search) -> Planned:
    """A plan for random tokens."""
    generator = torch.Generator().manual_seed(0)
    documents = (torch.randint(3, VOCAB, (40,), generator=generator) for _ in range(6))
    return gacfx.plan(model, calibration=Corpus(tuple(documents)), ratio=RATIO, search=search)


def first_call(model: nn.Module, kwargs: dict[str, Any], backend: Any) -> float:
    """Seconds of the processor until the first result."""
    torch._dynamo.reset()
    # One thread: its compilers are children of this process, and their time is known.
    with fresh_cache(), inductor.patch(compile_threads=1):
        begin = spent()
        run: Any = torch.compile(model, backend=backend)
        run(**kwargs)
        return spent() - begin


def spent() -> float:
    """Seconds of the processor so far, those of processes that it started and that ended too."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def compile_rows(family: Family) -> Iterator[Compiled]:
    """Rounds of all ways of compiling, so that a busy minute meets each of them."""
    model, kwargs = family.make(), family.export_kwargs()
    plans = {"no plan": None, "pivots": planned(model, PIVOT), "pruned": planned(model, PRUNED)}
    for inner, rounds in ROUNDS.items():
        ways: dict[str, Callable[[], Any]] = {"bare": partial(str, inner)}
        ways |= {how: partial(gacfx.make_backend, plan, inner) for how, plan in plans.items()}
        # What is loaded, or asked of the C++ compiler, at first use is no cost of a compilation.
        first_call(nn.Sequential(nn.SiLU(), nn.Softmax(-1)), {"input": torch.ones(3, 8)}, inner)
        seconds = [
            {how: first_call(model, kwargs, way()) for how, way in ways.items()}
            for _ in range(rounds)
        ]
        for how in ways:
            yield Compiled(
                inner=inner,
                how=how,
                seconds=round(median(found[how] for found in seconds), 3),
                ratio=round(median(found[how] / found["bare"] for found in seconds), 3),
                rounds=rounds,
            )


def differences(family: Family) -> Iterator[Difference]:
    """Each inner backend against the rewritten model."""
    model, kwargs = family.make(), family.export_kwargs()
    plan = planned(model, PIVOT)
    want, dense = gacfx.apply(model, plan)(**kwargs).logits, model(**kwargs).logits
    unpacked = gacfx.unpacked(model)  # plans speak of the experts one by one
    for inner in ROUNDS:
        torch._dynamo.reset()
        run: Any = torch.compile(unpacked, backend=gacfx.make_backend(plan, inner))
        got = run(**kwargs).logits
        yield Difference(
            family=family.name,
            inner=inner,
            decisions=len(plan.plan.decisions),
            largest=float((got - want).abs().max()),
            logit=float(want.abs().max()),
            moved=float((dense - want).abs().max()),
        )


def check_of(layers: int) -> Check:
    """Calls of a Llama of so many layers, of which the check alone is timed."""
    from transformers import LlamaForCausalLM

    config = FAMILIES["llama"].config()
    config.num_hidden_layers = layers
    torch.manual_seed(0)
    model, times, weights = LlamaForCausalLM(config).eval(), list[float](), 0
    real = Replaced.check

    def timed(replaced: Replaced, call: Sequence[Any]) -> None:
        nonlocal weights
        begin = time.perf_counter()
        real(replaced, call)
        times.append(1e6 * (time.perf_counter() - begin))
        weights = len(replaced._known)

    torch._dynamo.reset()
    kwargs = FAMILIES["llama"].export_kwargs(batch=1, seq=1)
    with patch.object(Replaced, "check", timed):
        run: Any = torch.compile(
            model, backend=gacfx.make_backend(planned(model, PIVOT), "eager"), dynamic=False
        )
        for _ in range(CALLS):
            run(**kwargs)
    return Check(layers, weights, round(median(times), 2))


def goals(found: Sequence[Difference], checks: Sequence[Check]) -> dict[str, bool]:
    """What the rows should show."""
    near = {
        f"{inner}: difference to gacfx.apply <= {most:g}": all(
            row.largest <= most for row in found if row.inner == inner
        )
        for inner, most in MOST_DIFFERENCE.items()
    }
    return {
        **near,
        "a plan moves every family more than that": all(
            row.moved > 100 * MOST_DIFFERENCE["inductor"] for row in found
        ),
        f"check of weights <= {MOST_US_PER_WEIGHT:g} us for each": all(
            each.us <= MOST_US_PER_WEIGHT * each.weights for each in checks
        ),
    }


def main(given: Sequence[str] | None = None) -> int:
    """0 when all goals are reached, else 1."""
    parser = argparse.ArgumentParser(description="Cost and result of the torch.compile backend.")
    parser.parse_args(given)
    torch.set_num_threads(1)
    others = record.others()
    compiled, found = list[Compiled](), list[Difference]()
    with torch.no_grad():
        for row in compile_rows(FAMILIES["llama"]):
            print(f"{row.inner:10} {row.how:8} {row.seconds:7.2f} s  {row.ratio:.2f} x bare")
            compiled.append(row)
        with fresh_cache():
            for name in NAMES:
                for each in differences(FAMILIES[name]):
                    print(
                        f"{each.family:8} {each.inner:10} {each.largest:.2g} of {each.logit:.2g}, "
                        f"{each.decisions} weights, which move {each.moved:.2g}"
                    )
                    found.append(each)
        checks = [check_of(layers) for layers in LAYERS]
    for one in checks:
        print(f"check of {one.weights} weights  {one.us:.1f} us")
    reached = goals(found, checks)
    for goal, ok in reached.items():
        print(f"{'reached' if ok else 'MISSED ':7}  {goal}")
    made = {
        **others,
        "compile": [asdict(row) for row in compiled],
        "families": [asdict(row) for row in found],
        "check": [asdict(row) for row in checks],
        "goals": reached,
    }
    print(record.write("compiling", made))
    return 0 if all(reached.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
