"""Kinds of text: given by name, or found in one text."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from gacfx.api import Text, read_calibration
from gacfx.calibration.text import Corpus, split
from gacfx.errors import CalibrationError
from gacfx.modules.routing_hooks import means_of
from gacfx.routing.classes import FOLDS
from gacfx.routing.clusters import cluster_prompts
from gacfx.routing.prompts import prompts_in

LEAST_WINDOWS = 4
"""Of a kind of text that is found: its prompts are told apart on four parts in turn."""


def kinds_of(
    model: nn.Module,
    tokenizer: Any,
    texts: "Mapping[str, Text] | Text",
    clusters: int | None,
    calibration_tokens: int | str | None,
    seed: int,
    *,
    one: bool = False,
) -> dict[str, Corpus]:
    """Kind of text -> its windows; found by k-means where one text is given.

    Args:
        model: that reads them.
        tokenizer: of the model.
        texts: kind of text -> text, or one text.
        clusters: to find in one text.
        calibration_tokens: of each text, at most.
        seed: of clusters.
        one: one kind of text will do.

    Raises:
        CalibrationError: one text without a number of kinds, or several with one; too little text
            of a kind.
    """
    if isinstance(texts, Mapping):
        if clusters is not None:
            raise CalibrationError("clusters are found in one text; here are several, by name")
        if len(texts) < 2 - one:
            raise CalibrationError("one kind of text leaves nothing to route; name two at least")
        return {
            name: _read(text, model, tokenizer, calibration_tokens, name)
            for name, text in texts.items()
        }
    if one and clusters is None:
        return {"text": _read(texts, model, tokenizer, calibration_tokens, "calibration")}
    if clusters is None or clusters < 2:
        raise CalibrationError(f"clusters {clusters}: say how many kinds one text has, 2 at least")
    whole = read_calibration(texts, model, tokenizer, calibration_tokens)
    count = len(whole.documents)
    if clusters * LEAST_WINDOWS > count:
        raise CalibrationError(
            f"clusters {clusters}: the text has {count} windows, and a kind needs {LEAST_WINDOWS}; "
            "take fewer clusters or more text"
        )
    means_PF = torch.cat([means_of(model, ids_T[None]) for ids_T in whole.documents])
    cluster_P = cluster_prompts(means_PF, clusters, seed=seed)
    found = {}
    for at in range(clusters):
        places = torch.nonzero(cluster_P == at).flatten().tolist()
        if len(places) < LEAST_WINDOWS:
            raise CalibrationError(
                f"clusters {clusters}: the windows of kind {at + 1} are {len(places)}, and a kind "
                f"needs {LEAST_WINDOWS}; take fewer clusters or more text"
            )
        found[f"kind {at + 1}"] = whole.part(places)
    return found


def check_kinds(fit: Mapping[str, Corpus], prompt_tokens: int) -> None:
    """Nothing when a router can learn to tell kinds of text apart; asked before a long calibration.

    Args:
        fit: kind of text -> windows to learn from.
        prompt_tokens: of a prompt.

    Raises:
        CalibrationError: names the kind of which there are too few prompts.
    """
    for name, corpus in fit.items():
        count = len(prompts_in(corpus.documents, prompt_tokens))
        if count < FOLDS:
            raise CalibrationError(
                f"{name}: {count} prompts of {prompt_tokens} tokens to learn from, and {FOLDS} are "
                "needed; give more text, or shorter prompts (--prompt-tokens)"
            )


def _read(
    text: "Text", model: nn.Module, tokenizer: Any, calibration_tokens: int | str | None, kind: str
) -> Corpus:
    """The windows of a kind of text, two at least, as a part of them is held back."""
    try:
        found = read_calibration(text, model, tokenizer, calibration_tokens)
        split(found)
    except CalibrationError as error:
        error.add_note(f"this is the text of {kind}")
        raise
    return found
