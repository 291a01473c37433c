"""The tensors of a plan: two factors for each factorized weight, and the folder that keeps them.

A plan folder holds ``plan.json`` and ``factors.safetensors``. The second file carries the digest of
the first, so that a plan and the factors of another one are never taken for a pair.
"""

# R rank, D input features, O output features

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gacfx.core.files.atomic import making, replacing
from gacfx.core.files.reading import check_regular, read_text
from gacfx.core.files.targets import check_file, writing
from gacfx.core.names import is_module_name, printable
from gacfx.core.plan import Plan
from gacfx.errors import CheckpointError, PlanError

PLAN_FILE = "plan.json"
FACTORS_FILE = "factors.safetensors"
_FORMAT = "gacfx-factors-1"


@dataclass(frozen=True, eq=False)
class Factors:
    """The weight ``up_OR @ down_RD`` of one module, of rank R."""

    down_RD: Tensor
    up_OR: Tensor

    def __post_init__(self) -> None:
        """Refuses what cannot be multiplied.

        Raises:
            PlanError: not two floating matrices with a common rank of at least 1.
        """
        down, up = self.down_RD, self.up_OR
        if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1] or down.shape[0] < 1:
            raise PlanError(
                f"factors down {tuple(down.shape)} and up {tuple(up.shape)} do not fit; "
                "they must be [rank, in] and [out, rank]"
            )
        if not (down.is_floating_point() and up.is_floating_point()):
            raise PlanError(f"factors must be floating, they are {down.dtype} and {up.dtype}")

    @property
    def rank(self) -> int:
        """R."""
        return self.down_RD.shape[0]

    @property
    def rows(self) -> int:
        """O, output features."""
        return self.up_OR.shape[0]

    @property
    def columns(self) -> int:
        """D, input features."""
        return self.down_RD.shape[1]

    @property
    def finite(self) -> bool:
        """No NaN and no infinity."""
        return all(bool(torch.isfinite(t).all()) for t in (self.down_RD, self.up_OR))


FactorSet = dict[str, Factors]
"""Module name -> factors."""


def save_factors(
    path: Path,
    factors: Mapping[str, Factors],
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes ``<module>.down`` and ``<module>.up`` as safetensors, in the dtype they have.

    Raises:
        PlanError: NaN or infinite factors.
        CheckpointError: the file exists and ``overwrite`` is false, or it cannot be written.
    """
    check_file(path, overwrite=overwrite)
    tensors = _tensors(factors)
    with writing(path), making(path.parent), replacing(path, overwrite=overwrite) as partial:
        _write_tensors(partial, tensors, metadata or {})


def _tensors(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """What is written of the factors.

    Raises:
        PlanError: NaN or infinite factors.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for module, pair in sorted(factors.items()):
        if not pair.finite:
            raise PlanError(f"{module}: its factors are NaN or infinite; make the plan again")
        tensors[f"{module}.down"] = _own(pair.down_RD, seen)
        tensors[f"{module}.up"] = _own(pair.up_OR, seen)
    return tensors


def _write_tensors(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, path, metadata={"format": _FORMAT, **metadata})


def load_factors(path: Path) -> FactorSet:
    """The factors in a file that ``save_factors`` wrote, on the CPU, checked again.

    Raises:
        CheckpointError: missing, truncated, of another format, or with tensors that do not belong.
        PlanError: factors that do not fit each other, or are NaN or infinite.
    """
    return _read_factors(path)[0]


def save_plan(
    folder: Path, plan: Plan, factors: Mapping[str, Factors], *, overwrite: bool = False
) -> None:
    """Writes ``plan.json`` and ``factors.safetensors``; other files of the folder stay.

    Both are complete before the first one takes its place, and each appears whole or not at all.

    Raises:
        PlanError: the factors are not those of the plan, or either holds NaN or infinity.
        CheckpointError: one of the files exists and ``overwrite`` is false, or the folder cannot be
            written.
    """
    check_factors(plan, factors)
    try:
        text = plan.to_json()
    except ValueError as error:
        raise PlanError(f"the plan holds NaN or infinity: {error}") from error
    tensors = _tensors(factors)
    for name in (PLAN_FILE, FACTORS_FILE):
        check_file(folder / name, overwrite=overwrite)
    with writing(folder), making(folder):
        paths = [folder / name for name in (FACTORS_FILE, PLAN_FILE)]
        with (
            replacing(paths[0], overwrite=overwrite) as first,
            replacing(paths[1], overwrite=overwrite) as second,
        ):
            _write_tensors(first, tensors, {"plan": _digest(text)})
            second.write_text(text, encoding="utf-8")


def load_plan(folder: Path) -> tuple[Plan, FactorSet]:
    """The plan and the factors in a folder that ``save_plan`` wrote.

    Raises:
        CheckpointError: a file is missing, truncated or malformed.
        PlanError: a malformed plan, or factors that are not those of the plan.
    """
    text = read_text(folder / PLAN_FILE)
    plan = Plan.from_json(text, where=str(folder / PLAN_FILE))
    factors, metadata = _read_factors(folder / FACTORS_FILE)
    if metadata.get("plan", _digest(text)) != _digest(text):
        raise PlanError(
            f"{folder}: {PLAN_FILE} and {FACTORS_FILE} were not written together; "
            "make the plan again"
        )
    check_factors(plan, factors)
    return plan, factors


def check_factors(plan: Plan, factors: Mapping[str, Factors]) -> None:
    """Nothing when there are factors for exactly the planned ranks, in the planned shapes.

    Raises:
        PlanError: names the first module that differs.
    """
    planned = plan.ranks
    for module in sorted(planned.keys() ^ factors.keys()):
        have, lack = ("plan", "factors") if module in planned else ("factors", "plan")
        raise PlanError(f"{module}: is in the {have} but not in the {lack}; make the plan again")
    for choice in plan.choices:
        if choice.rank is None:
            continue
        pair = factors[choice.module]
        wanted = (choice.rows, choice.columns, choice.rank)
        if (pair.rows, pair.columns, pair.rank) != wanted:
            raise PlanError(
                f"{choice.module}: the plan says {choice.rows} x {choice.columns} of rank "
                f"{choice.rank}, its factors are {pair.rows} x {pair.columns} of rank {pair.rank}"
            )


def _read_factors(path: Path) -> tuple[FactorSet, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise CheckpointError(
                    f"{path}: format {printable(repr(metadata.get('format')))}; "
                    f"this gacfx reads {_FORMAT!r}"
                )
            factors = _pairs(file, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    for module, pair in factors.items():
        if not pair.finite:
            raise PlanError(f"{path}: {module}: NaN or infinite factors; make the plan again")
    return factors, metadata


def _pairs(file: Any, path: Path) -> FactorSet:
    keys = sorted(file.keys())
    modules = sorted({key.rpartition(".")[0] for key in keys})
    expected = sorted(f"{module}.{side}" for module in modules for side in ("down", "up"))
    if keys != expected or "" in modules:
        odd = min(set(keys) ^ set(expected), default=keys[0])
        raise CheckpointError(
            f"{path}: {printable(odd)}: every module needs one .down and one .up, no more"
        )
    for module in modules:
        if not is_module_name(module):
            raise CheckpointError(f"{path}: '{printable(module)}' is no name of a module")
    factors = {}
    for module in modules:
        try:
            factors[module] = Factors(
                file.get_tensor(f"{module}.down"), file.get_tensor(f"{module}.up")
            )
        except PlanError as error:
            raise PlanError(f"{path}: {module}: {error}") from error
    return factors


def _own(factor: Tensor, seen: set[int]) -> Tensor:
    """Contiguous, on the CPU, and copied if a tensor of the same memory is written already."""
    here = factor.detach().cpu().contiguous()
    memory = here.untyped_storage().data_ptr()
    if memory in seen:  # shared bases; safetensors refuses shared memory
        return here.clone()
    seen.add(memory)
    return here


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
