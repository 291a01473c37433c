"""Settings in names: one spelling of each, and what is wrong with the others."""

from dataclasses import dataclass, replace

import pytest

from gacfx.core.settings import Setting, file_name, setting, settings_of, with_settings
from gacfx.errors import GacError, PipelineError


@dataclass(frozen=True)
class Knob:
    """One of everything."""

    name: str = "knob"
    share: float = setting(0.5, "a share")
    two_words: int = setting(3, "a count")
    wide: bool = setting(False, "a switch")
    scale: str = setting("mean", "a choice", known=("mean", "max"))
    end: int | None = setting(None, "a place", kind=int)
    hidden: int = 7

    def __post_init__(self) -> None:
        if self.share > 1:
            raise PipelineError(f"{self.name}: share {self.share} is above 1")
        if self.two_words == 13:
            raise ValueError("thirteen")


KNOB = Knob()


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("share=0.5", "knob"),
        ("share=.25", "knob:share=0.25"),
        ("share=2.5e-1", "knob:share=0.25"),
        ("share=1", "knob:share=1"),
        ("share=-1e300", "knob:share=-1e300"),
        ("scale=max,share=0.1", "knob:share=0.1,scale=max"),
        ("end=4,two-words=5,wide=true", "knob:two-words=5,wide=true,end=4"),
        ("end=none,wide=false,scale=mean,two-words=3", "knob"),
    ],
)
def test_a_name_has_one_spelling_that_is_read_back(said: str, name: str) -> None:
    found = with_settings(KNOB, said)
    assert found.name == name
    if name == "knob":
        assert found is KNOB
    else:
        again = with_settings(KNOB, name.partition(":")[2])
        assert again == found and again.hidden == 7


def test_values_have_the_types_of_their_fields() -> None:
    found = with_settings(KNOB, "share=1,two-words=4,wide=true,scale=max,end=9")
    values = found.share, found.two_words, found.wide, found.scale, found.end
    assert values == (1.0, 4, True, "max", 9)
    assert [type(value) for value in values] == [float, int, bool, str, int]


def test_defaults_are_those_of_the_entry_and_not_of_its_class() -> None:
    mine = Knob("mine", share=0.9, end=4)
    assert with_settings(mine, "share=0.9") is mine
    assert with_settings(mine, "share=0.5").name == "mine:share=0.5"
    assert with_settings(mine, "end=none").end is None
    assert settings_of(mine)[0] == Setting("share", "0.9", "a share", "a number")
    assert [str(one) for one in settings_of(KNOB)] == [
        *("share=0.5", "two-words=3", "wide=false", "scale=mean", "end=none")
    ]


KNOWN = "it has: share=0.5, two-words=3, wide=false, scale=mean, end=none"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("", "method 'knob': no setting ''; "),
        ("hidden=3", "method 'knob': no setting 'hidden'; "),
        ("name=x", "method 'knob': no setting 'name'; "),
        ("two_words=3", "method 'knob': no setting 'two_words'; "),
        ("share", "method 'knob': share has no value, as share=...; "),
        ("share=0.1,", "method 'knob': no setting ''; "),
        ("share=a", "method 'knob': share='a': it is a number; "),
        ("share=", "method 'knob': share='': it is a number; "),
        ("share=nan", "method 'knob': share='nan': it is a number; "),
        ("share=inf", "method 'knob': share='inf': it is a number; "),
        ("share=none", "method 'knob': share='none': it is a number; "),
        ("two-words=1.5", "method 'knob': two-words='1.5': it is a whole number; "),
        ("wide=1", "method 'knob': wide='1': it is true or false; "),
        ("wide=True", "method 'knob': wide='True': it is true or false; "),
        ("scale=a/b", "method 'knob': scale='a/b': it is mean, max; "),
        ("scale=../x", "method 'knob': scale='../x': it is mean, max; "),
        ("end=x", "method 'knob': end='x': it is a whole number, or none; "),
        ("share=2", "knob:share=2: share 2.0 is above 1; "),
        ("two-words=13", "thirteen; "),
        ("share=\x1b[31m", r"method 'knob': share='\x1b[31m': it is a number; "),
    ],
)
def test_a_bad_setting_is_answered_with_all_of_them(said: str, message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        with_settings(KNOB, said)
    found = str(caught.value)
    assert found.replace("\\\\", "\\") == message + KNOWN


def test_a_setting_is_said_once() -> None:
    with pytest.raises(PipelineError, match="two-words is given twice"):
        with_settings(KNOB, "two-words=1,two-words=1")


def test_an_entry_without_settings_says_so() -> None:
    @dataclass(frozen=True)
    class Plain:
        name: str = "plain"

    class Loose:
        name = "loose"

    for entry in (Plain(), Loose()):
        assert settings_of(entry) == ()
        with pytest.raises(PipelineError, match=f"'{entry.name}' has no settings; leave out ':x=1"):
            with_settings(entry, "x=1")


def test_a_setting_is_of_a_plain_type() -> None:
    with pytest.raises(TypeError, match="not NoneType"):
        setting(None, "of what?")
    with pytest.raises(TypeError, match="not tuple"):
        setting((), "several")


def test_a_file_name_is_the_name_where_it_can_be_and_its_own_otherwise() -> None:
    assert file_name("svd-llm_2.b") == "svd-llm_2.b"
    names = ["asvd:alpha=0.3", "asvd_alpha_0.3", "asvd:alpha=0,3", "x" * 81, "x" * 82, "a/../b"]
    found = [file_name(name) for name in names]
    assert len({*found}) == len(names)
    for name in found:
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") and len(name) < 100
    assert found[0].startswith("asvd_alpha_0.3.")


def test_whatever_the_class_raises_is_an_error_of_ours() -> None:
    with pytest.raises(GacError):
        with_settings(replace(KNOB, name="other"), "two-words=13")
