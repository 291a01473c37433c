"""Work on one model and one text, kept in a folder: statistics, decompositions, curves, losses.

Whatever is there is not computed again: a run that was killed goes on, and a further plan costs
seconds. A folder belongs to one model, text, seed and choice of weights; goals and GPUs may change.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

import gacfx
from gacfx.calibration.text import Corpus
from gacfx.core.curve_file import Curves, load_curves, save_curves
from gacfx.core.goal import read_bytes
from gacfx.core.locks import fingerprint
from gacfx.core.plan import Plan
from gacfx.core.statistics import weight_digest
from gacfx.core.store import Store
from gacfx.core.work_folder import Key, WorkFolder, key_of
from gacfx.errors import CalibrationError, GacError

_SAYS_NOTHING = ("_name_or_path", "transformers_version")
"""Entries of a configuration that change nothing of what a model computes."""
PLANNED = "curves.safetensors"
"""The curves of the last plan, from which others are made without the model."""


@dataclass(frozen=True, eq=False)
class Work:
    """Where a long computation keeps what it has, and who computes."""

    folder: str | Path | None = None
    """For statistics, decompositions and curves; None to hold all of them in memory."""
    disk: int | str | None = None
    """Most that the folder may take, in bytes or as ``60GB``: decompositions that do not fit are
    made again when they are needed. None for as much as there is."""
    device: str | torch.device | None = None
    """Where each layer computes while it is at work, and weights are decomposed, as ``cuda``; it
    needs a folder. None for where the model is."""
    executor: Executor | None = None
    """Whose workers decompose weights, such as a pool of processes or that of a Dask client; None
    for this process. Results are the same, and it is not shut down."""
    shards: int = 1
    """Parts of the text that they gather at the same time, each with a copy of the model."""
    temporary: bool = False
    """Whether ``gacfx.core.work_folder.remove_work`` may remove the folder, as ``gacfx compress``
    does with the one beside its result; one that was ever opened without saying so stays."""

    def __post_init__(self) -> None:
        if self.shards < 1 or (self.shards > 1 and self.executor is None):
            raise CalibrationError(f"shards {self.shards}: give 1, or more with an executor")
        for name in ("disk", "device"):
            if self.folder is None and getattr(self, name) is not None:
                raise CalibrationError(f"{name} {getattr(self, name)}: it needs a work folder")
        _ = self.most_bytes, self.torch_device

    @staticmethod
    def of(given: "Work | str | Path | None") -> "Work":
        """What a door was given: a folder alone, or all of it."""
        return given if isinstance(given, Work) else Work(given)

    @property
    def most_bytes(self) -> int | None:
        """Of the folder.

        Raises:
            PlanError: ``disk`` is no number of bytes.
        """
        return None if self.disk is None else read_bytes(self.disk)

    @property
    def torch_device(self) -> torch.device | None:
        """The device.

        Raises:
            CalibrationError: there is no such device here.
        """
        if self.device is None:
            return None
        try:
            found = torch.device(self.device)
            torch.empty(1, device=found)
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            said = str(error).partition("\n")[0]
            raise CalibrationError(f"device {self.device}: cannot be used here: {said}") from error
        if found.type == "meta":
            raise CalibrationError(f"device {self.device}: computes nothing")
        return found


def open_work(
    path: str | Path,
    model: nn.Module,
    corpus: Corpus,
    *,
    skip: tuple[str, ...] = (),
    seed: int = 0,
    structures: bool = False,
    most_bytes: int | None = None,
    temporary: bool = False,
    shard: str | None = None,
) -> WorkFolder:
    """The folder of this work, new or as it was left.

    Args:
        path: of the folder.
        model: dense; all its values are read once.
        corpus: calibration text.
        skip: patterns of module names to leave dense.
        seed: of the sampled labels.
        structures: with what pruning needs.
        most_bytes: that the folder may take: decompositions are not kept beyond; None for as much
            as there is.
        temporary: whether it goes when all is done.
        shard: which part of the text it is of, as ``I/N``; None for the whole.

    Raises:
        CheckpointError: another process works there, it is of other work, or cannot be written.
    """
    key = work_key(model, corpus, skip=skip, seed=seed, structures=structures)
    if shard is not None:
        key["shard"] = shard
    both = {**key, "pruning": True}  # statistics for pruning are those for ranks, and more
    found = both if key_of(path) == both else key
    return WorkFolder(path, found, most_bytes=most_bytes, temporary=temporary)


def work_key(
    model: nn.Module, corpus: Corpus, *, skip: tuple[str, ...], seed: int, structures: bool
) -> Key:
    """What tells one work from another, as plain JSON values."""
    return {
        "model": model_digest(model),
        "text": corpus.digest,
        "skip": list(skip),
        "seed": seed,
        "pruning": structures,
        "versions": {
            "gacfx": gacfx.__version__,
            "torch": torch.__version__,
            "transformers": version("transformers"),
        },
    }


def model_digest(model: nn.Module) -> str:
    """sha256 of the architecture, of its configuration and of all values, buffers included that no
    checkpoint has.

    Raises:
        CalibrationError: the model has no values.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise CalibrationError(f"{name}: has no values (meta device); load the weights first")
    mixed = hashlib.sha256(fingerprint(model).encode())
    config: Any = getattr(model, "config", None)
    if config is not None:
        said = {k: v for k, v in config.to_dict().items() if k not in _SAYS_NOTHING}
        mixed.update(json.dumps(said, sort_keys=True, default=str).encode())
    for name, tensor in sorted((dict(model.named_buffers()) | model.state_dict()).items()):
        mixed.update(f"{name} {weight_digest(tensor)}\n".encode())
    return mixed.hexdigest()


def plan_digest(plan: Plan, dense: Iterable[str] = ()) -> str:
    """Tells plans apart by what they choose, and by the value model that their factors go by.

    Args:
        plan: of this work.
        dense: modules of it that are dense again.
    """
    choices = [(choice.group, choice.decision) for choice in plan.choices]
    said = repr((plan.provenance.value_model, choices, sorted(dense)))
    return hashlib.sha256(said.encode()).hexdigest()


def remembered_curves(store: Store | None, name: str, make: Callable[[], Curves]) -> Curves:
    """Curves that are made once.

    Args:
        store: a folder has a file of them, which tells by itself whether it is whole.
        name: of the file, without its ending.
        make: makes them.
    """
    if not isinstance(store, WorkFolder):
        return make()
    path = store.path / f"{name}.{PLANNED}"
    if path.exists():
        try:
            return load_curves(path)
        except GacError:  # damaged: they are made again
            path.unlink()
    made = make()
    save_curves(path, made, overwrite=True)
    return made


def keep_curves(store: Store | None, make: Callable[[], Curves]) -> None:
    """Leave the curves of a plan in its work folder, for plans without the model.

    Args:
        store: nothing happens unless it is a folder.
        make: gives the curves.
    """
    if isinstance(store, WorkFolder):
        save_curves(store.path / PLANNED, make(), overwrite=True)
