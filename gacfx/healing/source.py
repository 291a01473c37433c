"""What a healing begins with: a compressed checkpoint, its plan, and the dense model of that."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from gacfx.checkpoint.card import HEALED, healings_in
from gacfx.checkpoint.hf import check_unquantized
from gacfx.checkpoint.load import load_dense
from gacfx.checkpoint.save import PLAN_FOLDER, REPORT_FILE
from gacfx.core.config_json import METHOD, read_config_json
from gacfx.core.defaults import MODEL_DTYPES
from gacfx.core.files.reading import read_table
from gacfx.core.locks import check_plan
from gacfx.core.plan import Plan
from gacfx.core.plan_folder import PLAN_FILE
from gacfx.core.planned import Planned
from gacfx.core.routed import Routed
from gacfx.errors import CheckpointError, HealingError, PlanMismatch, UnsupportedModel
from gacfx.modules.experts import needs_unpacking, unpacked
from gacfx.modules.routing_hooks import router_of
from gacfx.tracing.capture import torch_dtype


@dataclass(frozen=True, eq=False)
class Source:
    """A compressed model and the dense one that it was made of."""

    model: Any
    tokenizer: Any
    planned: Planned
    dense: Any
    report: dict[str, Any]
    """Of the checkpoint; empty where it has none."""


def read_source(checkpoint: str | Path, against: str | Path) -> Source:
    """Both models, once they are known to belong together.

    Args:
        checkpoint: folder that gacfx wrote.
        against: folder or hub name of the dense model.

    Raises:
        CheckpointError: one of them cannot be read, is quantized, or the first is not compressed.
        HealingError: nothing of it was compressed, or the dense model is the checkpoint itself.
        PlanMismatch: the dense model is not the one that the plan was made of.
        UnsupportedModel: prompts pick its ranks.
    """
    folder = Path(checkpoint).expanduser()
    check_compressed(folder)
    planned = Planned.load(folder / PLAN_FOLDER)
    check_plan_heals(planned.plan, folder)
    model, tokenizer = load_dense(folder)
    check_unquantized(model)
    if router_of(model) is not None:
        raise UnsupportedModel(f"{folder}: {_ROUTED}")
    dense = read_dense(against, planned.plan)
    path = folder / REPORT_FILE
    report = read_table(path) if path.is_file() else {}
    if HEALED in report and healings_in(report) != report[HEALED]:
        raise CheckpointError(f"{path}: {HEALED!r} is no list of healings; mend or remove the file")
    return Source(model, tokenizer, planned, dense, report)


_ROUTED = (
    "prompts pick its ranks, and each rank of a pool learns from the prompts of its kind alone; "
    "heal a checkpoint of gacfx compress"
)


def check_compressed(folder: Path) -> None:
    """Nothing when a folder is a checkpoint that gacfx compressed, with its plan.

    Raises:
        CheckpointError: there is no such folder, it is dense, quantized, or has no plan.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such folder; give one of gacfx compress")
    block = read_config_json(folder / "config.json").get("quantization_config")
    method = block.get("quant_method") if isinstance(block, dict) else None
    if method is None:
        raise CheckpointError(
            f"{folder}: is not compressed by gacfx, so there is nothing to heal; give a folder of "
            "gacfx compress, and the dense model with against (--against)"
        )
    if method != METHOD:
        raise CheckpointError(
            f"{folder}: is quantized ({method!r}), and rounded weights do not learn; heal before "
            "quantization"
        )
    if not (folder / PLAN_FOLDER / PLAN_FILE).is_file():
        raise CheckpointError(
            f"{folder}: has no {PLAN_FOLDER}/{PLAN_FILE}, which says what it was made of; copy "
            "the whole folder that gacfx compress wrote"
        )


def check_plan_heals(plan: Plan, folder: Path) -> None:
    """Nothing when a plan has changed something that learns.

    Raises:
        HealingError: every weight stayed dense.
        UnsupportedModel: prompts pick ranks.
    """
    if not plan.decisions:
        raise HealingError(f"{folder}: its plan left every weight dense; there is nothing to heal")
    if any(isinstance(one, Routed) for one in plan.decisions.values()):
        raise UnsupportedModel(f"{folder}: {_ROUTED}")


def read_dense(against: str | Path, plan: Plan) -> Any:
    """The dense model that a plan was made of, in the dtype that it then had.

    Raises:
        CheckpointError: it cannot be read, or is quantized.
        HealingError: it is compressed itself.
        PlanMismatch: it is another one.
    """
    dtype = plan.provenance.dtype
    dense, _ = load_dense(against, dtype=torch_dtype(dtype) if dtype in MODEL_DTYPES else None)
    if _is_compressed(dense):
        raise HealingError(
            f"{against}: is compressed by gacfx itself; give the dense model that the checkpoint "
            "was made of"
        )
    check_unquantized(dense)
    whole = unpacked(dense) if needs_unpacking(dense, plan.weights) else dense
    try:
        check_plan(whole, plan)
    except PlanMismatch as error:
        error.add_note(f"{against} is not the dense model of this checkpoint")
        raise
    return dense


def _is_compressed(model: nn.Module) -> bool:
    found: Any = getattr(getattr(model, "config", None), "quantization_config", None)
    return getattr(found, "quant_method", None) == METHOD
