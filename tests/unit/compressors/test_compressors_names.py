"""Methods by names with settings: the table, entry points, and values out of their range."""

from pathlib import Path

import pytest

from gacfx.compressors.asvd import Asvd
from gacfx.compressors.methods import METHODS, MethodTable, register
from gacfx.compressors.protocol import Compressor, Statistic
from gacfx.compressors.pruning.llm_pruner import LlmPruner
from gacfx.core.settings import settings_of
from gacfx.errors import PipelineError
from gacfx.graph.pipeline import Pipeline
from tests.plugin.packages import install

SOURCE = """
from dataclasses import dataclass

from gacfx.compressors.methods import LOW_RANK
from gacfx.compressors.protocol import Compressor
from gacfx.core.settings import setting


@dataclass(frozen=True)
class Toy(Compressor):
    name: str = "toy"
    source: str = "a toy"
    half: bool = setting(False, "half of the ranks")

    def decompose(self, weight_MN, moments, module=""):
        return LOW_RANK["svd"].decompose(weight_MN, moments, module)


toy = Toy()
"""


def test_the_name_of_a_method_is_the_one_spelling_of_its_settings() -> None:
    found = METHODS.find("asvd:scale=abs-max,alpha=0.30")
    assert isinstance(found, Asvd) and (found.alpha, found.scale) == (0.3, "abs-max")
    assert found.name == "asvd:alpha=0.3,scale=abs-max"
    assert METHODS.find(found.name) == found and hash(METHODS.find(found.name)) == hash(found)
    assert METHODS.find("asvd:alpha=0.5") is METHODS["asvd"]
    pruner = METHODS.find("llm-pruner:score=taylor-mix,first=4,scope=global,end=30")
    assert isinstance(pruner, LlmPruner)
    assert (pruner.score, pruner.first, pruner.scope, pruner.end) == ("taylor-mix", 4, "global", 30)
    assert METHODS.find(pruner.name) == pruner


@pytest.mark.parametrize("method", METHODS.everything(), ids=list(METHODS))
def test_every_setting_is_read_back_as_it_is_shown(method: Compressor) -> None:
    for one in settings_of(method):
        assert METHODS.find(f"{method.name}:{one}") is method


def test_a_name_with_settings_is_no_entry_of_its_own() -> None:
    before = list(METHODS)
    METHODS.find("asvd:alpha=0.1")
    assert list(METHODS) == before and "asvd:alpha=0.1" not in METHODS
    with pytest.raises(PipelineError, match="a name has letters, digits"):
        register(METHODS.find("asvd:alpha=0.1"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gold:alpha=1", "no method 'gold:alpha=1'; known: svd, asvd"),
        (":alpha=1", "no method ':alpha=1'"),
        ("svd:alpha=1", "method 'svd' has no settings; leave out ':alpha=1'"),
        ("asvd:beta=1", "method 'asvd': no setting 'beta'; it has: alpha=0.5, scale=abs-mean"),
        ("asvd:alpha=1.5", "alpha 1.5 is not between 0 and 1; it has: alpha=0.5"),
        ("asvd:alpha=-0.1", "alpha -0.1 is not between 0 and 1"),
        ("asvd:scale=gold", "no scale 'gold'; known: abs-mean, abs-max; it has: alpha=0.5"),
        ("asvd:allocation=gold", "no allocation 'gold'; known: strs, stable-rank, uniform"),
        ("asvd:tokens=0", "tokens 0: at least 1"),
        ("llm-pruner:score=gold", "no score 'gold'; known: taylor-first"),
        ("llm-pruner:norm=l1", "no setting 'norm'; it has: scope=local, first=3"),
        ("magnitude:score=taylor-first", "no setting 'score'; it has: scope=local, first=0"),
        ("magnitude:norm=l3", "no norm 'l3'; known: l1, l2"),
        ("random:scope=wide", "no scope 'wide'; known: local, global"),
        ("random:seed=x", "seed='x': it is a whole number"),
        ("llm-pruner:first=-1", "first -1: layers count from 0"),
        ("llm-pruner:first=5,end=5", "first 5, end 5: layers count from 0, and end is above first"),
    ],
)
def test_a_bad_name_is_one_line_that_says_what_there_is(name: str, message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        METHODS.find(name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_nobody_seeks_in_vain() -> None:
    assert METHODS.seek("gold:alpha=1") is None
    with pytest.raises(PipelineError):
        METHODS.seek("asvd:alpha=gold")


def test_settings_say_what_a_method_needs_and_minimises() -> None:
    found = METHODS.find("asvd:scale=abs-max,alpha=0.25")
    assert found.needs == (Statistic.INPUT_ABS_MAX,) and found.minimises == "|D S^0.25|"
    assert METHODS["asvd"].needs == (Statistic.INPUT_ABS_MEAN,)
    assert METHODS.find("llm-pruner:score=magnitude-l1").needs == ()
    assert METHODS.find("magnitude:norm=l1").minimises == "sum |W|"
    assert METHODS.find("asvd:allocation=uniform").allocates != METHODS["asvd"].allocates


def test_a_method_of_another_package_has_settings_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = "gacfx.test-names"
    install(tmp_path, monkeypatch, "toy_names", SOURCE, {group: {"toy": "toy"}})
    table = MethodTable("method", Compressor, group)  # type: ignore[type-abstract]
    found = table.find("toy:half=true")
    assert found.name == "toy:half=true" and found.half is True  # type: ignore[attr-defined]
    assert list(table) == ["toy"] and table.find("toy:half=false") is table["toy"]
    with pytest.raises(PipelineError, match="no setting 'whole'; it has: half=false"):
        table.find("toy:whole=true")


def test_a_pipeline_says_them_and_reads_them_again() -> None:
    text = "measure-curves{method=asvd:alpha=0.3,scale=abs-max}"
    assert str(Pipeline.parse(text)) == text
