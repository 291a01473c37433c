"""What a search may still spend: steps that bound its time and memory, and a deadline."""

import time
from dataclasses import dataclass


@dataclass
class Work:
    """The guards of a search, shared by its parts."""

    steps_left: int
    """One per state and candidate, and a few more for those that get their bound. It bounds the
    time, and the memory of the way back: 4 bytes per state"""
    deadline: float
    """``time.perf_counter()`` at which to stop"""
    max_states: int = 0

    def spent(self) -> bool:
        return self.steps_left <= 0 or time.perf_counter() > self.deadline
