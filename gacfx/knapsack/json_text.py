"""Versioned JSON text of problems and solutions, checked field by field."""

import json
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gacfx.errors import PlanError

VERSION = 1
STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

Record = TypeVar("Record", bound=BaseModel)


def head(kind: str) -> dict[str, object]:
    """The first fields of a file: its format and version."""
    return {"format": f"gacfx-{kind}", "version": VERSION}


def parse(text: str, record: type[Record], kind: str) -> Record:
    """The ``record`` in ``text``.

    Raises:
        PlanError: not JSON, another version, or a wrong field (named).
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{kind} file: not JSON: {error}") from None
    version = data.get("version") if isinstance(data, dict) else None
    if version != VERSION or isinstance(version, bool):
        raise PlanError(
            f"{kind} file: version {version!r}, this gacfx reads version {VERSION}; "
            "write the file again, or install the gacfx that wrote it"
        )
    try:
        return record.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PlanError(f"{kind} file: {where}: {first['msg']}") from None
