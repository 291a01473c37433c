"""Tables of methods and value models: names, duplicates, what entry points bring."""

from dataclasses import replace
from pathlib import Path

import pytest

from gacfx.compressors.methods import LOW_RANK, METHODS, Method, Metric
from gacfx.compressors.values import VALUES, ValueModel, register, unit_of
from gacfx.core.table import Table
from gacfx.errors import PipelineError
from tests.plugin.packages import install

GROUP = "gacfx.test-methods"


def table() -> Table[Method]:
    return Table("method", Method, GROUP, LOW_RANK.values(), also=("auto",))


def brings(name: str, value: str, code: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """A package whose entry point ``name`` is ``value`` of its module."""
    install(folder, patch, f"pkg_{name.replace('-', '_')}", code, {GROUP: {name: value}})


MAKES = """
from gacfx.compressors.methods import Method, Metric
made = Method("mine", Metric.IDENTITY, Metric.IDENTITY, "a test")
"""


def test_a_mapping_of_what_is_known() -> None:
    found = table()
    assert list(found) == [*LOW_RANK] and len(found) == 7
    assert found["asvd"] is LOW_RANK["asvd"] is METHODS["asvd"]


def test_an_equal_entry_is_the_same_and_another_of_its_name_is_refused() -> None:
    found, svd = table(), LOW_RANK["svd"]
    assert found.register(replace(svd)) is not None and found["svd"] is svd
    for other in (replace(svd, right=Metric.MOMENT), replace(svd, name="auto")):
        with pytest.raises(PipelineError, match=f"method '{other.name}' is known twice"):
            found.register(other)
    assert found["svd"] is svd


@pytest.mark.parametrize("name", ["", "a b", "a;b", "paper:x", "a{", "-a", "ü"])
def test_a_name_that_no_option_could_have_is_refused(name: str) -> None:
    with pytest.raises(PipelineError, match="a name has letters, digits, - . and _ only"):
        table().register(replace(LOW_RANK["svd"], name=name))


def test_an_unknown_name_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(PipelineError, match="^no method 'x'; known: auto, svd, asvd, svd-llm, sv"):
        table().find("x")
    assert table().seek("x") is None


def test_an_entry_point_is_read_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brings("mine", "made", MAKES, tmp_path / "a", monkeypatch)
    brings("broken", "made", "raise RuntimeError('two\\nlines')", tmp_path / "b", monkeypatch)
    found = table()
    assert "mine" not in found
    assert found.find("mine").source == "a test" and "mine" in found
    assert found.find("mine") is found.find("mine")
    # Whoever asks for something else is told of both, and runs neither.
    with pytest.raises(PipelineError, match="no method 'x'; known: .*, gfwsvd, mine, broken$"):
        found.find("x")
    broken = "entry point 'broken' of gacfx.test-methods .pkg-broken. cannot be loaded: RuntimeErr"
    with pytest.raises(PipelineError, match=broken) as caught:
        found.everything()
    assert "\n" not in str(caught.value)


def test_everything_is_ours_first_and_twice_is_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brings("mine", "made", MAKES, tmp_path, monkeypatch)
    found = table()
    assert [m.name for m in found.everything()] == [*LOW_RANK, "mine"]
    assert [m.name for m in found.everything()] == [*LOW_RANK, "mine"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mine", "Method", "is no method of that name; it must bring an instance of gacfx.comp"),
        ("other", "made", "is no method of that name"),
        ("mine", "missing", "cannot be loaded: AttributeError"),
    ],
)
def test_an_entry_point_that_brings_something_else_is_refused(
    name: str, value: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brings(name, value, MAKES, tmp_path, monkeypatch)
    found = table()
    for look in (found.everything, lambda: found.find(name)):
        with pytest.raises(PipelineError, match=message):
            look()
    assert list(found) == list(LOW_RANK)


def test_an_entry_point_cannot_take_a_name_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = MAKES.replace('"mine", Metric.IDENTITY', '"svd", Metric.MOMENT')
    brings("svd", "made", code, tmp_path, monkeypatch)
    found = table()
    assert found.find("svd") is LOW_RANK["svd"]
    with pytest.raises(PipelineError, match="method 'svd' is known twice"):
        found.everything()


def test_value_models_have_a_table_of_the_same_kind() -> None:
    assert list(VALUES) == ["two-sided", "fisher", "per-token", "relative", "paper"]
    assert [model.in_nats for model in VALUES.values()] == [True, True, True, False, False]
    assert [model.name for model in VALUES.values() if model.on_text] == ["per-token"]
    impostor = ValueModel("fisher", "gold", "", "", VALUES["fisher"].losses)
    with pytest.raises(PipelineError, match="value model 'fisher' is known twice"):
        register(impostor)
    with pytest.raises(PipelineError, match="value model 'auto' is known twice"):
        register(replace(impostor, name="auto"))


@pytest.mark.parametrize(
    ("label", "unit"),
    [
        ("two-sided", "nats"),
        ("relative", "share"),
        ("paper:fisher", "importance x params"),
        ("synthetic decay 0.5", "nats"),
        ("synthetic decay 0.5, paper", "importance x params"),
        ("of a package that is gone", "unknown unit"),
        ("", "unknown unit"),
    ],
)
def test_what_the_losses_of_a_plan_are_counted_in(label: str, unit: str) -> None:
    assert unit_of(label) == unit
