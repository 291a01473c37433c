"""Curves of two small weights, made by hand so that plans can be solved on paper."""

from dataclasses import replace
from typing import Any

import numpy as np

from gacfx.core.curve_file import Curves, Facts, Target
from gacfx.core.provenance import Provenance
from gacfx.core.sites import Extent, Layout

LOSSES = {
    "layers.0.a": (1.0, 0.5, 0.25, 0.125, 0, 0, 0, 0, 0),
    "layers.0.b": (0.8, 0.1, 0.05, 0.02, 0, 0, 0, 0, 0),
}
"""Both weights are 8 x 8: 16 parameters for each rank, 64 dense, so ranks 1 to 3 pay."""


def weight(module: str, **changes: Any) -> Target:
    """One weight of 8 x 8."""
    made = Target(
        module=module,
        rows=8,
        columns=8,
        value_model="fisher",
        m=Extent(1, "token"),
        count=Extent(1),
        bias=False,
        layout=Layout.LINEAR,
        dtype="bf16",
    )
    return replace(made, **changes)


def facts(**changes: Any) -> Facts:
    """128 targeted parameters beside 172 others."""
    made = Facts(
        weights=tuple(weight(module) for module in LOSSES),
        targeted_params=128,
        model_params=300,
        others={"bf16": 100, "fp32": 72},
        provenance=Provenance("svd", "fisher", "h200", 8, "bf16", versions={"gacfx": "0.1.0"}),
        fingerprint="f" * 64,
        digests=dict.fromkeys(LOSSES, "d" * 64),
        refusals={"lm_head": "outside the repeated layers"},
    )
    return replace(made, **changes)


def curves(**changes: Any) -> Curves:
    """Both curves; facts can be changed."""
    return Curves(facts(**changes), {m: np.array(loss, float) for m, loss in LOSSES.items()})
