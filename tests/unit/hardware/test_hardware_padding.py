"""Which larger size a profile likes."""

from gacfx.core.sites import AttentionCall, AttentionSite, Extent, MatmulSite, Workload
from gacfx.hardware.padding import Sized, best_size
from gacfx.hardware.profile import load

H200, WORKLOAD = load("h200"), Workload()
TOKENS = Extent(1, "token")


def product(k: int, n: int) -> MatmulSite:
    return MatmulSite("up", TOKENS, Extent(k), Extent(n), "bf16")


def width(size: int) -> list[Sized]:
    """The two products of an MLP."""
    up, down = product(4096, 2 * size), product(size, 4096)
    return [Sized(up, outputs=True), Sized(down, inputs=True)]


def attention(d: int) -> Sized:
    call = AttentionCall(mask=False, causal=True, gqa=False)
    return Sized(AttentionSite("attn", 32, 32, d, d, "bf16", call, call))


def test_an_odd_width_grows_to_the_next_that_is_fast() -> None:
    found = best_size(width(11007), 11007, H200, WORKLOAD)
    assert found.new == 11008
    assert found.new_us < found.old_us


def test_an_aligned_width_stays() -> None:
    found = best_size(width(11008), 11008, H200, WORKLOAD)
    assert (found.new, found.new_us) == (11008, found.old_us)


def test_heads_grow_to_what_attention_takes() -> None:
    assert best_size([attention(107)], 107, H200, WORKLOAD).new == 112
    assert best_size([attention(128)], 128, H200, WORKLOAD).new == 128


def test_a_step_that_is_asked_for() -> None:
    assert best_size(width(11008), 11008, H200, WORKLOAD, align=1000).new == 12000
    assert best_size(width(12000), 12000, H200, WORKLOAD, align=1000).new == 12000


def test_both_sides_of_a_site_grow() -> None:
    up, down = (each.at(107, 112) for each in width(107))
    assert isinstance(up, MatmulSite)
    assert isinstance(down, MatmulSite)
    assert (up.n.times, up.k.times) == (224, 4096)
    assert (down.n.times, down.k.times) == (4096, 112)
