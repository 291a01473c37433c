"""Which activations are kept in a training step? The exact solver beside those of torch.

    python -m benchmarks.activation_budget [--data ../shared/data]

One training step of small trained models, 4 x 256 tokens in float32, traced once and divided into a
forward and a backward graph with ``torch._functorch.config.activation_memory_budget`` at 0.2 to
0.8. Each solver is asked the same question: what it keeps, in bytes; the operations of what it does
not keep, as torch estimates them; the seconds of the call, which for ours hold the estimates that
torch does not hand over. Beside it stands what the divided step then keeps and computes again: a
minimum cut follows and moves both. ``ilp`` needs scipy and is left out without.
"""

import argparse
import copy
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.backends.debugging import boxed_nop
from torch._functorch import config, partitioners
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.utils import fresh_cache
from torch.fx import GraphModule, Node

from benchmarks import record
from gacfx.dynamo.activation_budget import ActivationBudgetSolver, budget_bytes, runtimes

MODELS = {"stories260K": "stories260K", "babyllama": "babyllama-tok105-1M"}
BATCH, SEQ = 4, 256
BUDGETS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
REPEATS = 3
OURS = "gacfx"
THEIRS = ("greedy", "dp", "dp_knapsack_sliding_hirschberg", "ilp")

Answer = tuple[float, list[int], list[int]]


@dataclass(frozen=True, slots=True)
class Row:
    """One solver at one budget."""

    model: str
    budget: float
    solver: str
    nodes: int
    """Activations to choose from."""
    budget_bytes: int
    kept_bytes: int
    """Of those that the solver keeps."""
    over: bool
    """That is more than the budget."""
    again_ops: float
    """Estimated operations of those that it does not keep."""
    seconds: float
    """Median of the calls."""
    step_kept_bytes: int
    """Activations that the forward graph hands to the backward one."""
    step_again_ops: float
    """Estimated operations that the backward graph does once more."""
    status: str = ""
    """Of ours: optimal means proven."""
    search_seconds: float | None = None
    """Of ours: the choice alone, in the last call."""


@dataclass(frozen=True)
class Asked:
    """What a solver was asked, and said."""

    sizes: list[int]
    values: list[float]
    limit: int
    kept: list[int]
    seconds: float


@contextmanager
def watched(found: list[Asked]) -> Iterator[None]:
    """Inside, each question of torch is asked several times and noted."""
    real: Callable[..., Answer] = partitioners._optimize_runtime_with_given_memory

    def ask(
        graph: Any, memory: list[float], values: list[float], share: float, info: Any, nodes: Any
    ) -> Answer:
        times = []
        for _ in range(REPEATS):
            begin = time.perf_counter()
            answer = real(graph, memory, values, share, info, nodes)
            times.append(time.perf_counter() - begin)
        sizes = [partitioners._size_of(node) for node in nodes]
        limit = budget_bytes(memory, sizes, share)
        found.append(Asked(sizes, values, limit, answer[1], median(times)))
        return answer

    with patch.object(partitioners, "_optimize_runtime_with_given_memory", ask):
        yield


@dataclass
class Divider:
    """Divides a traced step in every way, and hands on the last."""

    model: str
    rows: list[Row] = field(default_factory=list)
    unasked: list[float] = field(default_factory=list)
    """Budgets that hold all that is worth keeping, so that torch asks nobody."""

    def __call__(self, joint: GraphModule, inputs: Any, **more: Any) -> Any:
        for budget in BUDGETS:
            for solver in (OURS, *THEIRS):
                if solver == "ilp" and find_spec("scipy") is None:
                    continue
                parts = self.divide(copy.deepcopy(joint), inputs, budget, solver, more)
                if budget in self.unasked:
                    break
        return parts

    def divide(self, joint: GraphModule, inputs: Any, budget: float, solver: str, more: Any) -> Any:
        """torch's own division, with a row of what came of it."""
        ours, asked = ActivationBudgetSolver(), list[Asked]()
        chosen: Any = ours if solver == OURS else solver
        settings = {"activation_memory_budget": budget, "activation_memory_budget_solver": chosen}
        with config.patch(settings), watched(asked):
            parts = partitioners.min_cut_rematerialization_partition(
                joint, inputs, compiler="inductor", **more
            )
        if not asked:
            self.unasked.append(budget)
            return parts
        (said,) = asked
        kept, again = step_of(*parts, more["num_fwd_outputs"])
        bytes_kept, found = sum(said.sizes[at] for at in said.kept), ours.solution
        self.rows.append(
            Row(
                model=self.model,
                budget=budget,
                solver=solver,
                nodes=len(said.sizes),
                budget_bytes=said.limit,
                kept_bytes=bytes_kept,
                over=bytes_kept > said.limit,
                again_ops=sum(said.values) - sum(said.values[at] for at in said.kept),
                seconds=round(said.seconds, 5),
                step_kept_bytes=kept,
                step_again_ops=again,
                status="" if found is None else found.status,
                search_seconds=None if found is None else round(found.stats["seconds"], 5),
            )
        )
        return parts


def step_of(forward: GraphModule, backward: GraphModule, results: int) -> tuple[int, float]:
    """(bytes that the forward graph hands on, operations that the backward one does again)."""
    given = forward.graph.output_node().args[0]
    assert isinstance(given, list | tuple)
    saved = {n for n in given[results:] if isinstance(n, Node) and n.op == "call_function"}
    names = {n.name for n in forward.graph.nodes if n.op == "call_function"}
    again = [n for n in backward.graph.nodes if n.name in names and _computes(n)]
    return sum(map(partitioners._size_of, saved)), sum(runtimes(again))


def _computes(node: Node) -> bool:
    """An operator of torch that gives a tensor."""
    operator = isinstance(node.target, torch._ops.OpOverload)
    return operator and isinstance(node.meta.get("val"), torch.Tensor)


def measure(name: str, model: nn.Module) -> Divider:
    """Rows of one training step."""
    divider = Divider(name)
    backend = aot_autograd(
        fw_compiler=boxed_nop,
        bw_compiler=boxed_nop,
        decompositions=select_decomp_table,
        partition_fn=divider,
    )
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 100, (BATCH, SEQ), generator=generator)
    with fresh_cache():
        run: Any = torch.compile(model, backend=backend)
        run(ids, labels=ids, use_cache=False).loss.backward()
    return divider


def goals(rows: Sequence[Row]) -> dict[str, bool]:
    """What the rows should show."""
    ours = {(row.model, row.budget): row for row in rows if row.solver == OURS}
    return {
        "ours: proven and within the budget": all(
            row.status == "optimal" and not row.over for row in ours.values()
        ),
        "none within the budget computes less again": all(
            row.over or row.again_ops >= ours[row.model, row.budget].again_ops for row in rows
        ),
    }


def main(given: Sequence[str] | None = None) -> int:
    """0 when all goals are reached, else 1."""
    default = Path(os.environ.get("GACFX_DATA", Path(__file__).parents[1] / "../shared/data"))
    parser = argparse.ArgumentParser(description="Solvers of torch's activation memory budget.")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--out", type=Path, help="of the results")
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    others = record.others()
    from transformers import AutoModelForCausalLM

    rows, unasked = list[Row](), dict[str, list[float]]()
    for name, folder in MODELS.items():
        model = AutoModelForCausalLM.from_pretrained(
            asked.data / "models" / folder, trust_remote_code=False
        )
        divider = measure(name, model.train())
        rows, unasked = [*rows, *divider.rows], {**unasked, name: divider.unasked}
    for row in rows:
        print(
            f"{row.model:12} {row.budget:.1f}  {row.solver:31} kept {row.kept_bytes:,} of "
            f"{row.budget_bytes:,}{' OVER' if row.over else ''}, again {row.again_ops:.4g}, "
            f"{1e3 * row.seconds:.1f} ms; the step keeps {row.step_kept_bytes:,}, again "
            f"{row.step_again_ops:.4g}  {row.status}"
        )
    found = goals(rows)
    for goal, reached in found.items():
        print(f"{'reached' if reached else 'MISSED ':7}  {goal}")
    made = {
        **others,
        "tokens": [BATCH, SEQ],
        "rows": [asdict(row) for row in rows],
        "budgets that ask nobody": unasked,
        "goals": found,
    }
    print(record.write("activation_budget", made, asked.out))
    return 0 if all(found.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
