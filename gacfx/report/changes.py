"""What a plan changes: a row for each weight or structure, and one for all experts of a layer.

layer  weight             dense         chosen                       params
0      self_attn.q_proj   4096 x 4096   pivot 1680                  -5.84 M
0      mlp.experts.*.fc1  28672 x 4096  5 of 8: pivot 808-3472       -297 M
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gacfx.core.plan import Choice
from gacfx.graph.layers import split_layer
from gacfx.report.pruned_view import folded, rests_text, size_text


@dataclass(frozen=True, slots=True)
class Change:
    """One row."""

    layer: str
    weight: str
    dense: str
    """Shape of the dense weight."""
    wanted: str
    """Rank that the compressor would take by itself."""
    chosen: str
    params: int
    """Those that are gone, below 0."""
    loss: float
    rests: str
    """What is left of the weights of a structure."""


def changes_of(choices: Sequence[Choice]) -> list[Change]:
    """All rows, in the order of the plan."""
    alike: dict[tuple[str, ...], list[Choice]] = {}
    for choice in choices:
        layer, name = _place(choice)
        alike.setdefault((layer, name, choice.shape), []).append(choice)
    found = ((key, own) for key, own in alike.items() if not all(map(_stays, own)))
    return [_change(layer, name, shape, own) for (layer, name, shape), own in found]


def kept_dense(choices: Sequence[Choice]) -> Iterator[tuple[str, str]]:
    """(``mlp.gate_proj 2-4, mlp.experts.*.fc1 (141 of 256)``, reason), for each reason."""
    total = Counter(_place(choice)[1] for choice in choices)
    single, many = dict[str, str](), Counter[tuple[str, str]]()
    for choice in filter(_stays, choices):
        name = _place(choice)[1]
        if "*" in name:
            many[name, choice.reason] += 1
        else:
            single[choice.group] = choice.reason
    names: dict[str, list[str]] = {}
    for text, reason in folded(single):
        names.setdefault(reason, []).append(text)
    for (name, reason), count in many.items():
        names.setdefault(reason, []).append(f"{name} ({count} of {total[name]})")
    return ((", ".join(said), reason) for reason, said in names.items())


def _place(choice: Choice) -> tuple[str, str]:
    """(layer, name in it): experts of a layer have one name, ``mlp.experts.*.fc1``.

    A number at the end of a weight's name tells one linear from another; at the end of a
    structure's, it is an expert's.
    """
    _, layer, name = split_layer(choice.group)
    number = r"\.\d+(?=\.|$)" if len(choice.weights) > 1 else r"\.\d+(?=\.)"
    return layer, re.sub(number, ".*", name)


def _stays(choice: Choice) -> bool:
    return choice.decision.is_dense


def _change(layer: str, name: str, shape: str, own: Sequence[Choice]) -> Change:
    changed = [choice for choice in own if not _stays(choice)]
    several = "*" in name
    return Change(
        layer=layer,
        weight=name,
        dense=shape,
        wanted=_span([f"{c.wanted:.1f}" for c in changed if c.wanted is not None]) or "-",
        chosen=_counted(changed, len(own)) if several else size_text(own[0]),
        params=sum(c.params - c.dense_params for c in changed),
        loss=sum(c.loss_nats for c in changed),
        rests="" if several else rests_text(own[0]),
    )


def _counted(changed: Sequence[Choice], of: int) -> str:
    """``5 of 8: pivot 808-3472``: how many, and the sizes of each kind."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for choice in changed:
        kind, size, rest = re.fullmatch(r"(\D*)(\d*)(.*)", size_text(choice)).groups()  # type: ignore[union-attr]
        kinds.setdefault((kind, rest), []).append(size)
    said = (f"{kind}{_span(sizes)}{rest}" for (kind, rest), sizes in kinds.items())
    return f"{len(changed)} of {of}: {', '.join(said)}"


def _span(sizes: Iterable[str]) -> str:
    """``808-3472``; one size alone, and nothing for none."""
    found = sorted({*sizes}, key=lambda size: float(size or 0))
    return "-".join(dict.fromkeys([*found[:1], *found[-1:]]))
