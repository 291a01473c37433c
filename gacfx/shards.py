"""Statistics of one text by many machines: each gathers a shard, and one adds them up.

gather_shard(model, tokenizer, calibration="texts.jsonl", shard="1/3", work="shard-1")
...
merge_shards(model, tokenizer, calibration="texts.jsonl", shards=["shard-1", ...], work="work")
gacfx.compress(model, tokenizer, calibration="texts.jsonl", work="work")   # gathers nothing

What is merged is what one machine would have gathered, to rounding: the text is cut into the part
that is fitted and the part that is held back first, and each of them into shards.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn

from gacfx.api import Text, read_calibration
from gacfx.calibration.few_tokens import warn_of_few_tokens
from gacfx.calibration.gather import gather_texts
from gacfx.calibration.sanity import check_causal, check_reads
from gacfx.calibration.shards import Gathered, Shard, check_complete
from gacfx.calibration.shards import merge_shards as merge_stores
from gacfx.calibration.text import split
from gacfx.captured import captured
from gacfx.core.asked import check_asked, check_module
from gacfx.core.surroundings import plain_torch
from gacfx.core.work_folder import Key, WorkFolder, difference, key_of
from gacfx.errors import CalibrationError, CheckpointError
from gacfx.progress import Count, Progress
from gacfx.suitable import check_model
from gacfx.work import Work, open_work, work_key

__all__ = ["Shard", "gather_shard", "merge_shards"]


@plain_torch()
def gather_shard(
    model: nn.Module,
    tokenizer: Any = None,
    *,
    calibration: Text,
    shard: str | Shard,
    work: Work | str | Path,
    calibration_tokens: int | str | None = None,
    skip: tuple[str, ...] = (),
    seed: int = 0,
    seq: int = 1024,
    structures: bool = False,
    progress: Progress = lambda *_: None,
    force: bool = False,
) -> int:
    """Gather the statistics of one shard of a text into a folder, one decoder layer at a time.

    A run that was stopped goes on. What ``llm-pruner`` scores by, gradients of the weights, no
    folder keeps.

    Args:
        model: Hugging Face causal language model in eval mode.
        tokenizer: the model's; not needed when ``calibration`` is a Corpus.
        calibration: the whole text, the same for all shards.
        shard: ``I/N``: every N-th window of the part that is fitted and of the part that is held
            back, from the I-th on; 1 <= I <= N.
        work: folder of this shard alone; as a :class:`gacfx.Work` also how much disk it may take,
            and where layers compute.
        calibration_tokens: as in :func:`gacfx.api.read_calibration`; the same for all shards.
        skip: patterns of module names to leave dense.
        seed: of the sampled labels.
        seq: tokens of a sequence for which attention calls are recorded.
        structures: also gather what plans with pruning need.
        progress: called with (stage, done, total).
        force: go on with a model that predicts this shard worse than guessing.

    Returns:
        Number of weights that were measured.

    Raises:
        CalibrationError: there is no such shard, or it would have no window.
        CheckpointError: the folder is of other work.
        GacError: bad input; see gacfx.errors.
    """
    check_module(model)
    check_asked(skip=skip, seed=seed, force=force)
    check_model(model)
    shard = shard if isinstance(shard, Shard) else Shard.parse(shard)
    corpus = read_calibration(calibration, model, tokenizer, calibration_tokens)
    whole = split(corpus)
    texts = shard.of(whole)
    on = Work.of(work)
    if on.folder is None:
        raise CalibrationError("a shard is gathered into a folder; name one")
    with open_work(
        on.folder,
        model,
        corpus,
        skip=skip,
        seed=seed,
        structures=structures,
        most_bytes=on.most_bytes,
        shard=str(shard),
    ) as store:
        progress("capture", 0, 1)
        # A folder that was begun for pruning is filled for it.
        found = captured(model, skip=skip, seq=seq, structures=bool(store.key["pruning"]))
        progress("capture", 1, 1)
        warn_of_few_tokens(model, whole, found.names)
        check_causal(model, texts[0])
        if not force:
            check_reads(model, texts[1], store, on.torch_device)
        windows = sum(len(text.documents) for text in texts)
        statistics, _ = gather_texts(
            model,
            texts,
            found.names,
            both_sides=found.both_sides,
            seed=seed,
            progress=Count(progress, "calibrate", windows),
            store=store,
            device=on.torch_device,
        )
        return len(statistics.moments)


@plain_torch()
def merge_shards(
    model: nn.Module,
    tokenizer: Any = None,
    *,
    calibration: Text,
    shards: Sequence[str | Path],
    work: str | Path,
    calibration_tokens: int | str | None = None,
    skip: tuple[str, ...] = (),
    seed: int = 0,
    seq: int = 1024,
) -> int:
    """Add the statistics of all shards of a text into the work folder of the whole text.

    Plans with ``work`` then gather nothing. The moments of one layer are in memory at once. A merge
    that was stopped goes on.

    Args:
        model: the one that the shards are of.
        tokenizer: as in :func:`gather_shard`, as ``calibration``, ``calibration_tokens``, ``skip``,
            ``seed`` and ``seq``.
        shards: folders of all shards, in any order.
        work: folder of the whole text.

    Returns:
        Number of weights whose statistics are there.

    Raises:
        CheckpointError: a shard is missing, was given twice, is not finished, or is of another
            model, text, seed or number of shards.
        GacError: bad input; see gacfx.errors.
    """
    check_module(model)
    check_asked(skip=skip, seed=seed)
    check_model(model)
    corpus = read_calibration(calibration, model, tokenizer, calibration_tokens)
    found = [(_key_of_shard(path), str(path)) for path in shards]
    if not found:
        raise CheckpointError("no shard is given; name the folders of all of them")
    check_complete([(shard, where) for (shard, _), where in found])
    pruning = found[0][0][1].get("pruning") is True
    key = work_key(model, corpus, skip=skip, seed=seed, structures=pruning)
    for (_, of), where in found:
        if of != key:
            raise CheckpointError(f"{where}: is a shard of other work: {difference(of, key)}")
    names = captured(model, skip=skip, seq=seq).names
    with WorkFolder(work, key) as into, ExitStack() as opened:
        gathered = [
            Gathered(
                shard, opened.enter_context(WorkFolder(where, {**of, "shard": str(shard)})), where
            )
            for (shard, of), where in found
        ]
        texts = split(corpus)
        merge_stores(model, texts, names, gathered, into)
    return len(names)


def _key_of_shard(path: str | Path) -> tuple[Shard, Key]:
    """(the shard, the key of the work that it is a shard of).

    Raises:
        CheckpointError: the folder is no shard.
    """
    key = key_of(path)
    if not isinstance(key, dict):
        raise CheckpointError(f"{path}: is no work folder; gather a shard there first")
    if not isinstance(said := key.pop("shard", None), str):
        raise CheckpointError(
            f"{path}: is the work folder of a whole text, and no shard of it; plan with it as it is"
        )
    return Shard.parse(said), key
