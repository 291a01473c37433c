"""Curves in a file: everything that planning needs to know of a model, without the model.

A calibration takes minutes and a plan milliseconds, so the curves are kept: one ``.safetensors``
file with a float64 array of losses for each targeted weight, and one JSON text in its metadata with
all the rest. The text carries a digest of itself and of the arrays.

The value model was chosen for the budget of the plan that the curves come from; another budget
might have preferred another one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gacfx.core.curve_checks import check_facts, check_losses
from gacfx.core.curves import Curve
from gacfx.core.files.atomic import making, replacing
from gacfx.core.files.reading import check_regular
from gacfx.core.files.targets import check_file, writing
from gacfx.core.names import odd_text, printable
from gacfx.core.provenance import Provenance
from gacfx.core.shared_curves import SharedCurve, SharedFacts, shared_key
from gacfx.core.sites import Extent, Layout, MatmulSite
from gacfx.core.structure_curves import Size, StructureCurve, StructureFacts
from gacfx.errors import CheckpointError, PlanError

FORMAT = "gacfx-curves"
VERSION = 3
UNSHARED = 2
"""Written where no basis is shared, for older readers."""
READS = (1, UNSHARED, VERSION)
"""Version 1 knows no structures, version 2 no shared bases."""
_KEY = "gacfx"  # one key: the order of several is not fixed, and equal curves make equal files


@dataclass(frozen=True, slots=True)
class Target:
    """What a targeted weight is and does, beside its losses."""

    module: str
    rows: int
    columns: int
    value_model: str
    m: Extent
    """Rows of its input, as a multiple of what the workload decides."""
    count: Extent
    """Times that the product is done."""
    bias: bool
    layout: Layout
    dtype: str
    failed: str = ""
    """Why there is no curve; the file has no array of this weight then."""
    runs: int = 1
    """Times that the product is launched: more than once where layers run in a loop."""
    groups: int = 0
    """Groups of outputs with factors of their own; 0 for a method that takes a weight whole."""

    @property
    def site(self) -> MatmulSite:
        """The product of the dense weight."""
        return MatmulSite(
            name=self.module,
            m=self.m,
            k=Extent(self.columns),
            n=Extent(self.rows),
            dtype=self.dtype,
            weight=f"{self.module}.weight",
            layout=self.layout,
            bias=self.bias,
            count=self.count,
            runs=self.runs,
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything of :class:`Curves` but the losses; JSON in the file."""

    weights: tuple[Target, ...]
    """In the order of the graph, on which the choice between equally good plans depends."""
    targeted_params: int
    model_params: int
    """Of the whole model, dense; tied weights counted once."""
    others: dict[str, int]
    """dtype -> parameters outside the targeted weights."""
    provenance: Provenance
    fingerprint: str = ""
    """Architecture lock of the model, empty for made-up curves."""
    digests: dict[str, str] = field(default_factory=dict)
    """Weights lock: module -> sha256 of the dense weight."""
    refusals: dict[str, str] = field(default_factory=dict)
    """Module -> why it was left out before planning."""
    structures: tuple[StructureFacts, ...] = ()
    """Coupled structures of these weights, where they were measured."""
    ranked: dict[str, tuple[Size, ...]] = field(default_factory=dict)
    """Structure -> sizes at which what is left of its weights has curves."""
    shared: tuple[SharedFacts, ...] = ()
    """Groups of these weights that may share a basis."""
    unshared: dict[str, str] = field(default_factory=dict)
    """Module -> why it keeps a basis of its own, where its type shares them."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "strict": True,
        "allow_inf_nan": False,
    }


@dataclass(frozen=True, eq=False)
class Curves:
    """The loss curves of all targeted weights of a model.

    Raises:
        PlanError: facts that contradict each other, or an array that is no curve.
    """

    facts: Facts
    losses: Mapping[str, NDArray[np.float64]]
    """Module -> [min(rows, columns) + 1] losses, for every weight that did not fail; and those of
    structures, see :func:`structure_arrays`."""

    def __post_init__(self) -> None:
        check_facts(self.facts)
        expected = {w.module for w in self.facts.weights if not w.failed}
        expected |= {key for one in self.facts.structures for key in self._keys(one)}
        expected |= {shared_key(one.name) for one in self.facts.shared}
        for module in sorted(expected ^ self.losses.keys()):
            what = "has no losses" if module in expected else "has losses but is no such weight"
            raise PlanError(f"{module}: {what}")
        for weight in self.facts.weights:
            if not weight.failed:
                check_losses(weight, self.losses[weight.module])
        assert self.structures is not None and self.shared is not None  # each checks itself

    def corrected(self, corrections: Mapping[str, float]) -> "Curves":
        """The same with losses multiplied, and their provenance saying by how much in all.

        Args:
            corrections: structure or module -> factor, above 0; 1 where nothing is said.
        """
        if not corrections:
            return self
        factors = {**self._shared_factors(corrections), **corrections}
        losses = {
            key: array * factors.get(key.partition(":")[0], 1.0)
            for key, array in self.losses.items()
        }
        known = self.facts.provenance.corrections
        both = {n: known.get(n, 1.0) * corrections.get(n, 1.0) for n in {**known, **corrections}}
        made = replace(self.facts.provenance, corrections=both)
        return Curves(replace(self.facts, provenance=made), losses)

    @property
    def curves(self) -> dict[str, Curve]:
        """Module -> curve, in the order of the graph."""
        none = np.zeros(0)
        return {
            w.module: Curve(
                w.module,
                w.rows,
                w.columns,
                self.losses.get(w.module, none),
                w.value_model,
                w.failed,
                w.groups,
            )
            for w in self.facts.weights
        }

    @cached_property
    def structures(self) -> tuple[StructureCurve, ...]:
        """The curves of coupled structures, in the order of the graph.

        Raises:
            PlanError: one of them is no curve.
        """
        found = []
        for facts in self.facts.structures:
            sizes = self.facts.ranked.get(facts.name, ())
            count = range(len(facts.members))
            ranks = {s: tuple(self.losses[_key(facts.name, *s, at)] for at in count) for s in sizes}
            whole = np.zeros((0, 0)) if facts.refused else self.losses[_key(facts.name)]
            found.append(StructureCurve(facts, whole, ranks))
        return tuple(found)

    @cached_property
    def shared(self) -> tuple[SharedCurve, ...]:
        """The curves of weights that may share a basis, in the order of the graph.

        Raises:
            PlanError: one of them is no curve.
        """
        return tuple(
            SharedCurve(one, self.losses[shared_key(one.name)]) for one in self.facts.shared
        )

    @property
    def unshared(self) -> Mapping[str, str]:
        """Module -> why it keeps a basis of its own, where its type shares them."""
        return self.facts.unshared

    def _shared_factors(self, corrections: Mapping[str, float]) -> dict[str, float]:
        """Group -> mean factor of its weights, for one that no plan has measured together."""
        return {
            one.name: sum(corrections.get(m, 1.0) for m in one.members) / len(one.members)
            for one in self.facts.shared
        }

    def _keys(self, facts: StructureFacts) -> list[str]:
        """Names of the arrays of a structure."""
        if facts.refused:
            return []
        sizes, count = self.facts.ranked.get(facts.name, ()), range(len(facts.members))
        return [_key(facts.name), *(_key(facts.name, *size, at) for size in sizes for at in count)]

    @property
    def value_model(self) -> str:
        """What the losses are."""
        return self.facts.provenance.value_model


def structure_arrays(curve: StructureCurve) -> dict[str, NDArray[np.float64]]:
    """Name -> array of a structure, as :class:`Curves` has them among its losses.

    ``NAME:sizes`` are its losses by size; ``NAME:UNITS:HEADS:MEMBER`` those by rank of what a size
    leaves of one member.
    """
    if curve.facts.refused:
        return {}
    ranks = {
        _key(curve.name, *size, at): losses
        for size, own in curve.ranks.items()
        for at, losses in enumerate(own)
    }
    return {_key(curve.name): curve.losses, **ranks}


def _key(structure: str, *place: int) -> str:
    return ":".join([structure, *(map(str, place) if place else ["sizes"])])


def save_curves(path: str | Path, curves: Curves, *, overwrite: bool = False) -> None:
    """Write the file; it appears whole or not at all, and equal curves make equal bytes.

    Raises:
        CheckpointError: it exists and ``overwrite`` is false, or it cannot be written.
        PlanError: the facts hold NaN or infinity.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    check_file(path, overwrite=overwrite)
    try:
        facts = json.loads(json.dumps(asdict(curves.facts), allow_nan=False))
    except ValueError as error:
        raise PlanError(f"the curves' facts hold NaN or infinity: {error}") from error
    arrays = {module: np.ascontiguousarray(loss) for module, loss in curves.losses.items()}
    grouped = any(weight["groups"] for weight in facts["weights"])
    version = VERSION if grouped or facts["shared"] or facts["unshared"] else UNSHARED
    if version == UNSHARED:  # as readers of before know it
        del facts["shared"], facts["unshared"]
        for weight in facts["weights"]:
            del weight["groups"]
    head = {"format": FORMAT, "version": version, "digest": digest(facts, arrays), "facts": facts}
    with writing(path), making(path.parent), replacing(path, overwrite=overwrite) as partial:
        save_file(arrays, partial, metadata={_KEY: json.dumps(head)})


def load_curves(path: str | Path) -> Curves:
    """What ``save_curves`` wrote, checked again.

    Raises:
        CheckpointError: missing, truncated, of another format or version, with an unknown or
            missing field, or changed after it was written.
        PlanError: facts that contradict each other, or an array that is no curve.
    """
    path = Path(path)
    head, arrays = _read(path)
    facts = _read_facts(path, head.get("facts"))
    if head.get("digest") != digest(head["facts"], arrays):
        raise CheckpointError(f"{path}: was changed after it was written; save the curves again")
    for module, loss in arrays.items():
        if loss.dtype != np.float64:
            raise CheckpointError(f"{path}: {module}: losses are {loss.dtype}, not float64")
        loss.setflags(write=False)
    try:
        return Curves(facts, arrays)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error


def digest(facts: Any, arrays: Mapping[str, NDArray[Any]]) -> str:
    """sha256 of the facts as plain JSON values and of all arrays."""
    mixed = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for module in sorted(arrays):
        loss = arrays[module]
        mixed.update(f"\n{module} {loss.dtype} {loss.shape}\n".encode())
        mixed.update(np.ascontiguousarray(loss).tobytes())
    return mixed.hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The JSON text of the metadata, of the right format and version, and the arrays."""
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; name a file of gacfx plan --save-curves")
    check_regular(path)
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(_KEY, "")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        head = json.loads(text) if text else {}
    except (OSError, SafetensorError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as curves: {error}") from error
    found = head.get("format") if isinstance(head, dict) else None
    if found != FORMAT:
        said = printable(repr(found))
        raise CheckpointError(f"{path}: format {said}; a file of curves says {FORMAT!r}")
    version = head.get("version")
    if type(version) is not int or version not in READS:
        said, reads = printable(repr(version)), " and ".join(map(str, READS))
        raise CheckpointError(f"{path}: curves version {said}; this gacfx reads {reads}")
    if odd := odd_text([head, *arrays]):
        raise CheckpointError(f"{path}: {odd}; save the curves again")
    return head, arrays


def _read_facts(path: Path, raw: object) -> Facts:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Facts).validate_json(json.dumps(raw))
    except PlanError as error:  # a search that cannot be
        raise CheckpointError(f"{path}: provenance.search: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        spot = ".".join(map(str, first["loc"])) or "facts"
        raise CheckpointError(f"{path}: {spot}: {first['msg']}") from error
