"""The pattern cache against a list that does the same slowly, alone and with several threads."""

import math
import threading
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gacfx.errors import PlanError, PlanMismatch
from gacfx.routing.cache import CacheStatistics, PatternCache

WIDTH = 6
MODEL = "a model"


def vectors(count: int, width: int = WIDTH, seed: int = 0) -> Tensor:
    """Unit vectors, [count, width]."""
    random = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, width, generator=random))


def cache_of(size: int = 4, threshold: float = 0.9) -> PatternCache[str]:
    return PatternCache(size, threshold, MODEL)


@dataclass
class Slow:
    """A list of (vector, value), what was used last at the end."""

    size: int
    threshold: float
    entries: list[tuple[list[float], int]] = field(default_factory=list)
    hits: int = 0
    misses: int = 0
    evictions: int = 0

    def find(self, vector: list[float]) -> int | None:
        found = [(cosine(vector, entry[0]), entry) for entry in self.entries]
        best = max(found, default=None, key=lambda pair: pair[0])
        if best is None or best[0] < self.threshold:
            self.misses += 1
            return None
        self.hits += 1
        self.entries.remove(best[1])
        self.entries.append(best[1])
        return best[1][1]

    def put(self, vector: list[float], value: int) -> None:
        if not self.size:
            return
        others = [entry for entry in self.entries if entry[0] != vector]
        if len(others) == len(self.entries) == self.size:
            others.pop(0)
            self.evictions += 1
        self.entries = [*others, (vector, value)]


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


@given(
    size=st.integers(0, 5),
    threshold=st.sampled_from([-1.0, -0.3, 0.0, 0.4, 0.8, 0.99]),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 11)), max_size=60),
    seed=st.integers(0, 5),
)
def test_it_does_what_a_list_does(
    size: int, threshold: float, steps: list[tuple[bool, int]], seed: int
) -> None:
    cache: PatternCache[int] = PatternCache(size, threshold, MODEL)
    slow, known = Slow(size, threshold), vectors(12, seed=seed)
    for value, (puts, row) in enumerate(steps):
        if puts:
            cache.put(known[row], value)
            slow.put(known[row].tolist(), value)
        else:
            assert cache.find(known[row]) == slow.find(known[row].tolist())
        assert cache.statistics() == CacheStatistics(
            slow.hits, slow.misses, slow.evictions, size, len(slow.entries)
        )


def test_the_entry_that_was_not_used_for_longest_goes() -> None:
    cache, (a, b, c, d) = cache_of(3), vectors(4, width=64)
    for name, vector in zip("abc", (a, b, c), strict=True):
        cache.put(vector, name)
    assert cache.find(a) == "a"
    cache.put(b, "B")
    cache.put(d, "d")
    assert [cache.find(vector) for vector in (a, b, c, d)] == ["a", "B", None, "d"]
    assert cache.statistics().evictions == 1


def test_the_nearest_of_several_above_the_threshold_is_found() -> None:
    cache = cache_of(threshold=0.1)
    for name, vector in (("near", [1.0, 0.2]), ("far", [1.0, 2.0]), ("behind", [-1.0, 0.0])):
        cache.put(torch.tensor(vector), name)
    assert cache.find(torch.tensor([1.0, 0.0])) == "near"
    assert cache.find(torch.tensor([-1.0, 0.1])) == "behind"
    assert cache.find(torch.tensor([0.0, -1.0])) is None


@pytest.mark.parametrize(("angle", "found"), [(0.4499, "a"), (0.4511, None)])
def test_the_threshold_is_a_cosine(angle: float, found: str | None) -> None:
    cache = cache_of(threshold=math.cos(0.45))
    cache.put(torch.tensor([1.0, 0.0]), "a")
    assert cache.find(torch.tensor([math.cos(angle), math.sin(angle)])) == found


@pytest.mark.parametrize("width", [1, 7, 64, 4096])
def test_rounding_keeps_nobody_from_the_extreme_thresholds(width: int) -> None:
    for vector in vectors(20, width):
        same, any_other = cache_of(threshold=1), cache_of(threshold=-1)
        same.put(vector, "same")
        any_other.put(vector, "other")
        assert (same.find(vector), any_other.find(-vector)) == ("same", "other")
        assert same.find(-vector) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_length_and_dtype_of_a_vector_change_nothing(dtype: torch.dtype) -> None:
    cache, vector = cache_of(threshold=0.999), vectors(1, 32)[0]
    cache.put(vector, "a")
    assert cache.find((vector * 300).to(dtype)) == "a"


def test_what_was_put_is_a_copy() -> None:
    cache, vector = cache_of(), vectors(1)[0]
    kept = vector.clone()
    cache.put(vector, "a")
    vector.neg_()
    assert (cache.find(kept), cache.find(vector)) == ("a", None)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_a_vector_without_direction_is_neither_kept_nor_found(bad: float) -> None:
    cache, (good, _) = cache_of(threshold=-1), vectors(2)
    cache.put(good, "good")
    without = torch.zeros(WIDTH) if bad == 0 else torch.where(torch.arange(WIDTH) == 2, bad, good)
    cache.put(without, "bad")
    assert cache.find(without) is None
    assert cache.find(good) == "good"
    assert cache.statistics() == CacheStatistics(hits=1, misses=1, evictions=0, size=4, entries=1)


def test_no_room_remembers_nothing() -> None:
    cache, vector = cache_of(0), vectors(1)[0]
    cache.put(vector, "a")
    assert cache.find(vector) is None
    assert cache.statistics() == CacheStatistics(hits=0, misses=1, evictions=0, size=0, entries=0)


def test_the_hit_rate_is_a_share_of_the_searches() -> None:
    cache, (a, b) = cache_of(), vectors(2, 64)
    assert cache.statistics().hit_rate == 0
    cache.put(a, "a")
    for vector in (a, a, b, a):
        cache.find(vector)
    assert cache.statistics().hit_rate == 0.75


def test_clearing_makes_it_as_new() -> None:
    cache, vector = cache_of(), vectors(1)[0]
    cache.put(vector, "a")
    cache.find(vector)
    cache.clear()
    assert cache.statistics() == CacheStatistics(hits=0, misses=0, evictions=0, size=4, entries=0)
    assert cache.find(vectors(1, WIDTH + 1)[0]) is None


def test_a_cache_of_another_model_is_refused() -> None:
    cache_of().check(MODEL)
    with pytest.raises(PlanMismatch, match="for the model a model, asked for another"):
        cache_of().check("another")


@pytest.mark.parametrize("first", ["find", "put"])
def test_a_vector_of_another_length_is_refused(first: str) -> None:
    cache, other = cache_of(), vectors(1, WIDTH + 1)[0]
    cache.find(vectors(1)[0]) if first == "find" else cache.put(vectors(1)[0], "a")
    before = cache.statistics()
    with pytest.raises(PlanMismatch, match="an embedding of 7 numbers; those of this cache have 6"):
        cache.find(other)
    with pytest.raises(PlanMismatch, match="another model"):
        cache.put(other, "b")
    assert cache.statistics() == before


def test_only_a_vector_is_an_embedding() -> None:
    with pytest.raises(PlanError, match=r"shape \(2, 6\); give one vector"):
        cache_of().find(vectors(2))


@pytest.mark.parametrize(
    ("size", "threshold", "message"),
    [
        (-1, 0.5, "a cache of -1 entries; give 0 or more"),
        (1, 1.01, "the threshold is 1.01"),
        (1, -1.01, "a cosine is in -1"),
        (1, math.nan, "the threshold is nan"),
    ],
)
def test_bad_settings_are_refused(size: int, threshold: float, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        PatternCache(size, threshold, MODEL)


def test_the_modes_of_torch_around_it_do_not_matter() -> None:
    cache, (a, b) = cache_of(threshold=0.9999), vectors(2, 64)
    beside = a + 0.05 * b  # a cosine of 0.9988, which is 1 in bfloat16
    with torch.inference_mode():
        cache.put(a * 2, "a")
    cache.put(b.requires_grad_(), "b")
    with torch.autocast("cpu", torch.bfloat16):
        assert (cache.find(a), cache.find(beside)) == ("a", None)
    assert cache.find(b) == "b"


def test_threads_leave_it_whole() -> None:
    """A value names its vector, so a row and a value that do not belong together would show."""
    cache: PatternCache[int] = PatternCache(8, 0.99, MODEL)
    known, workers, rounds = vectors(24, 64), 6, 400
    wrong: list[tuple[int, int]] = []
    failed: list[BaseException] = []
    start = threading.Barrier(workers)

    def work(worker: int) -> None:
        random = torch.Generator().manual_seed(worker)
        rows = torch.randint(len(known), (rounds,), generator=random).tolist()
        start.wait()
        try:
            for row in rows:
                found = cache.find(known[row])
                if found is None:
                    cache.put(known[row], row)
                elif found != row:
                    wrong.append((row, found))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = cache.statistics()
    assert (wrong, failed) == ([], [])
    assert done.hits + done.misses == workers * rounds and done.entries == 8
    assert 0 < done.evictions <= done.misses - done.entries
