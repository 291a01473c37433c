"""Curves of two layers with an MLP and an attention each: random, falling, of no model."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gacfx.core.curve_file import Curves, Facts, Target, structure_arrays
from gacfx.core.provenance import Provenance
from gacfx.core.sites import Extent, Layout
from gacfx.core.structure_curves import MemberSpans, Span, StructureCurve, StructureFacts

HIDDEN, WIDTH, HEAD, GROUPS, SHARE = 16, 40, 8, 2, 2
QUERIES = HEAD * GROUPS * SHARE
SHAPES = {
    "self_attn.q_proj": (QUERIES, HIDDEN),
    "self_attn.k_proj": (HEAD * GROUPS, HIDDEN),
    "self_attn.v_proj": (HEAD * GROUPS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, QUERIES),
    "mlp.gate_proj": (WIDTH, HIDDEN),
    "mlp.up_proj": (WIDTH, HIDDEN),
    "mlp.down_proj": (HIDDEN, WIDTH),
}
WHOLE = Span(HIDDEN)
QUERY, KEY, CHANNEL = Span(0, 0, HEAD), Span(0, HEAD, 0), Span(0, 1, 0)
SPANS = {
    "self_attn": {
        "q_proj": (QUERY, WHOLE),
        "k_proj": (KEY, WHOLE),
        "v_proj": (KEY, WHOLE),
        "o_proj": (WHOLE, QUERY),
    },
    "mlp": {
        "gate_proj": (CHANNEL, WHOLE),
        "up_proj": (CHANNEL, WHOLE),
        "down_proj": (WHOLE, CHANNEL),
    },
}


def falling(random: np.random.Generator, count: int, top: float) -> NDArray[np.float64]:
    """[count + 1] losses from ``top`` to 0."""
    steps = random.exponential(size=count) * np.geomspace(100, 1, count)
    tail = np.append(np.cumsum(steps[::-1])[::-1], 0.0)
    return np.asarray(tail / tail[0] * top)


def structure(name: str, random: np.random.Generator, **changes: Any) -> StructureCurve:
    """The curve of one block, with ranks at some sizes."""
    block = name.rpartition(".")[2]
    heads = block == "self_attn"
    units, share = (GROUPS, SHARE) if heads else (WIDTH, 1)
    members = tuple(MemberSpans(f"{name}.{leaf}", *s) for leaf, s in SPANS[block].items())
    facts = StructureFacts(
        name=name,
        kind="heads" if heads else "width",
        units=units,
        heads=share,
        members=members,
        value_model="two-sided",
        order=tuple(random.permutation(units).tolist()),
        head_orders=tuple(tuple(random.permutation(share).tolist()) for _ in range(units))
        if heads
        else (),
        skip_nats=float(random.uniform(0.2, 2)),
    )
    facts = replace(facts, **changes)
    top = random.uniform(0.2, 2)
    rows = [falling(random, units, top * (1 + 0.3 * (share - h))) for h in range(1, share + 1)]
    losses = np.stack(rows)
    for h in range(share - 1):  # fewer query heads cost something even where all groups stay
        losses[h] += 0.1 * top
    sizes = [(n, h) for n in ((1, 2) if heads else (8, 24, 32)) for h in range(1, share + 1)]
    ranks = {
        size: tuple(falling(random, min(member.at(size)), 0.3) for member in members)
        for size in sizes
        if size != (units, share)
    }
    return StructureCurve(facts, losses, ranks)


def curves(seed: int = 0, layers: int = 2) -> Curves:
    """Weights, and structures around them."""
    random = np.random.default_rng(seed)
    names = [f"model.layers.{i}.{leaf}" for i in range(layers) for leaf in SHAPES]
    shapes = {name: SHAPES[".".join(name.split(".")[3:])] for name in names}
    losses = {name: falling(random, min(shape), 0.5) for name, shape in shapes.items()}
    blocks = [f"model.layers.{i}.{block}" for i in range(layers) for block in SPANS]
    structures = [structure(name, random) for name in blocks]
    targets = tuple(
        Target(
            module=name,
            rows=shape[0],
            columns=shape[1],
            value_model="two-sided",
            m=Extent(1, "token"),
            count=Extent(1),
            bias=False,
            layout=Layout.LINEAR,
            dtype="bf16",
        )
        for name, shape in shapes.items()
    )
    targeted = sum(rows * columns for rows, columns in shapes.values())
    facts = Facts(
        weights=targets,
        targeted_params=targeted,
        model_params=targeted + 100,
        others={"bf16": 100},
        provenance=Provenance("gfwsvd", "two-sided", "h200", 8, "bf16"),
        fingerprint="f" * 64,
        digests=dict.fromkeys(shapes, "d" * 64),
        structures=tuple(each.facts for each in structures),
        ranked={each.name: tuple(each.ranks) for each in structures},
    )
    for each in structures:
        losses |= structure_arrays(each)
    return Curves(facts, losses)
