"""Token ids of one text, from a tokenizer or a processor, whatever container they come in."""

# T tokens of one text

from collections.abc import Mapping, Sized
from reprlib import repr as short
from typing import Any, Protocol

import torch
from torch import Tensor

from gacfx.errors import CalibrationError

_CHARACTERS = 8
"""A token of ordinary text has fewer characters; if not, more are read."""
_MARGIN = 64
"""Tokens before a cut in the text that may differ from those of the whole text."""


class Tokenizer(Protocol):
    """What a Hugging Face tokenizer does with one text."""

    def __call__(self, text: str) -> Mapping[str, Any]:
        """A mapping whose ``input_ids`` are the token ids of ``text``.

        A list, an array or a tensor of integers, or a batch of one of these.
        """
        ...


def token_ids(tokenizer: Tokenizer, text: str, where: str) -> Tensor:
    """Token ids of ``text``, int64 [T], on the CPU.

    Raises:
        CalibrationError: the tokenizer fails on the text, or gives no list of integers.
    """
    call: Any = tokenizer
    try:
        found = call(text, **_quiet(tokenizer))
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise CalibrationError(
            f"{where}: {type(tokenizer).__name__} fails on it ({type(error).__name__}: "
            f"{reason[:200]}); mend or leave out the text, or give the model's tokenizer"
        ) from error
    try:
        ids = found["input_ids"]
    except (TypeError, KeyError, IndexError) as error:
        raise CalibrationError(
            f"{where}: {type(tokenizer).__name__} gives {short(found)}; gacfx needs a mapping "
            "with input_ids, as Hugging Face tokenizers give"
        ) from error
    return _flat(ids, f"{where}: {type(tokenizer).__name__}")


def first_token_ids(
    tokenizer: Tokenizer, text: str, count: int | None, where: str
) -> tuple[Tensor, int]:
    """(token ids, characters that were read): all ids, or those of a part with at least ``count``.

    The first ``count`` ids are those of the whole text; those beyond may differ near the cut.
    """
    if count is not None:
        end = _CHARACTERS * (count + _MARGIN)
        while end < len(text):
            ids_T = token_ids(tokenizer, text[:end], where)
            if len(ids_T) >= count + _MARGIN:
                return ids_T, end
            end *= 4
    return token_ids(tokenizer, text, where), len(text)


def _quiet(tokenizer: Tokenizer) -> dict[str, bool]:
    """For one of transformers: no word of texts that are too long, since they are cut here."""
    return {"verbose": False} if hasattr(tokenizer, "deprecation_warnings") else {}


def _flat(ids: Any, where: str) -> Tensor:
    """Ids of any container as int64 [T]; a batch of one is that one."""
    found = ids[0] if isinstance(ids, list | tuple) and len(ids) == 1 and _is_row(ids[0]) else ids
    try:
        tensor = found if isinstance(found, Tensor) else torch.tensor(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CalibrationError(
            f"{where} gives input_ids {short(ids)}; one text must give one list of integers"
        ) from error
    if found is ids and tensor.dim() == 2 and len(tensor) == 1:
        tensor = tensor[0]
    if tensor.dim() != 1:
        shape = [*tensor.shape] if found is ids else [1, *tensor.shape]
        raise CalibrationError(
            f"{where} gives input_ids of shape {shape} for one text; it must give one list of "
            "integers, or a batch of one"
        )
    other = tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool
    if len(tensor) and other:  # an empty list becomes a tensor of floats
        raise CalibrationError(
            f"{where} gives input_ids of {tensor.dtype}, {short(ids)}; token ids are integers"
        )
    return tensor.to("cpu", torch.int64, copy=True)


def _is_row(item: object) -> bool:
    return isinstance(item, Sized) and getattr(item, "ndim", 1) == 1
