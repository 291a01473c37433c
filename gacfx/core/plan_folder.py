"""A plan folder: ``plan.json`` and ``factors.safetensors``.

The second file carries the digest of the first, so that a plan and the factors of another one are
never taken for a pair. Its tensors are ``<module>.<name>``, named as their decision names them; its
metadata say the decision of each module. Format 1 has pairs only, and no word of them.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gacfx.core.decision import Decision
from gacfx.core.files.atomic import making, replacing
from gacfx.core.files.reading import check_regular, read_text
from gacfx.core.files.targets import check_file, writing
from gacfx.core.kinds import read_decision, write_decision
from gacfx.core.materialise import Factors, FactorSet, check_factors
from gacfx.core.names import is_module_name, printable
from gacfx.core.plan import Plan
from gacfx.core.tensor_file import save_tensors
from gacfx.errors import CheckpointError, PlanError

PLAN_FILE = "plan.json"
FACTORS_FILE = "factors.safetensors"
_FORMAT = "gacfx-factors-2"
_READS = ("gacfx-factors-1", _FORMAT)
_ORDER = "outputs:order"
"""Of a layer with reordered outputs; no decision can have a tensor of this name."""


def save_factors(
    path: Path,
    factors: Mapping[str, Factors],
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes ``<module>.<tensor>`` as safetensors, in the dtype they have, with their decisions.

    Raises:
        PlanError: NaN or infinite factors.
        CheckpointError: the file exists and ``overwrite`` is false, or it cannot be written.
    """
    check_file(path, overwrite=overwrite)
    tensors = _tensors(factors)
    with writing(path), making(path.parent), replacing(path, overwrite=overwrite) as partial:
        _write_tensors(partial, tensors, {**(metadata or {}), **_decisions(factors)})


def _tensors(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """What is written of the factors.

    Raises:
        PlanError: NaN or infinite factors.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for module, made in sorted(factors.items()):
        if not made.finite:
            raise PlanError(f"{module}: its factors are NaN or infinite; make the plan again")
        for name, tensor in made.tensors.items():
            tensors[f"{module}.{name}"] = _own(tensor, seen)
        if made.order is not None:
            tensors[f"{module}.{_ORDER}"] = _own(made.order, seen)
    return tensors


def _decisions(factors: Mapping[str, Factors]) -> dict[str, str]:
    """Metadata of the file: module -> rows, columns and decision, as JSON."""
    said = {
        module: {
            "rows": f.rows,
            "columns": f.columns,
            "decision": write_decision(f.decision),
            **({} if f.order is None else {"reordered": True}),
        }
        for module, f in sorted(factors.items())
    }
    return {"decisions": json.dumps(said)}


def _write_tensors(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    save_tensors(path, tensors, {"format": _FORMAT, **metadata})


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
            _write_tensors(first, tensors, {"plan": _digest(text), **_decisions(factors)})
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


def _read_factors(path: Path) -> tuple[FactorSet, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            if metadata.get("format") not in _READS:
                raise CheckpointError(
                    f"{path}: format {printable(repr(metadata.get('format')))}; "
                    f"this gacfx reads {' and '.join(map(repr, _READS))}"
                )
            old = metadata["format"] != _FORMAT
            factors = _pairs(file, path) if old else _any(file, metadata, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    for module, made in factors.items():
        if not made.finite:
            raise PlanError(f"{path}: {module}: NaN or infinite factors; make the plan again")
    return factors, metadata


def _any(file: Any, metadata: dict[str, str], path: Path) -> FactorSet:
    """The factors of a file of format 2."""
    said = _said(metadata.get("decisions", ""), path)
    wanted = {
        f"{module}.{name}": module
        for module, (rows, columns, decision, reordered) in said.items()
        for name in (*decision.tensors(rows, columns), *([_ORDER] if reordered else []))
    }
    for key in sorted(wanted.keys() ^ set(file.keys())):
        what = "is missing" if key in wanted else "belongs to no decision of the file"
        raise CheckpointError(f"{path}: {printable(key)} {what}")
    factors = {}
    for module, (rows, columns, decision, reordered) in said.items():
        names = decision.tensors(rows, columns)
        tensors = {name: file.get_tensor(f"{module}.{name}") for name in names}
        order = file.get_tensor(f"{module}.{_ORDER}") if reordered else None
        try:
            factors[module] = Factors(decision, rows, columns, tensors, order)
        except PlanError as error:
            raise PlanError(f"{path}: {module}: {error}") from error
    return factors


_Said = tuple[int, int, Decision, bool]
"""(rows, columns, decision, whether the outputs are reordered) of one module."""


def _said(text: str, path: Path) -> dict[str, _Said]:
    """What the metadata of a file say of each module.

    Raises:
        CheckpointError: it says nothing of the kind.
        PlanError: an unknown kind of decision, or one that its weight cannot have.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata has no decisions: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: its metadata has no decisions by module")
    found = {}
    for module, one in raw.items():
        if not is_module_name(module):
            raise CheckpointError(f"{path}: '{printable(module)}' is no name of a module")
        try:
            found[module] = _one_said(one)
        except PlanError as error:
            raise PlanError(f"{path}: {module}: {error}") from error
    return found


def _one_said(raw: object) -> _Said:
    """What is said of one module."""
    table = raw if isinstance(raw, dict) else {}
    for key in sorted(table.keys() - {"rows", "columns", "decision", "reordered"}):
        raise PlanError(f"{printable(key)} is no field of it")
    if table.get("reordered", True) is not True:
        raise PlanError("reordered is true or is left out")
    rows, columns = table.get("rows"), table.get("columns")
    if type(rows) is not int or type(columns) is not int or min(rows, columns) < 1:
        raise PlanError("its rows and columns are no sizes")
    decision = read_decision(table.get("decision"))
    if problem := decision.problem(rows, columns):
        raise PlanError(problem)
    return rows, columns, decision, table.get("reordered") is True


def _pairs(file: Any, path: Path) -> FactorSet:
    """The factors of a file of format 1."""
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
            factors[module] = Factors.pair(
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
