"""Decompositions by an executor: weights and moments go out as bytes, components come back.

In the order of the weights, two for each worker at a time, so that memory stays bounded. Which
process decomposes a weight changes no bit, as long as it has as many threads.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass, replace

from torch import Tensor

from gacfx.compressors.methods import METHODS, Method
from gacfx.compressors.protocol import Compressor, Decomposition
from gacfx.core.statistics import Moments
from gacfx.core.store import MemoryStore
from gacfx.core.stored_moments import StoredMoments, moments_tensors
from gacfx.core.tasks import results, workers
from gacfx.core.tensor_bytes import TensorBytes
from gacfx.errors import DecompositionFailed, PipelineError

_WEIGHT = "weight"
_INNER, _OUTER = "inner", "outer"
AHEAD = 2
"""Weights that are out, for each worker: one that it decomposes, and one that waits for it."""


@dataclass(frozen=True)
class WeightTask:
    """A weight that is to be decomposed."""

    module: str
    method: str
    """Name in the table of methods."""
    sent: TensorBytes
    """The weight [rows, columns] in its own dtype, and what a store keeps of its moments."""
    transposed: bool
    """The weight is sent as [columns, rows]: products have the last bits of its layout."""
    heads: int = 0
    """Key-value heads that its outputs are, for methods that look at them."""


def decompose_task(task: WeightTask) -> TensorBytes | str | None:
    """Components of a weight, [S, S] each in float64.

    Why there are none, for a weight that has no decomposition. None where it cannot be made here:
    this process does not know the method, or the method has no components.
    """
    try:
        method = METHODS.find(task.method).for_heads(task.heads)
    except PipelineError:
        return None
    tensors = task.sent.tensors()
    weight_MN = tensors.pop(_WEIGHT)
    weight_MN = weight_MN.T if task.transposed else weight_MN
    store = MemoryStore()
    store.put("task", tensors)
    moments = StoredMoments(store, "", {task.module: "task"})[task.module]
    try:
        made = method.decompose(weight_MN, moments, task.module)
    except DecompositionFailed as error:
        return error.reason
    if made.components is None:
        return None
    return TensorBytes.of(dict(zip((_INNER, _OUTER), made.components, strict=True)))


def decomposed(
    executor: Executor,
    method: Compressor,
    names: Sequence[str],
    weight_of: Callable[[str], Tensor],
    moments: Mapping[str, Moments],
    heads: Mapping[str, int] | None = None,
) -> Generator[Decomposition | DecompositionFailed | None, None, None]:
    """For each weight in turn its decomposition, or why it has none.

    None where the caller has to decompose it: its moments are missing or no numbers, workers do not
    know the method, or the method is not made again from components.

    Args:
        executor: whose workers decompose; see :mod:`gacfx.core.tasks`.
        method: of the table of methods.
        names: of the weights.
        weight_of: name -> weight, outputs first.
        moments: of the weights.
        heads: name -> key-value heads that the outputs of a weight are; None for none.

    Raises:
        WorkerFailed: a worker died, or something else is wrong with the executor.
    """
    here, sent = type(method).restored is Compressor.restored, set[str]()
    heads = heads or {}

    def tasks() -> Iterator[tuple[str, WeightTask | None]]:
        for name in names:
            known = moments.get(name)
            task = None
            if not here and known is not None and not known.problem():
                task = _task(name, method, weight_of(name), known, heads.get(name, 0))
            if task is not None:
                sent.add(name)
            yield name, task

    ahead = AHEAD * workers(executor)
    with closing(results(executor, decompose_task, tasks(), ahead=ahead)) as found:
        for name, made in zip(names, found, strict=True):
            if isinstance(made, str):
                yield DecompositionFailed(name, made)
            elif made is None:
                # One weight that came back is enough to know that workers cannot do the method.
                here = here or name in sent
                yield None
            else:
                known, parts = moments[name], made.tensors()
                device = known.side_moment.device
                inner_SS, outer_SS = parts[_INNER].to(device), parts[_OUTER].to(device)
                own = method.for_heads(heads.get(name, 0))
                yield own.restored(weight_of(name), known, name, (inner_SS, outer_SS))


def _task(
    name: str, method: Compressor, weight_MN: Tensor, moments: Moments, heads: int
) -> WeightTask:
    if isinstance(method, Method):
        moments = replace(moments, long_moment=None)  # it never looks at it
    transposed = weight_MN.T.is_contiguous() and not weight_MN.is_contiguous()
    weight = weight_MN.T if transposed else weight_MN
    sent = TensorBytes.of({_WEIGHT: weight, **moments_tensors("", {name: moments})})
    return WeightTask(name, method.name, sent, transposed, heads)
