"""Targeted linears: which modules are measured, and whether their numbers can be used."""

# M outputs, N inputs

from collections.abc import Iterable, Mapping

from torch import nn

from gacfx.core.finite import not_finite
from gacfx.errors import CalibrationError, UnsupportedModel
from gacfx.modules.dense import is_conv1d


def targets(model: nn.Module, modules: Iterable[str]) -> dict[str, nn.Module]:
    """Name -> module of ``model``, for the names in ``modules``.

    Args:
        model: holds the modules.
        modules: names, or a mapping of names to modules of ``model``.

    Raises:
        CalibrationError: no name at all, or a name (or module) that ``model`` does not have.
        UnsupportedModel: a module that is neither ``nn.Linear`` nor a transformers ``Conv1D``.
    """
    found = {}
    for name in modules:
        try:
            found[name] = model.get_submodule(name)
        except AttributeError as error:
            raise CalibrationError(f"{name}: the model has no such module") from error
        if isinstance(modules, Mapping) and modules[name] is not found[name]:
            raise CalibrationError(f"{name}: is not the model's own module of that name")
        if not (isinstance(found[name], nn.Linear) or is_conv1d(found[name])):
            raise UnsupportedModel(
                f"{name}: is a {type(found[name]).__name__}; only Linear and Conv1D are measured"
            )
    if not found:
        raise CalibrationError("no module to measure; name at least one linear layer")
    return found


def check_finite(model: nn.Module) -> None:
    """Nothing when all parameters are finite numbers in memory.

    Raises:
        CalibrationError: names the first parameter that is on the meta device, NaN or infinite.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise CalibrationError(f"{name}: has no values (meta device); load the weights first")
    if broken := not_finite(model):
        module = broken.rpartition(".")[0] or broken
        raise CalibrationError(
            f"{module}: NaN or infinite values in {broken}; check the checkpoint"
        )
