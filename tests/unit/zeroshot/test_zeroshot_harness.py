"""Scoring, with a stand-in for lm-eval, and with lm-eval itself where that is installed."""

import copy
import socket
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from gacfx.errors import NoLmEval, TaskError, UnsupportedModel
from gacfx.modules.install import compressed_modules
from gacfx.modules.routing_hooks import pick_for, router_of
from gacfx.zeroshot import Item, TaskData, harness, read_tasks, reader, score
from gacfx.zeroshot.reader import routed
from gacfx.zeroshot.scores import METRICS, mean_of
from gacfx.zeroshot.task import find_tasks
from tests import tiny
from tests.unit.modules.routed_models import prompt, routed_llama
from tests.unit.zeroshot import stand_in

needs_lm_eval = pytest.mark.skipif(
    find_spec("lm_eval") is None, reason="lm-eval is not installed: make test-zeroshot"
)


@pytest.fixture(params=["stand-in", pytest.param("lm-eval", marks=needs_lm_eval)])
def lm_eval(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who scores; nobody talks to a network meanwhile."""

    def connect(*_: object) -> None:
        raise AssertionError("a network was asked")

    monkeypatch.setattr(socket.socket, "connect", connect)
    if request.param == "stand-in":
        monkeypatch.setattr(harness, "lm_eval", stand_in.tools)
    return str(request.param)


def right_by_hand(
    model: Any, tokenizer: Any, data: TaskData, dtype: torch.dtype = torch.float32
) -> dict[str, tuple[bool, ...]]:
    """Which items the model answers rightly, from its logits alone."""
    right: dict[str, list[bool]] = {metric: [] for metric in METRICS}
    for item in data.items or ():
        prompt = data.task.prompt.replace("{query}", item.query.rstrip())
        nats = []
        for choice in item.choices:
            ids = tokenizer(f"{prompt} {choice}")["input_ids"]
            first = len(tokenizer(prompt)["input_ids"])
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0].to(dtype).log_softmax(-1)
            nats.append(sum(float(logits[t - 1, ids[t]]) for t in range(first, len(ids))))
        per_character = [n / len(c) for n, c in zip(nats, item.choices, strict=True)]
        right["acc"].append(nats.index(max(nats)) == item.gold)
        right["acc_norm"].append(per_character.index(max(per_character)) == item.gold)
    return {metric: tuple(found) for metric, found in right.items()}


def test_scores_are_those_of_the_logits(lm_eval: str) -> None:
    model, tokenizer, data = tiny.llama(), tiny.tokenizer(), stand_in.data()
    found = score(model, tokenizer, [data], name="tiny").tasks[0]
    by_hand = right_by_hand(model, tokenizer, data)
    assert found.right == by_hand
    assert by_hand["acc"] != by_hand["acc_norm"]  # the items can tell the two apart
    assert 0 < sum(by_hand["acc"]) < found.items == found.given == 24
    assert found.acc == mean_of([float(right) for right in by_hand["acc"]])
    assert found.chance == pytest.approx(1 / 3)
    assert found.cut == 0


@pytest.mark.parametrize("name", ["hellaswag", "arc_easy"])
def test_every_task_asks_in_its_own_words(lm_eval: str, name: str) -> None:
    model, tokenizer, data = tiny.llama(seed=3), tiny.tokenizer(), stand_in.data(name)
    found = score(model, tokenizer, [data]).tasks[0]
    assert found.right == right_by_hand(model, tokenizer, data)


def test_log_likelihoods_of_a_bf16_model_are_float32(lm_eval: str) -> None:
    model = tiny.llama(seed=1).to(torch.bfloat16)
    tokenizer, data = tiny.tokenizer(), stand_in.close()
    found = score(model, tokenizer, [data], batch=1).tasks[0].right
    assert found == right_by_hand(model, tokenizer, data)
    assert found != right_by_hand(model, tokenizer, data, torch.bfloat16)


def test_a_model_in_fp16_is_scored_on_a_cpu(lm_eval: str) -> None:
    model = tiny.llama(initializer_range=0.3).half()
    model.lm_head.weight.data *= 20000  # logits that float16 cannot hold
    tokenizer, data = tiny.tokenizer(), stand_in.close()
    found = score(model, tokenizer, [data]).tasks[0].right
    assert found == right_by_hand(copy.deepcopy(model).float(), tokenizer, data)
    assert model.dtype == torch.float16


def test_batches_change_nothing(lm_eval: str) -> None:
    model, tokenizer, data = tiny.llama(), tiny.tokenizer(), stand_in.data()
    several = [score(model, tokenizer, [data], batch=batch) for batch in (1, 5, 100)]
    assert several[0] == several[1] == several[2]


def test_a_limit_takes_the_first_items(lm_eval: str) -> None:
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    tasks = [stand_in.data("piqa"), stand_in.data("arc_easy", count=5)]
    whole = score(model, tokenizer, tasks)
    some = score(model, tokenizer, tasks, limit=7)
    assert [(task.task, task.items, task.given) for task in some.tasks] == [
        ("piqa", 7, 24),
        ("arc_easy", 5, 5),
    ]
    for ours, theirs in zip(some.tasks, whole.tasks, strict=True):
        assert ours.right["acc"] == theirs.right["acc"][: ours.items]
    assert score(model, tokenizer, tasks, limit=1).tasks[0].acc.stderr is None


def test_model_and_tokenizer_stay_as_they_were(lm_eval: str) -> None:
    model = tiny.llama(tie_word_embeddings=True, attention_dropout=0.9, initializer_range=0.3)
    tokenizer, data = tiny.tokenizer(), stand_in.close()
    by_hand = right_by_hand(model, tokenizer, data)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    said = dict(tokenizer.special_tokens_map)
    assert score(model, tokenizer, [data]).tasks[0].right == by_hand
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert dict(tokenizer.special_tokens_map) == said and tokenizer.pad_token is None


def test_what_a_caller_has_set_changes_nothing(lm_eval: str) -> None:
    model, tokenizer, data = tiny.llama(seed=3), tiny.tokenizer(), stand_in.close()
    plain = score(model, tokenizer, [data])
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert score(model, tokenizer, [data]) == plain


def test_items_longer_than_the_model_are_counted_and_cut(lm_eval: str) -> None:
    model, tokenizer = tiny.llama(max_position_embeddings=40), tiny.tokenizer()
    (task,) = find_tasks(["hellaswag"])
    fits = Item("x" * 30, ("a" * 9, "b" * 8), 0)  # <s>, 30, a blank and 9: the last is not read
    cut = Item("y" * 30, ("a" * 10, "b" * 3), 1)
    found = score(model, tokenizer, [TaskData(task, (fits, cut))]).tasks[0]
    assert found.cut == 1
    long = Item("z", ("a" * 40, "b"), 0)
    with pytest.raises(TaskError, match="hellaswag, item 2: an answer has 41 tokens, .* 40 pos"):
        score(model, tokenizer, [TaskData(task, (fits, long))])


def test_a_foreign_tokenizer_is_refused(lm_eval: str) -> None:
    model = tiny.llama(vocab_size=60)
    with pytest.raises(TaskError, match=r"item 1: token id \d+ is outside .* vocabulary of 60"):
        score(model, tiny.tokenizer(), [stand_in.data()])


def test_logits_that_are_no_numbers_are_refused(lm_eval: str) -> None:
    model = tiny.llama()
    with torch.no_grad():
        model.lm_head.weight[5, 5] = float("nan")
    with pytest.raises(TaskError, match="piqa: the model's logits are NaN or infinite on item 1"):
        score(model, tiny.tokenizer(), [stand_in.data()])


def test_a_model_that_cannot_run_is_said_in_one_line(lm_eval: str) -> None:
    model = tiny.llama()

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a kernel\nfailed")

    model.forward = broken
    with pytest.raises(TaskError, match="^mine: lm-eval cannot score it: RuntimeError: a kernel f"):
        score(model, tiny.tokenizer(), [stand_in.data()], name="mine")


def test_too_little_memory_names_the_batch(lm_eval: str) -> None:
    model = tiny.llama()

    def large(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no room")

    model.forward = large
    with pytest.raises(TaskError, match="mine: out of memory at batch 3; ask for less"):
        score(model, tiny.tokenizer(), [stand_in.data()], batch=3, name="mine")


def test_progress_counts_answers(lm_eval: str) -> None:
    seen: list[tuple[str, int, int]] = []
    tasks = [stand_in.data(count=8, choices=2)]
    score(tiny.llama(), tiny.tokenizer(), tasks, batch=4, progress=lambda *at: seen.append(at))
    assert seen[0] == ("answers", 0, 16) and seen[-1] == ("answers", 16, 16)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_nothing_is_printed(lm_eval: str, capfd: pytest.CaptureFixture[str]) -> None:
    score(tiny.llama(), tiny.tokenizer(), [stand_in.data(count=3)])
    assert capfd.readouterr() == ("", "")


def test_lm_eval_is_left_as_it_was(lm_eval: str) -> None:
    tools = harness.lm_eval() if lm_eval == "lm-eval" else stand_in.tools()
    with harness.quiet(tools):
        assert tools.tasks.tqdm([1]) == [1]
    assert tools.tasks.tqdm is (iter if lm_eval == "stand-in" else sys.modules["tqdm"].tqdm)


def test_a_data_set_that_cannot_be_had_says_what_to_do(lm_eval: str) -> None:
    with pytest.raises(TaskError, match=r"^piqa: its data set cannot be had \(.*give a folder"):
        score(tiny.llama(), tiny.tokenizer(), read_tasks(["piqa"]))


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "8"])
def test_counts_are_whole_and_at_least_1(bad: Any) -> None:
    for name in ("limit", "batch"):
        with pytest.raises(TaskError, match=f"{name} .* whole number of at least 1"):
            score(tiny.llama(), tiny.tokenizer(), [stand_in.data()], **{name: bad})


def test_what_is_no_model_or_has_no_tokenizer_is_refused() -> None:
    with pytest.raises(UnsupportedModel):
        score("small", tiny.tokenizer(), [stand_in.data()])
    with pytest.raises(TaskError, match="small: has no tokenizer"):
        score(tiny.llama(), None, [stand_in.data()], name="small")


def test_without_lm_eval_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(NoLmEval, match=r'needs? lm-eval: pip install "lm-eval\[hf\]"$'):
        score(tiny.llama(), tiny.tokenizer(), [stand_in.data()])


def test_the_configuration_has_lm_evals_words() -> None:
    data = stand_in.data("arc_easy", count=2)
    config = harness.task_config(data)
    assert (config["task"], config["output_type"]) == ("arc_easy", "multiple_choice")
    assert [metric["metric"] for metric in config["metric_list"]] == list(METRICS)
    rows = harness.rows(data)
    assert {config["doc_to_text"], config["doc_to_choice"], config["doc_to_target"]} == set(rows[0])
    assert rows[1]["prompt"] == "the a dog sat 1\nAnswer:"
    assert data.items is not None and rows[1]["choices"] == list(data.items[1].choices)


def test_a_compressed_model_is_scored_as_it_runs(lm_eval: str) -> None:
    import gacfx

    model, tokenizer = tiny.llama(initializer_range=0.3), tiny.tokenizer()
    data = stand_in.close()
    dense = right_by_hand(model, tokenizer, data)
    made = gacfx.compress(model, tokenizer, calibration=tiny.texts(), ratio=0.4, force=True)
    assert compressed_modules(made.model)
    found = score(made.model, tokenizer, [data]).tasks[0].right
    assert found == right_by_hand(made.model, tokenizer, data)
    assert found != dense


# -- models whose prompts pick their ranks ---------------------------------------------------------


def test_what_rows_are_filled_up_with_is_no_part_of_a_prompt() -> None:
    """lm-eval gives no mask: without one, the second prompt would be of no kind."""
    model = routed_llama()
    rows = [prompt(1, 40)[0], prompt(2, 5)[0], prompt(2, 40, seed=1)[0]]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    assert pick_for(model, ids).classes == (1, 0, 2)
    found = router_of(model)
    assert found is not None
    with routed(model, ids, [None] * 3), torch.no_grad():
        assert found.installed is not None and found.installed.classes == (1, 2, 2)
        logits = model(ids).logits
    torch.testing.assert_close(logits[1, :5], model(rows[1][None]).logits[0])
    plain = tiny.llama()
    with routed(plain, ids, [None] * 3), torch.no_grad():
        plain(ids)


def test_answers_do_not_choose_the_ranks_that_run() -> None:
    model, question = routed_llama(), prompt(1, 6)[0]
    rows = [torch.cat([question, prompt(kind, length)[0]]) for kind, length in ((1, 3), (2, 9))]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    assert pick_for(model, ids[1:]).classes != (1,)
    found = router_of(model)
    assert found is not None
    with routed(model, ids, [6, 6]):
        assert found.installed is not None and found.installed.classes == (1, 1)


def test_every_answer_of_an_item_is_read_with_the_pick_of_its_question(
    lm_eval: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer, data = routed_llama(dtype=torch.float32), tiny.tokenizer(), stand_in.data()
    seen: list[str] = []

    def noted(model: Any, ids_BT: Any, mask_BT: Any) -> Any:
        seen.extend(tokenizer.decode(i[m]) for i, m in zip(ids_BT, mask_BT, strict=True))
        return pick_for(model, ids_BT, mask_BT)

    monkeypatch.setattr(reader, "pick_for", noted)
    score(model, tokenizer, [data], batch=1)
    items = data.items or ()
    assert len({*seen}) == len({item.query for item in items}) > 1
    for item in items:
        assert any(item.query in text for text in seen)
        assert not any(text.endswith(answer) for text in seen for answer in item.choices)


@needs_lm_eval
def test_a_score_does_not_depend_on_the_batch() -> None:
    model, tokenizer, data = routed_llama(dtype=torch.float32), tiny.tokenizer(), stand_in.data()
    one, other = (score(model, tokenizer, [data], batch=batch) for batch in (1, 8))
    assert one == other
