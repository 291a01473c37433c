"""Memory of mapped files is given back, and what is in it stays."""

import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gacfx.core import paging

MIB = 2**20
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is resident")


def mapped(folder: Path) -> dict[str, torch.Tensor]:
    """32 MiB of ones in a file."""
    save_file({"x": torch.ones(8 * MIB)}, folder / "x.safetensors")
    return load_file(folder / "x.safetensors")


@ON_LINUX
def test_pages_that_were_read_are_given_back_and_read_again(tmp_path: Path) -> None:
    before = paging.mapped_bytes()
    tensors = mapped(tmp_path)
    assert float(tensors["x"].sum()) == 8 * MIB
    held = paging.mapped_bytes()
    assert held - before > 24 * MIB
    paging.page_out()
    assert paging.mapped_bytes() < held - 24 * MIB
    assert float(tensors["x"].sum()) == 8 * MIB


@ON_LINUX
def test_what_was_changed_stays_changed(tmp_path: Path) -> None:
    tensors = mapped(tmp_path)
    tensors["x"][::1000] = 2.0
    paging.page_out()
    assert bool((tensors["x"][::1000] == 2.0).all())
    assert float(tensors["x"][1]) == 1.0


@ON_LINUX
def test_a_lean_process_gives_back_by_itself(tmp_path: Path) -> None:
    tensors = mapped(tmp_path)
    with paging.lean(most_bytes=8 * MIB):
        before = paging.mapped_bytes()
        assert float(tensors["x"].sum()) == 8 * MIB
        end = time.monotonic() + 10
        while paging.mapped_bytes() > before + 8 * MIB and time.monotonic() < end:
            time.sleep(paging.SECONDS)
        assert paging.mapped_bytes() <= before + 8 * MIB
        assert float(tensors["x"].sum()) == 8 * MIB


def test_nothing_happens_where_it_cannot_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "_able", lambda: False)
    paging.page_out()
    with paging.lean():
        assert float(torch.ones(3).sum()) == 3.0
