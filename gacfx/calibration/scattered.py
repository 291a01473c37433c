"""Statistics by an executor: each of its tasks gathers one shard, and this process adds them.

A task is given the whole model, as bytes: for models that are small beside the memory of a worker.
Others are gathered where they lie (:mod:`gacfx.shards`).
"""

import copy
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Executor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gacfx.calibration.counting import Counting
from gacfx.calibration.gather import WHOLE, gather_texts, keep_whole
from gacfx.calibration.running import device_of
from gacfx.calibration.shards import Gathered, Shard, merge_shards, sharing, wanted_sets
from gacfx.calibration.targets import targets
from gacfx.calibration.text import Corpus
from gacfx.core.statistics import Statistics, weight_digest
from gacfx.core.store import MemoryStore, Store
from gacfx.core.stored_moments import StoredMoments, merge, moments_tensors
from gacfx.core.tasks import results, workers
from gacfx.core.tensor_bytes import TensorBytes
from gacfx.core.work_folder import Key, WorkFolder, remove_work
from gacfx.errors import CalibrationError, CheckpointError
from gacfx.modules.dense import weight_of


@dataclass(frozen=True, eq=False)
class ShardTask:
    """A shard that is to be gathered."""

    skeleton: nn.Module
    """The model, without values."""
    values: TensorBytes
    """Name -> parameter or buffer of it."""
    texts: tuple[tuple[tuple[int, NDArray[np.int64]], ...], ...]
    """Of each text, for each window the number of its document and its token ids [T]."""
    names: tuple[str, ...]
    both_sides: frozenset[str]
    seed: int
    counting: Counting
    folder: str | None
    """Where the statistics are to be; None to send them back."""
    key: Key
    """Of that folder."""


def gather_by_shards(
    model: nn.Module,
    texts: tuple[Corpus, ...],
    modules: Iterable[str],
    *,
    both_sides: Collection[str] = (),
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
    store: Store | None = None,
    device: torch.device | None = None,
    read_on: torch.device | None = None,
    executor: Executor,
    shards: int,
) -> tuple[Statistics, ...]:
    """Statistics of every text, as :func:`gacfx.calibration.gather.gather_texts` has them.

    Args:
        model: as there; it is copied to the CPU of every worker.
        texts: disjoint.
        modules: names of the targeted modules.
        both_sides: as there.
        seed: of the sampled labels.
        progress: called with the windows of a shard when it is done.
        store: where they are to be kept. For a work folder, tasks fill folders inside it, which all
            workers have to see under its path; they are gone when the shards are merged.
        device: as there, for what this process computes; workers have CPUs.
        read_on: as there.
        executor: whose workers gather; see :mod:`gacfx.core.tasks`.
        shards: tasks to make of the text.

    Raises:
        CalibrationError, UnsupportedModel: as there; or there are fewer windows than shards.
        CheckpointError: the work folder has a limit of disk.
        WorkerFailed: a worker died, or the model cannot be sent to it.
    """
    names = tuple(modules)
    whole = partial(
        gather_texts,
        model,
        texts,
        names,
        both_sides=both_sides,
        seed=seed,
        store=store,
        device=device,
        read_on=read_on,
    )
    if store is not None and (
        WHOLE in store or all(name in store for name in wanted_sets(model, list(names)))
    ):
        return whole(progress=progress)
    cuts = [Shard(number, shards) for number in range(1, shards + 1)]
    parts = [cut.of(texts) for cut in cuts]
    skeleton, values = _emptied(model)
    folder = store if isinstance(store, WorkFolder) else None
    if folder is not None and folder.most_bytes is not None:
        raise CheckpointError(
            f"{folder.path}: shards lie beside each other in it, which no limit of disk is kept "
            "for; leave out shards, or disk"
        )
    tasks = [
        ShardTask(
            skeleton,
            values,
            tuple(map(_sent, part)),
            names,
            frozenset(both_sides),
            seed,
            texts[0].counting,
            None if folder is None else str(_inside(folder, cut)),
            {} if folder is None else {**folder.key, "shard": str(cut)},
        )
        for cut, part in zip(cuts, parts, strict=True)
    ]
    sent = [(f"shard {cut}", task) for cut, task in zip(cuts, tasks, strict=True)]
    found: tuple[Statistics, ...] = ()
    chosen = targets(model, names)
    digests = {name: weight_digest(weight_of(module)) for name, module in chosen.items()}
    with closing(results(executor, shard_task, sent, ahead=workers(executor))) as gathered:
        for part, made in zip(parts, gathered, strict=True):
            if made is not None:
                those = _statistics(made, part, names, seed, digests, device_of(model))
                found = _added(found, those) if found else those
            progress(sum(len(text.documents) for text in part))
    if folder is not None:
        _merge_folders(model, texts, names, cuts, folder)
        return whole()
    found = tuple(
        replace(each, text_digest=text.digest) for each, text in zip(found, texts, strict=True)
    )
    if store is None:
        return found
    keep_whole(store, found)
    return whole()


def shard_task(task: ShardTask) -> TensorBytes | None:
    """Gather a shard: moments and losses of each text, or None where a folder has them."""
    model = _filled(task.skeleton, task.values)
    texts = tuple(_received(text, task.counting) for text in task.texts)
    gathered = partial(
        gather_texts, model, texts, task.names, both_sides=task.both_sides, seed=task.seed
    )
    if task.folder is not None:
        with WorkFolder(task.folder, task.key, temporary=True) as store:
            gathered(store=store)
        return None
    made = dict[str, Tensor]()
    for index, each in enumerate(gathered()):
        made |= moments_tensors(str(index), each.moments)
        made[f"{index}|nats"] = torch.tensor(each.dense_nats_per_token, dtype=torch.float64)
    return TensorBytes.of(made)


def _sent(text: Corpus) -> tuple[tuple[int, NDArray[np.int64]], ...]:
    windows = enumerate(text.documents)
    return tuple((text.number(place), ids_T.cpu().numpy()) for place, ids_T in windows)


def _received(text: tuple[tuple[int, NDArray[np.int64]], ...], counting: Counting) -> Corpus:
    windows = tuple(torch.tensor(ids_T) for _, ids_T in text)
    return Corpus(windows, numbers=tuple(number for number, _ in text), counting=counting)


def _emptied(model: nn.Module) -> tuple[nn.Module, TensorBytes]:
    """(a copy of the model without values, its values)."""
    values: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in values.items():
        if tensor.is_meta:
            raise CalibrationError(f"{name}: has no values (meta device); load the weights first")
    hollow = {id(tensor): _like(tensor, tensor.to("meta")) for tensor in values.values()}
    return copy.deepcopy(model, hollow), TensorBytes.of(values)


def _filled(skeleton: nn.Module, values: TensorBytes) -> nn.Module:
    """The model with its values, as it was before :func:`_emptied`."""
    tensors = values.tensors()
    hollow = {**dict(skeleton.named_parameters()), **dict(skeleton.named_buffers())}
    memo = {id(tensor): _like(tensor, tensors[name]) for name, tensor in hollow.items()}
    return copy.deepcopy(skeleton, memo)


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    """The values, as a parameter or a buffer as ``tensor`` is."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(values, requires_grad=tensor.requires_grad)
    return values


def _statistics(
    made: TensorBytes,
    texts: tuple[Corpus, ...],
    names: tuple[str, ...],
    seed: int,
    digests: dict[str, str],
    device: torch.device,
) -> tuple[Statistics, ...]:
    """What a task has sent back of its part of each text."""
    store, sets = MemoryStore(), dict.fromkeys(names, WHOLE)
    store.put(WHOLE, made.tensors())
    return tuple(
        Statistics(
            sharing(StoredMoments(store, str(index), sets, device)),
            text.counted_tokens,
            text.digest,
            seed,
            float(store.get(WHOLE, f"{index}|nats")),
            digests,
            len(text.documents),
            text.tokens - text.counted_tokens,
        )
        for index, text in enumerate(texts)
    )


def _added(one: tuple[Statistics, ...], other: tuple[Statistics, ...]) -> tuple[Statistics, ...]:
    """Statistics of each text of two shards together, in memory; no more than two are at once."""
    merged = [merge(pair, "") for pair in zip(one, other, strict=True)]
    return tuple(replace(each, moments=sharing(each.moments)) for each in merged)


def _inside(folder: WorkFolder, cut: Shard) -> Path:
    return folder.path / f"shard-{cut.number}-of-{cut.count}"


def _merge_folders(
    model: nn.Module,
    texts: tuple[Corpus, ...],
    names: tuple[str, ...],
    cuts: list[Shard],
    folder: WorkFolder,
) -> None:
    with ExitStack() as opened:
        gathered = []
        for cut in cuts:
            path = _inside(folder, cut)
            key = {**folder.key, "shard": str(cut)}
            store = opened.enter_context(WorkFolder(path, key, temporary=True))
            gathered.append(Gathered(cut, store, str(path)))
        merge_shards(model, texts, names, gathered, folder)
    for cut in cuts:
        remove_work(_inside(folder, cut))
