"""Write a compressed model as a Hugging Face folder, whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gacfx.checkpoint import hf
from gacfx.checkpoint.card import model_card
from gacfx.checkpoint.checksums import write_checksums
from gacfx.checkpoint.load import check_finite
from gacfx.checkpoint.pretrained import save_pretrained
from gacfx.checkpoint.written import check_written
from gacfx.core.blocks import block_state
from gacfx.core.decision import DENSE
from gacfx.core.files.atomic import making, replacing_folder
from gacfx.core.files.targets import check_folder, writing
from gacfx.core.materialise import Factors
from gacfx.core.plan import Plan
from gacfx.core.plan_folder import save_plan
from gacfx.core.pruning import Gone
from gacfx.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PLAN_FOLDER = "plan"
REPORT_FILE = "gacfx_report.json"


def save_checkpoint(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase | None",
    out: str | Path,
    *,
    plan: Plan,
    factors: Mapping[str, Factors],
    report: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes config, weights, tokenizer, plan, report and model card to ``out``.

    The folder is written under another name beside ``out`` and renamed when it is complete.

    Args:
        model: with the compressed layers in place; it is left as it is.
        tokenizer: saved beside it; None leaves it out.
        out: the folder to make.
        plan: the plan that the model carries out.
        factors: those of the plan.
        report: plain JSON values for ``gacfx_report.json``; None writes none.
        overwrite: replace an existing checkpoint folder.

    Returns:
        The folder.

    Raises:
        CheckpointError: the folder exists, cannot be written, or the model is not what the
            plan says.
        PlanError: the factors are not those of the plan.
    """
    out = Path(out).expanduser()
    _check_model(model, plan)
    if tokenizer is not None and not hasattr(tokenizer, "save_pretrained"):
        raise CheckpointError(
            f"{type(tokenizer).__name__} has no save_pretrained, so it cannot be written beside "
            "the model; give None for the tokenizer, and save it yourself"
        )
    check_target(out, overwrite=overwrite)
    out = out.resolve()
    with writing(out), making(out.parent), replacing_folder(out, overwrite=overwrite) as folder:
        save_pretrained(model, folder, block=hf.config_of(model))
        check_written(model, folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        save_plan(folder / PLAN_FOLDER, plan, factors)
        if report is not None:
            (folder / REPORT_FILE).write_text(_json(report), encoding="utf-8")
        (folder / "README.md").write_text(model_card(out.name, plan, report), encoding="utf-8")
        write_checksums(folder)
    return out


def _check_model(model: "PreTrainedModel", plan: Plan) -> None:
    hf.check_unquantized(model)
    config = hf.config_of(model)
    placed = config.decisions
    planned = {n: one for n, one in plan.decisions.items() if not isinstance(one, Gone)}
    for name in sorted(placed.keys() | planned.keys()):
        if placed.get(name) != planned.get(name):
            raise CheckpointError(
                f"{name}: {placed.get(name, DENSE)} in the model, {planned.get(name, DENSE)} in "
                "the plan; apply the plan before saving"
            )
    states = {name: block_state(one) for name, one in plan.blocks.items()}
    for name in sorted(config.states.keys() | states.keys()):
        if config.states.get(name) != states.get(name):
            raise CheckpointError(
                f"{name}: {config.states.get(name, DENSE)} in the model, "
                f"{states.get(name, DENSE)} in the plan; apply the plan before saving"
            )
    for name, parameter in model.named_parameters():
        if parameter.is_meta and not hasattr(model, "hf_device_map"):
            raise CheckpointError(f"{name}: has no values (meta device); there is nothing to save")
    check_finite(model)


def check_target(out: Path, *, overwrite: bool) -> None:
    """Nothing when ``out`` may be written; asked before a model is loaded, too.

    Raises:
        CheckpointError: it is a file, not empty without ``overwrite``, no checkpoint folder, or
            nothing can be written there.
    """
    check_folder(out, overwrite=overwrite, holds=("config.json",), what="a checkpoint folder")


def _json(report: dict[str, Any]) -> str:
    try:
        return json.dumps(report, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the report is not plain JSON: {error}") from error
