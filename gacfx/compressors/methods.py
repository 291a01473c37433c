"""The table of methods, and gacfx's own: low-rank methods, and those that prune.

The low-rank ones are settings of one decomposition (:mod:`gacfx.compressors.metrics`). Their names
stand for these factors, and for ranks of their own, which ``Study.upstream`` takes; ranks of plans
come from the planner. LLM-Pruner and its baselines make widths instead
(:mod:`gacfx.compressors.pruning`).

A name may carry settings, which ``gacfx methods NAME`` lists: ``asvd:alpha=0.3,scale=abs-max``.
"""

from gacfx.compressors.asvd import ASVD
from gacfx.compressors.metrics import Method, Metric
from gacfx.compressors.protocol import SIDE_BY_SIDE, Claim, Compressor
from gacfx.compressors.pruning.baselines import MAGNITUDE, RANDOM
from gacfx.compressors.pruning.llm_pruner import LLM_PRUNER
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
        Method(
            "svd-llm",
            Metric.IDENTITY,
            Metric.MOMENT,
            "Wang et al. 2024 (arXiv 2403.07378), whitening",
            (
                Claim(
                    "lower perplexity than plain SVD with as many parameters",
                    SIDE_BY_SIDE,
                    "so at 20, 30 and 40 % removed",
                ),
                Claim(
                    "lower perplexity than ASVD with as many parameters",
                    SIDE_BY_SIDE,
                    "so at 30 and 40 % removed; at 20 % ASVD's own ranks lose less",
                ),
            ),
        ),
        SVD_LLM_V2,
        Method("gfwsvd", Metric.MOMENT, Metric.MOMENT, "K-FAC metric, Martens and Grosse 2015"),
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
    (*LOW_RANK.values(), LLM_PRUNER, MAGNITUDE, RANDOM),
)
"""Name -> method; :func:`register` and entry points of ``gacfx.compressors`` add to it."""

DEFAULT = "gfwsvd"


def register(method: Compressor) -> Compressor:
    """Make a method known by its name, to ``measure-curves`` and the command line alike.

    Raises:
        PipelineError: another method has that name.
    """
    return METHODS.register(method)
