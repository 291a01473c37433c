"""Provenance: where a plan comes from, and how it and its rivals did on text they had not seen."""

from dataclasses import dataclass, field

from gacfx.core.search import DEFAULT_SEARCH, Prune, Search


@dataclass(frozen=True, slots=True)
class Trial:
    """A plan made under one value model, judged on held-back calibration text."""

    value_model: str
    nats_per_token: float | None
    """None when the model gave NaN or infinity with it."""
    chosen: bool
    promised_nats: float | None = None
    """Rise of the loss that the value model promised for it; None for one that counts no nats."""
    prune: Prune = "none"
    """What might become of coupled structures, as in a search."""
    tokens: int | None = None
    """Held-back tokens on which it was measured to be worse than the best trial, where that was
    plain before the whole text was read: its loss is then that of the best one, before corrections,
    and the difference on these tokens. None: all of them."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a plan comes from."""

    method: str
    value_model: str
    gpu: str
    align: int
    """Every rank is a multiple of this: alignment, tensor parallelism and format together."""
    dtype: str
    versions: dict[str, str] = field(default_factory=dict)
    calibration_tokens: int = 0
    calibration_digest: str = ""
    seed: int = 0
    dense_nats_per_token: float | None = None
    """Loss of the dense model on the same held-back text as the trials."""
    trials: tuple[Trial, ...] = ()
    search: Search = DEFAULT_SEARCH
    """What was searched."""
    corrections: dict[str, float] = field(default_factory=dict)
    """Structure or module -> factor of its losses, as it was measured; 1 where nothing is said."""
