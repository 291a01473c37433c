"""Files of tensors: equal contents make equal bytes."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from gacfx.core.tensor_file import save_tensors

METADATA = {name: f"said of {name}" for name in ("format", "plan", "decisions", "é", 'a "b"')}


def test_metadata_in_any_order_make_one_file(tmp_path: Path) -> None:
    tensors = {"x": torch.arange(5.0), "y": torch.zeros(2, 3)}
    made = set()
    for number in range(8):  # the library takes a random order each time
        path = tmp_path / f"{number}.safetensors"
        save_tensors(path, tensors, METADATA)
        made.add(path.read_bytes())
    assert len(made) == 1


@pytest.mark.parametrize("metadata", [METADATA, {}, {"one": "1"}])
def test_everything_is_read_again(metadata: dict[str, str], tmp_path: Path) -> None:
    tensors = {"x": torch.arange(5.0), "y": torch.zeros(2, 3, dtype=torch.bfloat16)}
    save_tensors(tmp_path / "x.safetensors", tensors, metadata)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert (file.metadata() or {}) == metadata
        assert {*file.keys()} == {*tensors}
        assert all(torch.equal(file.get_tensor(name), each) for name, each in tensors.items())
