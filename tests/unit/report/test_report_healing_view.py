"""The table of a healing on a terminal of 80 columns, and its odd contents."""

from typing import Any

import pytest

from gacfx.report.healing_view import healing_view
from tests.golden.goldens import render

SAID: dict[str, Any] = {
    "tokens": 999_936,
    "steps": 1502,
    "best_step": 1502,
    "step_tokens": 512,
    "rate": 1e-3,
    "tried": [
        {"rate": 3e-4, "kl": 0.07571, "nats": 1.0512},
        {"rate": 3e-3, "kl": None, "nats": None},
    ],
    "lora": None,
    "trained_params": 529_792,
    "before": {"kl": 0.0945, "nats": 1.0816, "tokens": 16_313},
    "after": {"kl": 0.0467, "nats": 1.0342, "tokens": 16_313},
    "text_tokens": 119_514,
}


def shown(seconds: float = 70.4, **changes: Any) -> str:
    return render(healing_view({**SAID, **changes}, seconds), width=80)


def test_a_table_of_before_and_after_and_what_was_done() -> None:
    lines = shown().splitlines()
    assert lines[0] == "healed"
    assert lines[2].split()[-2:] == ["0.0945", "0.0467"]
    assert lines[3].split() == ["nats/token", "1.0816", "1.0342"]
    assert lines[4].split() == ["perplexity", "2.949", "2.813"]
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert "on 16,313 held-back tokens; factors and norms: 529,792 parameters changed" in text
    assert "1,502 steps of 512 tokens at a rate of 0.001; 999,936 tokens in all" in text
    assert "of a text of 119,514; 70 s" in text
    trials = "0.0003: 0.0757 and 1.0512, 0.003: diverged"
    assert text.endswith(f"KL and nats/token behind the trial of each rate: {trials}")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lora": 8}, "LoRA of rank 8, merged: 529,792"),
        ({"best_step": 751}, "at a rate of 0.001; the best was step 751; 999,936"),
        ({"seconds": 1500.0}, "25.0 minutes"),
        ({"after": {"kl": 0.1, "nats": 9e3, "tokens": 9}}, " inf "),
    ],
    ids=str,
)
def test_what_differs_is_said(changes: dict[str, Any], says: str) -> None:
    assert says in " ".join(shown(**changes).split())


def test_one_rate_was_not_tried() -> None:
    assert "trial" not in shown(tried=[])
