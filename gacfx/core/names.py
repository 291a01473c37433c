"""Names and texts that come from files: what a module may be called, and what may be printed.

A plan, a table of ranks or a file of curves may come from anybody. Its names are printed on a
terminal and looked up in models, so they are checked when the file is read.
"""

import re

MOST_NAME = 500
"""Characters of a module name; those of transformers have less than a hundred."""
MOST_TEXT = 4000
"""Characters of a reason, a version or any other text of a plan."""

_MODULE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def is_module_name(name: object) -> bool:
    """``model.layers.0.mlp.up_proj``: letters, digits, ``_`` and ``-`` between single dots."""
    return isinstance(name, str) and len(name) <= MOST_NAME and bool(_MODULE.fullmatch(name))


def is_group_name(name: object) -> bool:
    """A module name, or several of one layer: ``model.layers.0.fc1+fc2``."""
    if not isinstance(name, str) or len(name) > MOST_NAME:
        return False
    return all(map(is_module_name, name.split("+")))


def printable(text: object, most: int = 80) -> str:
    """The text in one line that no terminal acts on, cut in its middle where it is too long."""
    shown = "".join(map(_shown, str(text)))
    if len(shown) <= most:
        return shown
    return f"{shown[: most // 2]} ... {shown[len(shown) - most // 4 :]}"


def one_line(error: BaseException, most: int = 300) -> str:
    """The message of an error of somebody else, in one line."""
    return " ".join(str(error).split())[:most]


def odd_text(raw: object) -> str | None:
    """What is wrong with the first text that nobody should print, in plain JSON values.

    Keys count as well. None when every text is at most 4000 characters long and has no control
    character but line ends and tabs.
    """
    stack = [raw]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            stack += [*value.values(), *value]
        elif isinstance(value, list | tuple):
            stack += value
        elif isinstance(value, str) and not value.isprintable() and _has_control(value):
            return f"a text with control characters: '{printable(value)}'"
        elif isinstance(value, str) and len(value) > MOST_TEXT:
            return (
                f"a text of {len(value):,} characters, {MOST_TEXT:,} at most: '{printable(value)}'"
            )
    return None


def _has_control(text: str) -> bool:
    return not text.replace("\n", "").replace("\t", "").isprintable()


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character in "\n\t" else ascii(character)[1:-1]
