"""What config.json says of a router: its head and its sizes, from which it is built empty.

Its numbers lie with the weights of the model; which weights it picks for follows from their
decisions.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from gacfx.core.names import printable
from gacfx.errors import CheckpointError

Head = Literal["classes", "scores"]
HEADS: tuple[Head, ...] = get_args(Head)
_MOST = {"features": 2**20, "directions": 2**20, "classes": 2**20, "lengths": 64}


@dataclass(frozen=True, slots=True)
class RouterShape:
    """Sizes of a router.

    Raises:
        CheckpointError: an unknown head, or a size that no router has.
    """

    head: Head
    """``classes``: the kind of text, and with it a pattern that is known; ``scores``: a score for
    each block, the best of which are picked."""
    features: int
    """Numbers of a token's embedding."""
    directions: int
    """Numbers that are left of the features of a prompt."""
    classes: int = 0
    """Kinds of text, without the one of all others; 0 for scores."""
    lengths: int = 1
    """Numbers of tokens for which it knows how far prompts may be from their kind; 1 for scores."""

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise CheckpointError(
                f"router: head {printable(repr(self.head), 40)} is none of {HEADS}"
            )
        for name, most in _MOST.items():
            found, least = getattr(self, name), 1
            if self.head == "scores" and name in ("classes", "lengths"):
                least = most = int(name == "lengths")
            if type(found) is not int or not least <= found <= most:
                raise CheckpointError(f"router: {name} {printable(repr(found), 40)}")
        if self.directions > self.features:
            raise CheckpointError(
                f"router: {self.directions} directions of {self.features} features"
            )

    def to_dict(self) -> dict[str, Any]:
        """As config.json has it."""
        return asdict(self)


def read_router_shape(raw: object) -> RouterShape:
    """What :meth:`RouterShape.to_dict` wrote.

    Raises:
        CheckpointError: no table, an unknown or missing field, or sizes that no router has.
    """
    if not isinstance(raw, Mapping):
        raise CheckpointError(f"router: {printable(repr(raw), 60)} is no table")
    if odd := sorted({"head", *_MOST} ^ {*raw}, key=str):
        raise CheckpointError(f"router: field {printable(repr(odd[0]), 60)} is missing or unknown")
    return RouterShape(**raw)
