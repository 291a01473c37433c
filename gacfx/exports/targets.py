"""The targets of exports: what each is, who loads it, what it needs, and whose work it is."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from gacfx.errors import ExportError, NoExporter


@dataclass(frozen=True)
class Target:
    """One form that a model can be exported in."""

    name: str
    what: str
    """In half a line, for people."""
    loads: str
    """Who loads the folder, or how."""
    writer: str
    """``module:function`` that writes it."""
    extra: str = ""
    """Extra of gacfx that brings what it needs; empty where gacfx has it."""
    packages: tuple[str, ...] = ()
    """Modules of that extra."""
    caches: bool = False
    """It can take and return keys and values, for decoding step by step."""

    def check_installed(self) -> None:
        """Nothing when what it needs can be imported; known without importing it.

        Raises:
            NoExporter: names what is missing, and how to install it.
        """
        missing = [name for name in self.packages if not _is_there(name)]
        if missing:
            raise NoExporter(
                f"{self.name} needs {', '.join(missing)}: pip install 'gacfx[{self.extra}]'"
            )

    def check_cache(self, *, asked: bool) -> None:
        """Nothing when a cache is not asked for, or the target has one.

        Raises:
            ExportError: names those that have one.
        """
        if asked and not self.caches:
            raise ExportError(f"{self.name} has no form with a cache; {WITH_CACHE} have one")

    def find(self) -> Callable[..., Any]:
        """The function that writes it."""
        module, _, name = self.writer.partition(":")
        found: Callable[..., Any] = getattr(import_module(module), name)
        return found


_ALL = (
    Target(
        "pt2",
        "a graph of torch.export, token ids to logits",
        "torch.export.load, with torch alone",
        "gacfx.exports.pt2:save_pt2",
    ),
    Target(
        "onnx",
        "an ONNX graph",
        "ONNX Runtime",
        "gacfx.exports.onnx:save_onnx",
        extra="onnx",
        packages=("onnx", "onnxscript", "onnxruntime"),
        caches=True,
    ),
    Target(
        "openvino",
        "an OpenVINO graph",
        "OpenVINO",
        "gacfx.exports.openvino:save_openvino",
        extra="openvino",
        packages=("onnx", "onnxscript", "openvino"),
        caches=True,
    ),
    Target(
        "dense",
        "an ordinary checkpoint with low ranks and pivots multiplied out, as large as before",
        "transformers, and whatever loads its checkpoints",
        "gacfx.exports.dense:save_dense",
    ),
    Target(
        "plain",
        "an ordinary checkpoint of a smaller model, where all layers are pruned alike",
        "transformers, and whatever loads its checkpoints",
        "gacfx.exports.pruned:save_plain",
    ),
    Target(
        "per-layer-config",
        "numbers for each layer, as DeciLM and Nemotron-NAS have them; pruned Llamas only",
        "engines that know DeciLMForCausalLM",
        "gacfx.exports.pruned:save_per_layer_config",
    ),
)

TARGETS: dict[str, Target] = {target.name: target for target in _ALL}
"""By name."""
WITH_CACHE = ", ".join(target.name for target in _ALL if target.caches)
"""Names of those that take a cache, for messages."""


def target_named(name: object) -> Target:
    """The target of this name.

    Raises:
        ExportError: there is none; names all.
    """
    found = TARGETS.get(name) if isinstance(name, str) else None
    if found is None:
        raise ExportError(f"no export to {name!r}; take one of {', '.join(TARGETS)}")
    return found


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # a module that is blocked has no spec
        return False
