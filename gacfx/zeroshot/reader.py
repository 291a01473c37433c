"""lm-eval's view of a model: it counts the items that are cut, and refuses what has no score."""

# B requests, T tokens of the longest, V vocabulary

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gacfx.calibration.text import embedding_rows, max_positions
from gacfx.errors import TaskError
from gacfx.modules.routing_hooks import pick_for, picked, router_of

Progress = Callable[[str, int, int], None]
_MOST_POSITIONS = 1 << 20


def reader_of(base: Any, model: nn.Module, tokenizer: Any, batch: int, move: Progress) -> Any:
    """The model as lm-eval reads it, with ``cut``: (task, item from 0) of what lost its beginning.

    Args:
        base: lm-eval's class for models of transformers.
        model: that is read.
        tokenizer: the model's; a copy of it is used.
        batch: requests that are read at once.
        move: called with (stage, done, total).

    Raises:
        TaskError: in its ``loglikelihood``, for a token outside the vocabulary, or an answer that
            is longer than the model's positions.
    """
    vocabulary, positions = embedding_rows(model), max_positions(model, most=_MOST_POSITIONS)

    class Reader(base):  # type: ignore[misc]
        """A model that says how far it is."""

        cut: set[tuple[str, int]]
        questions: dict[tuple[int, ...], int]
        """What is read of a request -> how many of its tokens are the prompt."""

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
            self.cut, self.asked, self.read = set(), len(requests), 0
            self.questions = {}
            for request in requests:
                self.check(request)
            found = super().loglikelihood(requests, disable_tqdm=True)
            move("answers", self.asked, self.asked)
            return found

        def check(self, request: Any) -> None:
            prompt, answer = request.args
            ids, where = self.tok_encode(prompt + answer), (request.task_name, request.doc_id)
            own = len(ids) - len(self.tok_encode(prompt))
            read = ids[-(positions + 1) :][:-1]
            self.questions[_row(read)] = max(len(read) + 1 - own, 1)
            said = f"{where[0]}, item {where[1] + 1}"
            if vocabulary is not None and max(ids, default=0) >= vocabulary:
                raise TaskError(
                    f"{said}: token id {max(ids)} is outside the model's vocabulary of "
                    f"{vocabulary}; give the tokenizer of this model"
                )
            if len(ids) <= positions + 1:  # the last token is predicted, never read
                return
            self.cut.add(where)
            if own > positions:
                raise TaskError(
                    f"{said}: an answer has {own} tokens, and the model {positions} positions; "
                    "leave the task out, or score a model with more"
                )

        def _model_call(self, inps: Tensor, *more: Any, **named: Any) -> Tensor:
            """Logits [B, T, V]."""
            move("answers", self.read, self.asked)
            self.read += len(inps)
            with routed(model, inps, [self.questions.get(_row(ids)) for ids in inps.tolist()]):
                logits: Tensor = super()._model_call(inps, *more, **named)
            return logits

    return Reader(
        pretrained=model,
        tokenizer=copy.deepcopy(tokenizer),  # it is given a token for padding
        batch_size=batch,
        max_length=positions,
        softmax_dtype="float32",  # in bfloat16 answers of a hundred nats would differ by halves
    )


@contextmanager
def routed(model: nn.Module, ids_BT: Tensor, prompt_tokens: Sequence[int | None]) -> Iterator[None]:
    """The model with what its router picks for the prompts, if it has one, whatever the answers.

    lm-eval fills rows up with zeros at their end, and gives no mask that would tell the router.

    Args:
        model: that is read.
        ids_BT: what it is given: prompts and answers.
        prompt_tokens: of each row; None where that is not known, and all of it is the prompt.
    """
    if router_of(model) is None:
        yield
        return
    count_B = torch.tensor(
        [
            len(_row(ids)) if tokens is None else tokens
            for ids, tokens in zip(ids_BT.tolist(), prompt_tokens, strict=True)
        ]
    )
    seen_BT = torch.arange(ids_BT.shape[1]) < count_B[:, None]
    with picked(model, pick_for(model, ids_BT, seen_BT)):
        yield


def _row(ids: Sequence[int]) -> tuple[int, ...]:
    """Token ids without the zeros at their end."""
    count = len(ids)
    while count and not ids[count - 1]:
        count -= 1
    return tuple(ids[:count])
