"""The table of methods, and gacfx's own: low-rank methods, and those that prune.

The low-rank ones are settings of one decomposition (:mod:`gacfx.compressors.metrics`). Their names
stand for these factors, and for ranks of their own, which ``Study.upstream`` takes; ranks of plans
come from the planner. LLM-Pruner and its baselines make widths instead
(:mod:`gacfx.compressors.pruning`).

A name may carry settings, which ``gacfx methods NAME`` lists: ``asvd:alpha=0.3,scale=abs-max``.
"""

from gacfx.compressors.asvd import ASVD
from gacfx.compressors.basis_sharing import BASIS_SHARING
from gacfx.compressors.dobi_svd import DOBI_SVD
from gacfx.compressors.gfwsvd import GFWSVD
from gacfx.compressors.metrics import Method, Metric
from gacfx.compressors.palu import PALU
from gacfx.compressors.protocol import Compressor
from gacfx.compressors.pruning.baselines import MAGNITUDE, RANDOM
from gacfx.compressors.pruning.llm_pruner import LLM_PRUNER
from gacfx.compressors.svd_llm import SVD_LLM
from gacfx.compressors.svd_llm_v2 import SVD_LLM_V2
from gacfx.compressors.whole import WHOLE
from gacfx.core.settings import AFTER, with_settings
from gacfx.core.table import Table
from gacfx.errors import PipelineError

__all__ = ["DEFAULT", "LOW_RANK", "METHODS", "Method", "MethodTable", "Metric", "register"]

LOW_RANK: dict[str, Method] = {
    method.name: method
    for method in (
        Method("svd", Metric.IDENTITY, Metric.IDENTITY, "Eckart and Young 1936"),
        ASVD,
        SVD_LLM,
        SVD_LLM_V2,
        DOBI_SVD,
        BASIS_SHARING,
        GFWSVD,
    )
}
"""gacfx's own that make ranks, by name."""


class MethodTable(Table[Compressor]):
    """Methods by name, with settings behind it: ``llm-pruner:score=taylor-mix,first=4``."""

    def seek(self, name: str) -> Compressor | None:
        """The method of this name, or None; its own name is the one spelling of the settings.

        Raises:
            PipelineError: a setting that it has not, or a value that cannot be; lists those that
                there are. Or it is a method with a door of its own, or the entry point of this name
                does not bring a method.
        """
        base, after, said = name.partition(AFTER)
        if base in WHOLE:
            raise PipelineError(
                f"{base} treats the model as a whole, so no plan chooses sizes for it; it has a "
                f"command of its own: {WHOLE[base].door}"
            )
        found = super().seek(base)
        return with_settings(found, said) if found is not None and after else found


METHODS = MethodTable(
    "method",
    Compressor,  # type: ignore[type-abstract]
    "gacfx.compressors",
    (*LOW_RANK.values(), PALU, LLM_PRUNER, MAGNITUDE, RANDOM),
)
"""Name -> method; :func:`register` and entry points of ``gacfx.compressors`` add to it."""

DEFAULT = "gfwsvd"


def register(method: Compressor) -> Compressor:
    """Make a method known by its name, to ``measure-curves`` and the command line alike.

    Raises:
        PipelineError: another method has that name.
    """
    return METHODS.register(method)
