"""What gacfx calls of lm-eval, in small: one request at a time, no batches, no registry.

Tests of the glue run with it everywhere, and with lm-eval itself where that is installed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from gacfx.zeroshot import Item, TaskData
from gacfx.zeroshot.harness import Tools
from gacfx.zeroshot.task import find_tasks
from tests import tiny


@dataclass
class Request:
    """One answer to be scored."""

    args: tuple[str, str]
    task_name: str
    doc_id: int


class Reader:
    """Log-likelihoods of answers, as HFLM takes them."""

    def __init__(
        self, pretrained: Any, tokenizer: Any, batch_size: int, max_length: int, softmax_dtype: str
    ) -> None:
        self.model, self.tokenizer, self.batch_size = pretrained, tokenizer, batch_size
        self.max_length, self.softmax_dtype = max_length, getattr(torch, softmax_dtype)
        tokenizer.pad_token = tokenizer.eos_token

    def tok_encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text)
        return ids

    def _model_call(self, inps: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = self.model(inps).logits
        return logits

    def loglikelihood(
        self, requests: Sequence[Request], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        return [(self._nats(*request.args), False) for request in requests]

    def _nats(self, prompt: str, answer: str) -> float:
        whole = self.tok_encode(prompt + answer)
        own = len(whole) - len(self.tok_encode(prompt))
        kept = torch.tensor([whole[-(self.max_length + 1) :]])
        logits_TV = self._model_call(kept[:, :-1])[0].log_softmax(-1, dtype=self.softmax_dtype)
        return float(logits_TV[-own:].gather(1, kept[0, -own:, None]).sum())


class ConfigurableTask:
    """A task whose documents its configuration brings."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.eval_docs = config["custom_dataset"](**config["metadata"])[config["test_split"]]

    def requests(self, place: int) -> list[Request]:
        config, doc = self.config, self.eval_docs[place]
        prompt, between = doc[config["doc_to_text"]], config["target_delimiter"]
        answers = doc[config["doc_to_choice"]]
        return [Request((prompt, between + answer), config["task"], place) for answer in answers]


def evaluate(
    lm: Any, tasks: Mapping[str, ConfigurableTask], limit: int | None, bootstrap_iters: int
) -> dict[str, Any]:
    """Samples of every task, the last item first: gacfx must not rely on their order."""
    samples: dict[str, list[dict[str, Any]]] = {}
    for name, task in tasks.items():
        places = list(range(len(task.eval_docs)))[:limit]
        asked = [task.requests(place) for place in places]
        nats = iter(lm.loglikelihood([request for some in asked for request in some]))
        samples[name] = [
            sample(task.eval_docs[place], place, [next(nats) for _ in some])
            for place, some in zip(places, asked, strict=True)
        ][::-1]
    return {"samples": samples}


def sample(doc: Mapping[str, Any], place: int, found: list[tuple[float, bool]]) -> dict[str, Any]:
    """What lm-eval keeps of one item."""
    nats = torch.tensor([value for value, _ in found], dtype=torch.float64)
    lengths = torch.tensor([len(choice) for choice in doc["choices"]])
    return {
        "doc_id": place,
        "filtered_resps": found,
        "acc": float(int(nats.argmax()) == doc["gold"]),
        "acc_norm": float(int((nats / lengths).argmax()) == doc["gold"]),
    }


class NoNetwork:
    """The manager of lm-eval's own tasks on a machine without network."""

    def load(self, names: list[str]) -> Any:
        raise ConnectionError(f"no route\nto {names}")


def tools() -> Tools:
    """The stand-in, as gacfx takes lm-eval."""
    tasks = SimpleNamespace(ConfigurableTask=ConfigurableTask, tqdm=iter)
    return Tools(evaluate, Reader, tasks, NoNetwork, SimpleNamespace(from_list=list))


WORDS = ("cat", "a dog", "the red house", "sea", "hill by the mat", "run", "on a mat", "saw")


def items(count: int = 24, choices: int = 3) -> tuple[Item, ...]:
    """Questions with answers of different lengths, the right ones all over the places."""
    return tuple(
        Item(
            f"the {WORDS[i % 8]} sat {i}\n" if i % 2 else f"the {WORDS[i % 8]} sat {i}",
            tuple(WORDS[(i * 3 + j * (1 + i % 2)) % 8] + str(j) for j in range(choices)),
            (i * i + i // 3) % choices,
        )
        for i in range(count)
    )


def close() -> TaskData:
    """A task with answers of one length, whose log-likelihoods lie close together."""
    turned = [tiny.TEXT[place:] + tiny.TEXT[:place] for place in range(0, 12, 3)]
    asked = (Item("say", tuple(text[at : at + 20] for text in turned), 0) for at in range(40))
    return TaskData(find_tasks(["piqa"])[0], tuple(asked))


def data(name: str = "piqa", count: int = 24, choices: int = 3) -> TaskData:
    """A task with such items."""
    return TaskData(find_tasks([name])[0], items(count, choices))
