"""Plain checks of JSON values; every complaint names the field and says what was expected.

Written out because a bare GPU machine, where profiles are made, has no pydantic.
"""

from collections.abc import Iterable
from math import inf, isfinite

from gacfx.errors import ProfileError


def members(
    value: object, field: str, required: Iterable[str] = (), optional: Iterable[str] | None = ()
) -> dict[str, object]:
    """The members of a JSON object that has all required fields and no unknown ones.

    Any name is allowed if ``optional`` is None.

    Raises:
        ProfileError: not an object, or a field is missing or unknown.
    """
    if not isinstance(value, dict):
        raise ProfileError(f"{field}: expected an object, not {value!r}")
    needed = set(required)
    if missing := sorted(needed - value.keys()):
        raise ProfileError(f"{field}: missing {', '.join(missing)}")
    known = needed | set(value if optional is None else optional)
    if unknown := sorted(value.keys() - known):
        allowed = ", ".join(sorted(known))
        raise ProfileError(f"{field}: unknown {', '.join(unknown)}; allowed are {allowed}")
    return value


def number(value: object, field: str, *, most: float = inf) -> float:
    """A finite number above 0 and at most ``most``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ProfileError(f"{field}: expected a number, not {value!r}")
    if not (isfinite(value) and 0 < value <= most):
        limit = "" if most == inf else f" and at most {most:g}"
        raise ProfileError(f"{field}: expected a number above 0{limit}, not {value!r}")
    return float(value)


def integer(value: object, field: str, *, least: int = 1, most: float = inf) -> int:
    """A whole number from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ProfileError(f"{field}: expected a whole number, not {value!r}")
    if not least <= value <= most:
        limit = "" if most == inf else f" and at most {most:g}"
        raise ProfileError(f"{field}: expected at least {least}{limit}, not {value}")
    return value


def text(value: object, field: str) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ProfileError(f"{field}: expected a text, not {value!r}")
    return value


def array(value: object, field: str) -> list[object]:
    """A list with at least one element."""
    if not isinstance(value, list) or not value:
        raise ProfileError(f"{field}: expected a list with at least one element, not {value!r}")
    return value


def version(value: object, field: str) -> tuple[int, int]:
    """A version such as [2, 11], as (major, minor)."""
    if not isinstance(value, list) or len(value) != 2:
        raise ProfileError(f"{field}: expected [major, minor], not {value!r}")
    major, minor = (integer(part, field, least=0) for part in value)
    return major, minor
