"""Labels sampled from the model's own prediction (true Fisher: Martens and Grosse 2015).

By generators of our own, one for each document, seeded by its token ids: the statistics do not
depend on the order of the documents, and the global random state is not touched.
"""

# T tokens of one document, V vocabulary

import hashlib

import torch
from torch import Tensor

from gacfx.calibration.text import document_digest
from gacfx.errors import NoNumbers


def sample_labels(logits_TV: Tensor, generator: torch.Generator) -> Tensor:
    """One label [T] for each position, drawn from softmax(logits) by the inverse of its sums.

    Args:
        logits_TV: finite or -inf, any device.
        generator: on the CPU, so that a model on a GPU gets the same draws.
    """
    sums_TV = logits_TV.softmax(-1).cumsum(-1)
    draw_T1 = torch.rand(len(logits_TV), 1, generator=generator).to(sums_TV) * sums_TV[:, -1:]
    # Below the total, so that the last label with a probability above zero is the last drawn.
    draw_T1 = torch.minimum(draw_T1, sums_TV[:, -1:].nextafter(torch.zeros_like(draw_T1)))
    return torch.searchsorted(sums_TV, draw_T1, right=True)[:, 0]


def generator_of(seed: int, ids_T: Tensor) -> torch.Generator:
    """The generator of a document's labels, at its beginning."""
    mixed = hashlib.sha256(f"{seed}:".encode() + document_digest(ids_T)).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed[:8], "little") >> 1)


def finite_logits(logits_TV: Tensor) -> bool:
    """Every position predicts something; -inf alone masks rows of the vocabulary."""
    return bool(torch.isfinite(logits_TV.amax(-1)).all())


def check_logits(logits_TV: Tensor, number: int | None = None) -> None:
    """Nothing when every position predicts something.

    Args:
        logits_TV: of a document, or of some.
        number: of the document, for the message; None where nobody knows it.

    Raises:
        NoNumbers: NaN or infinity.
    """
    if not finite_logits(logits_TV):
        on = "" if number is None else f" on document {number}"
        raise NoNumbers(
            f"the model's logits are NaN or infinite{on}; run it in bfloat16 or float32"
        )
