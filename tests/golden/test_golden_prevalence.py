"""What ``gacfx prevalence`` prints, of made-up ranks, on 80 columns."""

from gacfx.compressors.proportional import Proportional
from gacfx.core.defaults import PREVALENCE_RATIOS, PROXIES
from gacfx.prevalence import Prevalence, Ranks, Share
from gacfx.report.prevalence_view import prevalence_view
from tests.golden.goldens import check, render


def cell(proxy: str, ratio: str, odd: float) -> Ranks:
    found = Proportional({"q": 107, "k": 64, "v": 48}, 9000, 8900, round(50 * odd), 0)
    shares = {8: Share(odd, odd * 0.9), 16: Share(min(odd * 1.1, 1.0), odd)}
    return Ranks(proxy, ratio, found, shares)


def prevalence(*proxies: str, spread: float = 12.0, tokens: int = 524_288) -> Prevalence:
    cells = tuple(
        cell(proxy, ratio, 0.5 + 0.1 * number + 0.05 * place)
        for number, proxy in enumerate(proxies)
        for place, ratio in enumerate(PREVALENCE_RATIOS)
    )
    spreads = dict.fromkeys(proxies, spread)
    return Prevalence(
        *("llama-3-8b", 224, 6_979_321_856, proxies, PREVALENCE_RATIOS, "params"),
        *(tokens, cells, spreads),
    )


def test_all_proxies() -> None:
    text = render(prevalence_view(prevalence(*PROXIES)), width=80)
    assert max(map(len, text.splitlines())) <= 80
    check("prevalence_80", text)


def test_weights_alone_with_scores_far_apart() -> None:
    found = prevalence("magnitude", spread=3e7, tokens=0)
    check("prevalence_magnitude", render(prevalence_view(found)))
