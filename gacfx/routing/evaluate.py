"""What picks are worth on text: the loss behind the prompts, with and without them."""

# P prompts, T tokens, V vocabulary

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gacfx.calibration.divergence import divergences
from gacfx.calibration.text import Corpus
from gacfx.errors import CalibrationError, UnsupportedModel
from gacfx.modules.prompt_router import Pick
from gacfx.modules.routing_hooks import pick_for, picked, router_of
from gacfx.progress import Count, Progress

BATCH = 8
STATIC = "static prefix"
"""Name of the ranks that prompts of no kind run."""
NO_ROUTER = (
    "has no router, so prompts pick nothing; gacfx route train writes one where picking lowers the "
    "loss"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One text; losses are of the tokens behind the prompts, nats per token."""

    text: str
    prompts: int
    tokens: int
    """Behind the prompts."""
    static_nats: float
    """Of the static prefix, which serves any prompt."""
    routed_nats: float
    """Of what the router picked."""
    dense_nats: float | None
    static_kl: float | None
    """KL of the dense model to the static prefix."""
    routed_kl: float | None
    kinds: dict[str, int]
    """Kind of text -> prompts that the router gave to it, those of no kind last, as ``static
    prefix``; empty for a router of scores."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass
class _Sums:
    tokens: int = 0
    static: float = 0.0
    routed: float = 0.0
    dense: float = 0.0
    static_kl: float = 0.0
    routed_kl: float = 0.0


@torch.no_grad()
def evaluate_picks(
    model: Any,
    texts: Mapping[str, Corpus],
    *,
    dense: Any = None,
    prompt_tokens: int,
    kinds: Sequence[str] = (),
    progress: Progress = lambda *_: None,
) -> list[Row]:
    """The losses of a model with a router, with its picks and with the static prefix.

    Args:
        model: with pools and their router.
        texts: name -> windows, each longer than a prompt.
        dense: the model that it was made of; None leaves out what needs it.
        prompt_tokens: of each window, by which the router picks.
        kinds: names of the kinds of text that the router knows.
        progress: called with (stage, done, total).

    Raises:
        UnsupportedModel: the model has no router.
        CalibrationError: no window is longer than a prompt.
    """
    router = router_of(model)
    if router is None:
        raise UnsupportedModel(f"the model {NO_ROUTER}")
    names = {0: STATIC, **dict(enumerate(kinds, start=1))}
    count = Count(progress, "evaluate", sum(len(each.documents) for each in texts.values()))
    rows = []
    for name, corpus in texts.items():
        windows = [ids for ids in corpus.documents if len(ids) > prompt_tokens]
        if not windows:
            raise CalibrationError(
                f"{name}: no window has more than the {prompt_tokens} tokens of a prompt; give "
                "longer texts, or shorter prompts (--prompt-tokens)"
            )
        sums, seen = _Sums(), dict[int, int]()
        for batch_PT in _batches(windows):
            pick = pick_for(model, batch_PT[:, :prompt_tokens])
            for at in pick.classes:
                seen[at] = seen.get(at, 0) + 1
            _add(sums, model, dense, batch_PT, prompt_tokens, pick)
            count(len(batch_PT))
        given = {names.get(at, f"kind {at}"): seen[at] for at in sorted(seen, key=_none_last)}
        rows.append(_row(name, len(windows), sums, given, with_dense=dense is not None))
    return rows


def _none_last(kind: int) -> tuple[bool, int]:
    return kind == 0, kind


def _batches(windows: Sequence[Tensor]) -> list[Tensor]:
    """Windows of one length together."""
    by_length: dict[int, list[Tensor]] = {}
    for ids_T in windows:
        by_length.setdefault(len(ids_T), []).append(ids_T)
    return [
        torch.stack(found[at : at + BATCH])
        for found in by_length.values()
        for at in range(0, len(found), BATCH)
    ]


def _add(
    sums: _Sums, model: nn.Module, dense: nn.Module | None, batch_PT: Tensor, begin: int, pick: Pick
) -> None:
    next_PT = batch_PT[:, begin:]
    with picked(model, None):
        static_PTV = _behind(model, batch_PT, begin)
    with picked(model, pick):
        routed_PTV = _behind(model, batch_PT, begin)
    sums.tokens += next_PT.numel()
    sums.static += _nats(static_PTV, next_PT)
    sums.routed += _nats(routed_PTV, next_PT)
    if dense is not None:
        dense_PTV = _behind(dense, batch_PT, begin)
        sums.dense += _nats(dense_PTV, next_PT)
        sums.static_kl += _divergence(dense_PTV, static_PTV)
        sums.routed_kl += _divergence(dense_PTV, routed_PTV)


def _behind(model: Any, batch_PT: Tensor, begin: int) -> Tensor:
    """Log-probabilities of the tokens behind the prompts, float32."""
    device = next(model.parameters()).device
    logits_PTV = model(batch_PT.to(device), use_cache=False).logits[:, begin - 1 : -1]
    return torch.log_softmax(logits_PTV.float(), -1)


def _nats(log_PTV: Tensor, next_PT: Tensor) -> float:
    chosen_PT = log_PTV.gather(2, next_PT[..., None].to(log_PTV.device))
    return -float(chosen_PT.double().sum())


def _divergence(dense_PTV: Tensor, ours_PTV: Tensor) -> float:
    return float(divergences(dense_PTV, ours_PTV.to(dense_PTV.device)).double().sum())


def _row(name: str, prompts: int, sums: _Sums, seen: dict[str, int], *, with_dense: bool) -> Row:
    count = sums.tokens
    return Row(
        text=name,
        prompts=prompts,
        tokens=count,
        static_nats=sums.static / count,
        routed_nats=sums.routed / count,
        dense_nats=sums.dense / count if with_dense else None,
        static_kl=sums.static_kl / count if with_dense else None,
        routed_kl=sums.routed_kl / count if with_dense else None,
        kinds=seen,
    )
