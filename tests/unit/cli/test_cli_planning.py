"""Planning options of the command line: what they ask for, what they refuse, what is shown."""

import json
import logging
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from gacfx.calibration.counting import Counting
from gacfx.cli import made, main, options, parser
from gacfx.core.goal import Goal
from gacfx.core.search import Bound, Search
from tests.few import few

needs_highs = pytest.mark.skipif(find_spec("highspy") is None, reason="highspy is not installed")


def read(*words: str) -> Any:
    return parser().parse_args(["plan", "MODEL", *words])


def synthetic(dense: Path, *words: str) -> int:
    return main(["plan", str(dense / "config.json"), "--synthetic", "0.5", *words])


def shown(capsys: pytest.CaptureFixture[str], dense: Path, *words: str) -> dict[str, Any]:
    """The plan that a command prints as JSON."""
    assert synthetic(dense, "--json", *words) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def ranks_of(plan: dict[str, Any]) -> list[int]:
    """Of all weights that do not stay dense; there is one at least."""
    taken = (choice["decision"] for choice in plan["choices"])
    found = [each["rank"] for each in taken if each["kind"] != "dense"]
    assert found
    return found


# -- what is asked for ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "goal"),
    [
        ((), Goal(ratio="0.2")),
        (("--ratio", "0.35"), Goal(ratio="0.35")),
        (("--ratio", "0.35", "--ratio-of", "model"), Goal(ratio="0.35", of="model")),
        (("--ratio-of", "model"), Goal(ratio="0.2", of="model")),
        (("--params", "6.5G"), Goal(params="6.5G")),
        (("--bytes", "12GiB"), Goal(nbytes="12GiB")),
    ],
)
def test_the_goal_is_one_of_three(words: tuple[str, ...], goal: Goal) -> None:
    assert options.goal_of(read(*words)) == goal


@pytest.mark.parametrize(
    ("words", "search"),
    [
        ((), Search()),
        (("--align", "16"), Search(align=16)),
        (("--value", "fisher"), Search(value="fisher")),
        (("--paper",), Search.paper()),
        (("--paper", "--window", "4"), replace(Search.paper(), window=4)),
        (("--method", "llm-pruner"), Search(prune="only")),
        (("--method", "llm-pruner", "--prune", "auto"), Search(prune="auto")),
        (("--method", "llm-pruner", "--paper"), Search.paper("only")),
        (("--paper", "--prune", "only"), Search.paper("only")),
        (("--candidates", "window"), Search(candidates="window")),
        (("--form", "pivot"), Search(form="pivot")),
        (("--window", "12"), Search(candidates="window", window=12)),
        (("--solver", "ilp"), Search(solver="ilp")),
        (("--solver", "cbc", "--time-limit", "9"), Search(solver="cbc", time_limit=9)),
        (("--gap", "1e-3"), Search(gap=1e-3)),
        (("--tp", "2", "--quant", "2:4"), Search(tp=2, quant="2:4")),
        (
            ("--bound", "*.q=8:16", "--bound", "*.k=8:"),
            Search(bounds=(Bound("*.q", 8, 16), Bound("*.k", 8))),
        ),
        (("--uniform",), Search(uniform=True)),
        (("--corrections", "3"), Search(corrections=3)),
        (
            ("--latency-share", "0.9", "--mode", "decode", "--batch", "4", "--seq", "2048"),
            Search(limits=("limit-latency{share=0.9 mode=decode batch=4 seq=2048}",)),
        ),
        (
            ("--latency-us", "5200", "--limit", "tie-layers", "--limit", "mine{a=1 b=2}"),
            Search(
                limits=(
                    "limit-latency{us=5200.0 mode=prefill batch=1 seq=1024}",
                    "tie-layers",
                    "mine{a=1 b=2}",
                )
            ),
        ),
    ],
    ids=str,
)
def test_the_search_is_what_the_options_say(words: tuple[str, ...], search: Search) -> None:
    assert options.search_of(read(*words)) == search


def later(*words: str) -> Any:
    """A case for ``make test-exhaustive``: others have options of the same kind."""
    return pytest.param(words, marks=pytest.mark.exhaustive)


# -- every option on the quick way ---------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("--paper",),
        ("--solver", "core"),
        later("--solver", "dp"),
        ("--solver", "ilp"),
        later("--solver", "cbc"),
        pytest.param(("--solver", "highs", "--time-limit", "60"), marks=needs_highs),
        later("--solver", "greedy"),
        later("--solver", "round"),
        ("--candidates", "window"),
        later("--form", "pair"),
        ("--form", "pivot"),
        ("--tp", "2", "--align", "4"),
        ("--quant", "int8"),
        ("--bound", "*.q_proj=8:16"),
        ("--uniform",),
        later("--params", "80k"),
        later("--bytes", "340kB"),
        later("--latency-share", "1.6"),
        ("--latency-share", "1.6", "--solver", "ilp", "--mode", "decode"),
        ("--latency-us", "140", "--bytes", "340kB"),
    ],
    ids=" ".join,
)
def test_every_option_makes_a_plan(
    words: tuple[str, ...], dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = shown(capsys, dense, *words)
    asked = options.search_of(read(*words))
    search = plan["provenance"]["search"]
    for name in ("solver", "tp", "quant", "form"):
        assert search[name] == getattr(asked, name)
    assert plan["proof"]["solver"] == asked.solver
    assert search["limits"] == list(asked.limits)
    mode = read(*words).mode
    assert [limit["name"] for limit in plan["limits"]] == [f"{mode} latency"] * len(asked.limits)
    kinds = {choice["decision"]["kind"] for choice in plan["choices"]} - {"dense"}
    assert kinds and kinds <= set(asked.kinds)


@pytest.mark.parametrize("goal", [("--params", "600G"), ("--ratio", "0")], ids=" ".join)
def test_a_budget_that_holds_the_model_says_so(
    goal: tuple[str, str], dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synthetic(dense, *goal) == 0
    seen = capsys.readouterr().out
    assert "the budget holds the whole model: nothing needs to go\n" in seen
    assert "wanted" not in seen and "kept dense" not in seen


def test_the_hub_does_not_talk_between_our_lines(
    dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = logging.getLogger("huggingface_hub")
    hub.setLevel(logging.WARNING)
    shown(capsys, dense)
    assert hub.level == logging.ERROR


def test_a_plan_keeps_when_its_search_was_to_stop(
    dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = shown(capsys, dense, "--gap", "100", "--time-limit", "60")["provenance"]["search"]
    assert (search["gap"], search["time_limit"]) == (100, 60)


def test_limits_of_several_workloads_are_kept_together(
    dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decode = "limit-latency{share=1.5 mode=decode batch=8 seq=512}"
    words = ("--latency-share", "1.6", "--limit", decode, "--limit", "tie-layers", "--bytes", "1MB")
    plan = shown(capsys, dense, *words)
    assert [(limit["name"], limit["source"]) for limit in plan["limits"]] == [
        ("prefill latency", "rule-based, prefill, 1 x 1024 tokens, h200"),
        ("decode latency", "rule-based, decode, 8 x 512 tokens, h200"),
    ]
    for limit, share in zip(plan["limits"], (16, 15), strict=True):
        assert limit["spent"] <= limit["most"] == limit["dense"] * share // 10
    assert plan["rules"] == 7 and plan["budget"]["unit"] == "bytes"


def test_a_time_in_microseconds_is_a_limit_in_nanoseconds(
    dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decode = ("--latency-us", "140.5", "--mode", "decode", "--batch", "2")
    (limit,) = shown(capsys, dense, *decode)["limits"]
    assert (limit["most"], limit["unit"]) == (140_500, "ns") and limit["spent"] <= 140_500
    assert limit["source"] == "rule-based, decode, 2 x 1024 tokens, h200"
    assert synthetic(dense, "--latency-us", "1") == 1
    said = capsys.readouterr().err
    assert re.search(r"keeps to 1,000 ns; the smallest is [\d,]+ ns, so the smallest reach", said)


def test_the_view_says_who_chose_and_what_is_kept(
    dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--uniform", "--tp", "2", "--align", "4", "--latency-share", "1.9", "--params", "80k")
    assert synthetic(dense, *words) == 0
    seen = capsys.readouterr().out
    assert "80k parameters of the model" in seen
    assert "ranks in steps of 8 (tp 2)" in seen
    assert "solver core: " in seen
    assert "rules between weights kept: 7" in seen
    kept = r"latency: [\d.]+ of [\d.]+ ms used \([\d.]+ of dense, at most 1.900; rule-based, "
    assert re.search(kept + r"prefill, 1 x 1024 tokens, h200\)", seen)


def test_a_rule_of_thumb_claims_no_more_than_it_knows(
    dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synthetic(dense, "--solver", "greedy") == 0
    seen = capsys.readouterr().out
    assert re.search(r"solver greedy: within \S+ of optimal .* \(a rule of thumb, no search", seen)
    assert "proven" not in seen


def test_the_paper_counts_importance_and_not_nats(
    dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synthetic(dense, "--paper") == 0
    seen = capsys.readouterr().out
    assert "loss, importance x params" in seen and "nats" not in seen
    assert "solver dp: proven optimal" in seen


def test_compress_takes_the_same_options(
    dense: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--method", "asvd", "--paper", "--align", "4", "--tp", "2", "--params", "80k"]
    out = tmp_path / "small"
    assert (
        main(["compress", str(dense), "--calibration", str(text), "--out", str(out), *words]) == 0
    )
    plan = json.loads((out / "plan" / "plan.json").read_text())
    assert plan["provenance"]["value_model"] == "paper:activation"
    assert plan["budget"]["amount"] == "80k"
    assert all(rank % 8 == 0 for rank in ranks_of(plan))
    assert "80k parameters of the model" in capsys.readouterr().out


def test_a_rule_of_what_counts_reaches_the_text(dense: Path, text: Path) -> None:
    words = ["plan", str(dense), "--calibration", str(text)]
    rule = Counting(first=2, clip=3.0)
    _, _, some = made.calibration_text(parser().parse_args([*words, "--count", "first=2,clip=3"]))
    _, _, every = made.calibration_text(parser().parse_args(words))
    assert (some.counting, every.counting) == (rule, Counting())
    assert some.counted_tokens == every.tokens - 2 * len(every.documents)


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--paper", "--solver", "core"), "--paper says value, candidates, solver and form itself"),
        (("--paper", "--value", "paper"), "leave out --value"),
        (("--candidates", "full", "--window", "4"), "--window goes with --candidates window"),
        (("--params", "80k", "--ratio-of", "model"), "--ratio-of goes with --ratio"),
        (("--value", "fisher"), "--synthetic has no losses to measure"),
        (("--count", "first=4"), "--synthetic has no factors to write and reads no text"),
    ],
    ids=str,
)
def test_options_that_contradict_each_other_exit_with_2(
    words: tuple[str, ...], message: str, dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synthetic(dense, *words) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and message in printed.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--ratio", "0.2", "--params", "80k"), "not allowed with argument --ratio"),
        (("--params", "80k", "--bytes", "1MB"), "not allowed with argument --params"),
        (("--tp", "0"), "0 is not at least 1"),
        (("--quant", "fp6"), "invalid choice: 'fp6'"),
        (("--solver", "magic"), "invalid choice: 'magic'"),
        (("--window", "0"), "0 is not at least 1"),
        (("--latency-us", "0"), "0 is not a finite number above 0"),
        (("--latency-us", "inf"), "inf is not a finite number above 0"),
        (("--latency-share", "0"), "0 is not a finite number above 0"),
        (("--latency-share=-1",), "-1 is not a finite number above 0"),
        (("--latency-share", "1e400"), "1e400 is not a finite number above 0"),
        (("--latency-share", "80%"), "'80%' is not a number; write 0.8"),
        (("--latency-share", "0.8}"), "'0.8}' is not a number such as 0.8"),
        (("--latency-share", "half"), "'half' is not a number such as 0.8"),
        (("--window", "2.5"), "'2.5' is not a whole number such as 8"),
        (("--seed", "x"), "'x' is not a whole number such as 8"),
        (("--count", "first=x"), "'first=x': 'x' is no number"),
        (("--count", "middle=1"), "'middle=1': give first=N, last=N or clip=C"),
        (("--synthetic", "x"), "'x' is not a number such as 0.8"),
        (("--time-limit", "0"), "0 is not a finite number above 0"),
        (("--gap", "nan"), "nan is not a finite number above 0"),
        (("--latency-us", "9", "--latency-share", "1"), "not allowed with argument --latency-us"),
    ],
    ids=str,
)
def test_what_no_command_takes_exits_with_2(
    words: tuple[str, ...], message: str, dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        synthetic(dense, *words)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gacfx plan: argument --") and message in line
    assert line.endswith("; see gacfx plan --help")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--params", "80X"), "params '80X': not a number such as 6.5G"),
        (("--bytes", "12G"), "units are B, kB, MB"),
        (("--bytes", "12"), "12 bytes of weights of the model asks to remove"),
        (("--solver", "ilp", "--gap", "0.1"), "solver 'ilp' cannot stop at a gap; take core"),
        (("--solver", "dp", "--time-limit", "9"), "solver 'dp' knows no time limit; take core"),
        (
            ("--uniform", "--bound", "*.0.*.q_proj=8:8", "--bound", "*.1.*.q_proj=16:16"),
            "uniform wants one rank for the 2 weights model.layers.*.self_attn.q_proj, and no rank",
        ),
        (("--params", "1k"), "1k parameters of the model asks to remove"),
        (("--bound", "*.q_proj"), "write PATTERN=LEAST:MOST"),
        (("--bound", "*.q_proj=3:7"), "q_proj: no candidate is left: no rank from 8 to 56"),
        (("--bound", "*.no_such=8:16"), "matches no targeted weight"),
        (("--limit", "limit-latency{share=1e400}"), "share inf is not a finite number above 0"),
        (("--latency-share", "0.1"), "smallest reachable share is"),
        (("--latency-share", "0.9", "--solver", "dp"), "cannot keep limit-latency"),
        (("--latency-share", "0.9", "--paper"), "cannot keep limit-latency"),
        (
            ("--limit", "latency"),
            "limit 'latency': no pass 'latency'; passes for limits and rules: l",
        ),
        (
            ("--limit", "factorize"),
            "limit 'factorize': factorize does not look at candidates; pass",
        ),
        (("--limit", "solve"), "limit 'solve': solve does not look at candidates; passes for limi"),
        (("--limit", "limit-latency{share=0.9"), "cannot read the pipeline from 'limit-latency{s"),
        (("--limit", "limit-latency share=0.9"), "write NAME or NAME{OPTION=VALUE OPTION=VALUE}"),
        (("--limit", "limit-latency{speed=9}"), "limit-latency has no option 'speed'; it has: sh"),
        (("--limit", "limit-latency{mode=train}"), "no mode 'train'; known: prefill, decode"),
        (("--limit", "limit-latency{us=9 share=0.5}"), "share 0.5 and us 9.0 are both given"),
        (("--limit", " "), "limits: ' ' is no pass"),
        (("--limit", "limit-latency{share=1}", "--solver", "dp"), "cannot keep limit-latency"),
        (("--uniform", "--solver", "greedy"), "cannot hold layers to one rank"),
        (("--quant", "int4-g128", "--ratio", "0.2"), "Nothing can be made smaller: int4-g128"),
    ],
    ids=str,
)
def test_what_cannot_be_done_exits_with_1(
    words: tuple[str, ...], message: str, dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synthetic(dense, *words) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and message in printed.err and "Traceback" not in printed.err


def test_bad_requests_fail_before_the_model_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--calibration", "no.txt", "--latency-share", "0.9", "--solver", "dp"]
    assert main(["plan", "/no/such/model", *words]) == 1
    assert "cannot keep limit-latency" in capsys.readouterr().err


# -- tensor parallelism --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tp", "heads"),
    [
        ("3", "tp 3 does not divide the 4 query heads of the model (num_attention_heads)"),
        ("4", "tp 4 does not divide the 2 key-value heads of the model (num_key_value_heads)"),
    ],
)
@pytest.mark.parametrize("command", few(["synthetic", "plan", "compress"], "synthetic", "compress"))
def test_item_5_tp_that_does_not_divide_the_heads_is_refused(
    dense: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    tp: str,
    heads: str,
) -> None:
    # Before any work: neither is a graph captured nor a text calibrated on.
    monkeypatch.setattr("gacfx.api.calibrate", lambda *_, **__: pytest.fail("calibrated"))
    monkeypatch.setattr("gacfx.replan.capture", lambda *_, **__: pytest.fail("captured"))
    if command == "synthetic":
        code = synthetic(dense, "--tp", tp)
    else:
        words = ["--calibration", str(text), "--out", str(tmp_path / "out")]
        code = main([command, str(dense), *words, "--tp", tp])
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 1
    assert f"{heads}; devices share whole heads, so take one of 1, 2" in line


def test_item_5_tp_that_divides_the_heads_is_planned_for(
    dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = shown(capsys, dense, "--tp", "2")
    assert all(rank % 16 == 0 for rank in ranks_of(plan))
