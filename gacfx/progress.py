"""How far a long computation is."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""(what is being done, steps done, steps in all)."""
_ROUNDING = 1e-6


class Count:
    """Adds up documents for a progress callback."""

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self.progress, self.what, self.total, self.done = progress, what, total, 0.0

    def __call__(self, documents: float) -> None:
        before = int(self.done)
        self.done += documents
        if (now := int(self.done + _ROUNDING)) > before:
            self.progress(self.what, now, self.total)
