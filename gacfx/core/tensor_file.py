"""Files of tensors with equal bytes for equal contents."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

_LENGTH = 8
"""Bytes of the length of a header, at the beginning of a file; source: the format's README."""


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; its metadata, which the library writes in random order, sorted.

    Raises:
        OSError, SafetensorError: it cannot be written.
    """
    from safetensors.torch import save_file

    save_file(tensors, path, metadata=dict(metadata))
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) > length:  # escaped otherwise; such a file is as good, if not as steady
            return
        file.seek(_LENGTH)
        file.write(text.ljust(length))
