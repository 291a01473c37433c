"""What a caller may have set around a door, and what would change a result there.

torch.export and the switches of torch that it moves are global, so two threads that trace at once
break each other: doors take turns.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import RLock

import torch

_TURN = RLock()


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Inside, no other thread is in a door; what the caller has set stays."""
    with _TURN:
        yield


@contextmanager
def plain_torch() -> Iterator[None]:
    """Inside, this thread is alone, and torch computes as if nothing had been set around it.

    Gradients may be asked for (no ``inference_mode``), nothing is cast (no ``autocast``), and new
    tensors are on the CPU where no device is named (no ``torch.device`` of the caller's).
    """
    with ExitStack() as stack:
        stack.enter_context(_TURN)
        stack.enter_context(torch.inference_mode(False))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
