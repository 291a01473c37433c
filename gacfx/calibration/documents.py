"""Documents: the texts of a file, and of what a caller hands in, checked one by one."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from reprlib import repr as short

from gacfx.errors import CalibrationError

GOLDEN_RATIO = (1 + 5**0.5) / 2
"""Its multiples lie evenly on the circle (three-distance theorem: Sos 1958)."""

_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")


def read_documents(path: str | Path) -> list[str]:
    """Texts of a file, in its order: ``.jsonl`` or ``.txt``, UTF-8, any line ends.

    In ``.jsonl`` each line is one document, a string or an object ``{"text": ...}``; in ``.txt``
    documents are separated by blank lines, and a file without any is one document.

    Raises:
        CalibrationError: no such file, unknown suffix, bad UTF-8 or a NUL byte, a line that is not
            such JSON, half a surrogate pair, no text at all.
    """
    data = _read(path)
    readers = {".jsonl": _json_lines, ".txt": _paragraphs}
    documents = readers[Path(path).suffix.lower()](data, str(path))
    if not documents:
        raise CalibrationError(f"{path}: holds no text; give a file with some documents")
    return documents


def texts_of(documents: "Iterable[str | Mapping[str, object]]") -> Iterator[str]:
    """The texts of an iterable, one after the other: strings, or rows with a ``text``.

    Raises:
        CalibrationError: one string or a mapping instead of an iterable of texts, an item that is
            no text, half a surrogate pair.
    """
    if isinstance(documents, str | bytes):
        raise CalibrationError(
            f"a single text of {len(documents):,} characters came as the documents and would be "
            "read letter by letter; put it into a list"
        )
    if isinstance(documents, Mapping):
        raise CalibrationError(
            f"a mapping with keys {short(list(documents))} came as the documents; give one of its "
            "values, a list of texts or the rows of a data set"
        )
    if not isinstance(documents, Iterable):
        raise CalibrationError(
            f"{type(documents).__name__} cannot be read as documents; give a list of texts"
        )
    return (text_of(item, f"document {number}") for number, item in enumerate(documents, start=1))


def spread(count: int) -> list[int]:
    """All places 0 .. count - 1, so that the first k of them lie evenly, whatever k is.

    They are ordered by the fractional part of place x golden ratio, and gaps have at most three
    lengths.
    """
    return sorted(range(count), key=lambda place: place * GOLDEN_RATIO % 1)


def spread_texts(
    documents: "Iterable[str | Mapping[str, object]]",
) -> Iterator[tuple[int, str]]:
    """(place, text) of the documents; those of a list in the order of :func:`spread`.

    Raises:
        CalibrationError: of :func:`texts_of`.
    """
    if not isinstance(documents, list | tuple):
        yield from enumerate(texts_of(documents))
        return
    for place in spread(len(documents)):
        yield place, text_of(documents[place], f"document {place + 1}")


def text_of(item: object, where: str) -> str:
    """The text of a document: the item itself, or what stands under ``text`` in it.

    Raises:
        CalibrationError: neither, or half a surrogate pair, which no tokenizer can encode.
    """
    text = item.get("text") if isinstance(item, Mapping) else item
    if not isinstance(text, str):
        raise CalibrationError(
            f'{where}: expected a string or {{"text": "..."}}, found {short(item)}'
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CalibrationError(
            f"{where}: half a surrogate pair, {text[error.start]!a}, at character {error.start}; "
            "it is no character: mend or remove it"
        ) from error
    return text


def _read(path: str | Path) -> str:
    if "\n" in str(path):
        raise CalibrationError(
            f"a str of {str(path).count(chr(10)) + 1:,} lines is no path of a file; put a text "
            "into a list"
        )
    named, said = Path(path), str(path)[:200]
    try:
        if named.is_dir():
            raise CalibrationError(f"{path}: is a folder; give the path of a .jsonl or .txt file")
        if named.suffix.lower() not in (".jsonl", ".txt"):
            raise CalibrationError(
                f"{said}: unknown suffix {named.suffix[:20]!r}; give .jsonl (one document per "
                'line, a string or {"text": ...}) or .txt (documents separated by blank lines)'
            )
        if not named.is_file():
            raise CalibrationError(f"{path}: no such file; give the path of a .jsonl or .txt file")
        return named.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"{path}: not UTF-8 at byte {error.start}; convert the file, for example with iconv"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CalibrationError(f"{said}: cannot be read ({reason}); check the path") from error


def _paragraphs(data: str, where: str) -> list[str]:
    if (nul := data.find("\0")) >= 0:
        raise CalibrationError(
            f"{where}: a NUL at character {nul} is no text; if the file is UTF-16, convert it to "
            "UTF-8, for example with iconv"
        )
    return [part.strip() for part in _BLANK_LINES.split(data) if part.strip()]


def _json_lines(data: str, where: str) -> list[str]:
    # Not splitlines: a JSON string may hold a raw U+2028, which is no line end of the file.
    lines = enumerate(data.split("\n"), start=1)
    documents = [_json_document(line, f"{where}:{n}") for n, line in lines if line.strip()]
    return [document for document in documents if document.strip()]


def _json_document(line: str, where: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CalibrationError(f"{where}: not JSON ({error}); mend or remove the line") from error
    return text_of(value, where)
