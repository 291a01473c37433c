"""A store: named sets of tensors that steps of a long computation leave for each other.

store.put("moments.0", {"q_proj|side": ..., "k_proj|side": ...})
store.get("moments.0", "q_proj|side")

In memory, for models that are small, or in a folder (:mod:`gacfx.core.work_folder`), for those
whose statistics do not fit and for computations that are to be resumed.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


class Store(ABC):
    """Sets of tensors by name, each there as a whole or not at all."""

    @abstractmethod
    def __contains__(self, name: object) -> bool:
        """It is there, unharmed."""

    @abstractmethod
    def keys(self, name: str) -> tuple[str, ...]:
        """Names of its tensors, in the order that they were put in."""

    @abstractmethod
    def get(self, name: str, key: str) -> Tensor:
        """One tensor, on the CPU where the store is a folder. It must not be changed.

        Two keys under which the same tensor was put give one tensor, as long as somebody holds it.
        """

    @abstractmethod
    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep these tensors, in the place of those that had the name."""

    @abstractmethod
    def drop(self, name: str) -> None:
        """Nobody needs it any more; nothing happens if it is not there."""

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of all its sets."""

    def clear(self) -> None:
        """Drop all sets, and in a folder whatever else lies in it."""
        for name in self.names():
            self.drop(name)

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes of a set; 0 where it is not there."""

    def room(self) -> float:
        """Bytes that may be put in; infinite unless somebody set a limit."""
        return math.inf

    def close(self) -> None:
        """Nobody puts anything in any more; what was got stays good."""
        return


class Drawer(Store):
    """A store inside a store: its sets have a word before their names."""

    def __init__(self, inside: Store, word: str) -> None:
        self._inside, self._word = inside, word

    def _name(self, name: object) -> str:
        return f"{self._word}.{name}"

    def __contains__(self, name: object) -> bool:
        return self._name(name) in self._inside

    def keys(self, name: str) -> tuple[str, ...]:
        return self._inside.keys(self._name(name))

    def get(self, name: str, key: str) -> Tensor:
        return self._inside.get(self._name(name), key)

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self._inside.put(self._name(name), tensors)

    def drop(self, name: str) -> None:
        self._inside.drop(self._name(name))

    def names(self) -> tuple[str, ...]:
        start = self._name("")
        return tuple(n.removeprefix(start) for n in self._inside.names() if n.startswith(start))

    def size(self, name: str) -> int:
        return self._inside.size(self._name(name))

    def room(self) -> float:
        return self._inside.room()


class MemoryStore(Store):
    """Tensors as they are."""

    def __init__(self) -> None:
        self._sets: dict[str, dict[str, Tensor]] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._sets

    def keys(self, name: str) -> tuple[str, ...]:
        return tuple(self._sets[name])

    def get(self, name: str, key: str) -> Tensor:
        return self._sets[name][key]

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self._sets[name] = dict(tensors)

    def drop(self, name: str) -> None:
        self._sets.pop(name, None)

    def names(self) -> tuple[str, ...]:
        return tuple(self._sets)

    def size(self, name: str) -> int:
        return sum(tensor.nbytes for tensor in self._sets.get(name, {}).values())


def remembered(store: Store | None, name: str, compute: Callable[[], float]) -> float:
    """A number that is computed once.

    Args:
        store: where it is kept; None to compute it again.
        name: of the number.
        compute: gives it.
    """
    if store is not None and name in store:
        return float(store.get(name, "number"))
    found = compute()
    if store is not None and math.isfinite(found):
        store.put(name, {"number": torch.tensor(found, dtype=torch.float64)})
    return found


def remembered_numbers(
    store: Store | None, name: str, compute: Callable[[], Sequence[float]]
) -> list[float]:
    """Numbers that are computed once; infinite ones and NaN are kept as they are.

    Args:
        store: where they are kept; None to compute them again.
        name: of the numbers.
        compute: gives them.
    """
    if store is not None and name in store:
        return list(store.get(name, "numbers").tolist())
    found = list(compute())
    if store is not None:
        store.put(name, {"numbers": torch.tensor(found, dtype=torch.float64)})
    return found
