"""Methods that treat a model as a whole: no plan chooses sizes for them, each has its own door.

They stand in the list of methods beside those that make factors or widths of single weights.
"""

from dataclasses import dataclass

from gacfx.compressors.protocol import Claim


@dataclass(frozen=True)
class WholeMethod:
    """A method with a command of its own."""

    name: str
    door: str
    """Command that carries it out."""
    minimises: str
    """What its choice minimises, in a few words or as a formula."""
    needs: tuple[str, ...]
    """Statistics that it looks at."""
    allocates: str
    """How it chooses its size, in a few words."""
    leaves: tuple[str, ...]
    """What it refuses, and why."""
    source: str
    """The paper, and what of it is meant."""
    settings: tuple[str, ...]
    """Options of its command, as ``--rotation two-sided|pca``."""
    claims: tuple[Claim, ...] = ()
    """Printed claims of its paper, and whether a benchmark of gacfx shows them."""


SLICEGPT = WholeMethod(
    name="slicegpt",
    door="gacfx slice",
    minimises="sum tr(U^T C U U^T G U)",
    needs=("moments of the residual stream and of its gradients, at its norms",),
    allocates="one hidden size for the model, the largest multiple of --align within the budget",
    leaves=(
        "norms whose output goes into the stream (Gemma 2 and 3), since no layer takes their scale",
        "experts in one tensor, and layers that share a weight",
        "architectures whose head size follows from the hidden size (GPT-2, OPT)",
    ),
    source=(
        "Ashkboos et al. 2024 (arXiv 2401.15024), one rotation for all layers, so that no shortcut "
        "needs a matrix and the result is a plain model"
    ),
    settings=("--rotation two-sided|pca", "--readers refitted|rotated"),
    claims=(
        Claim(
            "25 % of the parameters go and 99 % of the zero-shot scores of Llama-2-70B and OPT-66B "
            "stay, 90 % of Phi-2's, with a rotation for each layer",
        ),
    ),
)

WHOLE: dict[str, WholeMethod] = {each.name: each for each in (SLICEGPT,)}
"""Methods with a door of their own, by name."""
