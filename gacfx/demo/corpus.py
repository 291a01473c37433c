"""Text that every machine with Python has: the standard library's own prose, split for training.

Docstrings, comment blocks and the language reference in `pydoc_data.topics`, all under the PSF
licence; files that carry a licence notice of their own are left out. No paragraph appears twice,
and a held-out document that shares phrases with the training text is moved into the training text.
"""

import ast
import hashlib
import importlib.util
import inspect
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCUMENT_CHARS = 1200
SHORT_CHARS = 500
HELD_OUT_SHARE = 0.07
SHINGLE_WORDS = 8
MAX_SHARED = 0.1

OWN_LICENCE = re.compile(
    r"permission (is hereby granted|to use)|redistribution and use|merchantab|gnu general"
    r"|all rights reserved(?!.{0,40}licensed to (the )?psf)",
    re.IGNORECASE | re.DOTALL,
)
ADDRESS = re.compile(r"\S+@\S+\.\w+")
PARAGRAPH_END = re.compile(r"\n\s*\n")

# Modules written in C have no source here; their docstrings are read from the module.
C_MODULES = (
    "_asyncio _codecs _collections _csv _ctypes _curses _datetime _decimal _elementtree "
    "_functools _heapq _io _json _operator _pickle _posixsubprocess _queue _random "
    "_socket _sqlite3 _ssl _struct _thread _weakref array atexit binascii builtins cmath "
    "faulthandler fcntl gc itertools marshal math mmap posix pyexpat resource select sys "
    "termios time unicodedata zlib"
)


@dataclass(frozen=True)
class Split:
    """Documents of the three parts; no paragraph occurs in two of them."""

    train: list[str]
    calibration: list[str]
    evaluation: list[str]


def collect() -> list[str]:
    """Every document of the standard library's prose, in a fixed order, without repetitions.

    The text depends on the Python version alone, apart from C modules that a build may lack.
    """
    seen: set[str] = set()
    documents: list[str] = []
    for passages in _sources():
        fresh = [kept for text in passages if (kept := _fresh_prose(text, seen))]
        documents.extend(_pack(fresh))
    return documents


def split(documents: list[str]) -> Split:
    """Documents by the hash of their text, 7 % for calibration and 7 % for evaluation.

    A held-out document of which more than a tenth of the 8-word phrases also stand in an earlier
    part goes to training, so that near copies (`str` and `bytes` methods) do not pass as unseen.
    """
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for text in documents:
        place = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8
        parts[1 if place < HELD_OUT_SHARE else 2 if place < 2 * HELD_OUT_SHARE else 0].append(text)
    train, known, held_out = parts[0], set[str](), []
    for text in train:
        known |= _shingles(text)
    for part in parts[1:]:
        kept = [text for text in part if _shared(text, known) <= MAX_SHARED]
        train.extend(text for text in part if _shared(text, known) > MAX_SHARED)
        known = known.union(*map(_shingles, part))
        held_out.append(kept)
    return Split(train, *held_out)


def _sources() -> Iterator[list[str]]:
    """Passages of one topic, one source file or one C module at a time."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        if {"site-packages", "dist-packages"} & set(path.relative_to(root).parts):
            continue
        try:
            source = path.read_text("utf-8")
            tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError, ValueError):  # the test suite has such files
            continue
        if path.parts[-2:] == ("pydoc_data", "topics.py"):
            yield from ([topic] for topic in _strings(tree))
        elif not OWN_LICENCE.search(source):
            yield [text for _, text in sorted([*_docstrings(tree), *_comments(source)])]
    yield from map(_c_docstrings, C_MODULES.split())


def _strings(tree: ast.Module) -> Iterator[str]:
    """Long string constants: the values of the topics dictionary."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 100:
            yield node.value


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, docstring) of the module and of all its classes and functions."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield node.body[0].lineno, text


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of comment blocks of at least two whole lines."""
    block: list[str] = []
    for number, line in enumerate([*source.splitlines(), ""]):
        stripped = line.strip()
        if stripped.startswith("#"):
            block.append(re.sub(r"^#+[:!]? ?", "", stripped))
            continue
        if len(block) > 1:
            yield number, "\n".join(block)
        block = []


def _c_docstrings(name: str) -> list[str]:
    """Docstrings of a C module, of its functions and classes and of their methods, by name."""
    if importlib.util.find_spec(name) is None:
        return []
    module = importlib.import_module(name)
    things: list[object] = [module]
    for _, thing in sorted(vars(module).items()):
        things.append(thing)
        if isinstance(thing, type):
            things.extend(value for _, value in sorted(vars(thing).items()))
    docs = (getattr(thing, "__doc__", None) for thing in things)
    return [inspect.cleandoc(text) for text in docs if isinstance(text, str)]


def _fresh_prose(text: str, seen: set[str]) -> str:
    """The paragraphs of a passage that read like prose and are not in `seen`; adds them to it."""
    kept = []
    for paragraph in PARAGRAPH_END.split(text.expandtabs().strip("\n")):
        key = re.sub(r"\W+", "", paragraph.lower())
        if key not in seen and _is_prose(paragraph):
            kept.append("\n".join(line.rstrip() for line in paragraph.strip("\n").splitlines()))
        seen.add(key)
    return "\n\n".join(kept)


def _is_prose(paragraph: str) -> bool:
    """Whether a paragraph is mostly words, and holds no mail address."""
    dense = re.sub(r"\s+", "", paragraph)
    letters = sum(character.isascii() and character.isalpha() for character in dense)
    words = re.findall(r"[A-Za-z]{2,}", paragraph)
    return len(words) >= 3 and letters >= 0.7 * len(dense) and not ADDRESS.search(paragraph)


def _pack(passages: list[str]) -> Iterator[str]:
    """Documents of about 1200 characters at most, cut between paragraphs, from one source."""
    document = ""
    for passage in passages:
        if len(document) > SHORT_CHARS:
            yield document
            document = ""
        for paragraph in passage.split("\n\n"):
            if document and len(document) + len(paragraph) > DOCUMENT_CHARS:
                yield document
                document = ""
            document += ("\n\n" if document else "") + paragraph
    if document:
        yield document


def _shingles(text: str) -> set[str]:
    """Phrases of eight consecutive words."""
    words = re.findall(r"\w+", text.lower())
    return {
        " ".join(words[at : at + SHINGLE_WORDS]) for at in range(len(words) - SHINGLE_WORDS + 1)
    }


def _shared(text: str, known: set[str]) -> float:
    """Share of a text's phrases that are known, 0..1."""
    shingles = _shingles(text)
    return len(shingles & known) / max(len(shingles), 1)
