"""What ``gacfx eval --compare`` prints, of made-up figures, beside each other and on 80 columns."""

from dataclasses import replace

from gacfx.comparison import Compared, Comparison, TextScores
from gacfx.report.comparison_view import comparison_view
from gacfx.zeroshot import Scores
from gacfx.zeroshot.scores import Mean
from tests.golden.goldens import check, render
from tests.golden.test_golden_zeroshot import DENSE, HARNESS, small

USAGE = (
    "evaluation: 286,000 of 286,000 tokens in 1,117 windows; 3 documents under 33 tokens left out"
)


def losses(loss: float, change: Mean | None = None, kl: Mean | None = None) -> TextScores:
    return TextScores(Mean(loss, 0.0212), loss / 4.1, 285_900, 1117, change, kl)


FIRST = Compared(
    "SmolLM2-135M", "/models/SmolLM2-135M", 134_515_008, 269_060_552, False, losses(3.0411)
)
SECOND = Compared(
    *("small", "/out/small", 121_012_320, 242_050_112, True),
    losses(3.0561, Mean(0.015, 0.0011), Mean(0.0171, 0.0004)),
)
THIRD = Compared(
    *("a-long-name-of-a-folder-with-sizes-of-16", "a", 104_320, None, True),
    losses(3.0381, Mean(-0.003, 0.0021), Mean(0.0021, 0.0001)),
)
OTHER = Compared(
    *("llama", "meta/llama", 1_235_814_400, 2_471_645_608, False),
    losses(2.5),
    apart="its tokenizer cuts the text into other tokens than that of SmolLM2-135M; compare nats "
    "per byte",
    no_kl="other tokens",
)


def comparison(*models: Compared, against: bool = True) -> Comparison:
    return Comparison(models, against, USAGE, 512, 256, "62 documents")


def test_a_wide_table() -> None:
    check("comparison_wide", render(comparison_view(comparison(FIRST, SECOND, THIRD))))


def test_another_tokenizer_on_80_columns() -> None:
    text = render(comparison_view(comparison(FIRST, SECOND, OTHER)), width=80)
    assert max(map(len, text.splitlines())) <= 80
    check("comparison_tokenizers_80", text)


def test_scores_on_80_columns() -> None:
    scores = (DENSE, small(), Scores("less", small(30).tasks))
    models = [
        replace(m, text=None, tasks=s) for m, s in zip((FIRST, SECOND, THIRD), scores, strict=True)
    ]
    text = render(comparison_view(Comparison(tuple(models), True, harness=HARNESS)), width=80)
    assert max(map(len, text.splitlines())) <= 80
    check("comparison_scores_80", text)


def test_without_a_dense_model_and_without_numbers() -> None:
    broken = replace(
        losses(float("inf")), loss=Mean(float("inf"), None), problem="the model's logits are NaN"
    )
    models = (SECOND, replace(THIRD, text=broken))
    stripped = [
        replace(m, text=replace(m.text, change=None, divergence=None)) for m in models if m.text
    ]
    found = comparison(*stripped, against=False)
    check("comparison_no_dense", render(comparison_view(found)))
