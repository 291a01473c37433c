"""Every test compiles anew, without headers that would be compiled once for many graphs."""

from collections.abc import Iterator

import pytest
import torch
from torch._inductor import config


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    with torch.no_grad(), config.patch(cpp_cache_precompile_headers=False):
        yield
    torch._dynamo.reset()
