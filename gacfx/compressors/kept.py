"""Decompositions that live in a store, and are put together when somebody asks for them."""

import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field

from torch import Tensor

from gacfx.compressors.protocol import Compressor, Decomposition
from gacfx.core.settings import file_name
from gacfx.core.statistics import Moments
from gacfx.core.store import Store
from gacfx.core.stored_moments import placed

_PARTS = ("inner", "outer")


@dataclass(eq=False)
class KeptDecompositions(MutableMapping[str, Decomposition]):
    """Module -> decomposition.

    Components are kept, 16 S^2 bytes for a weight of short side S, as long as the store has more
    room than is to be left for others; a decomposition that has none, or found none, is made again
    whenever it is asked for. The last one is in memory as long as somebody holds it.
    """

    store: Store
    part: str
    """Of the text that they were made from."""
    method: Compressor
    weight_of: Callable[[str], Tensor]
    """Module -> dense weight, outputs first."""
    moments: Mapping[str, Moments]
    spare: int = 0
    """Bytes of the store that are left for others."""
    heads: Mapping[str, int] = field(default_factory=dict)
    """Module -> key-value heads that its outputs are, for methods that look at them."""
    _names: dict[str, None] = field(default_factory=dict)
    """Modules that were decomposed or found, in this order."""
    _last: tuple[str, Callable[[], Decomposition | None]] | None = None

    def by(
        self, method: Compressor, heads: Mapping[str, int] | None = None
    ) -> "KeptDecompositions":
        """Those of another method, from the same moments.

        Args:
            method: whose they are.
            heads: as :attr:`heads`; None for none.
        """
        known = self.store, self.part, method, self.weight_of, self.moments
        return KeptDecompositions(*known, self.spare, heads or {})

    def __getitem__(self, module: str) -> Decomposition:
        if self._last is not None and self._last[0] == module and (last := self._last[1]()):
            return last
        weight, moments = self.weight_of(module), self.moments[module]
        method = self.method.for_heads(self.heads.get(module, 0))
        if (name := self._name(module)) in self.store:
            device = moments.side_moment.device
            inner, outer = (placed(self.store.get(name, part), device) for part in _PARTS)
            made = method.restored(weight, moments, module, (inner, outer))
            self._last = module, _while_held(made)
        else:
            made = self[module] = method.decompose(weight, moments, module)
        return made

    def __setitem__(self, module: str, made: Decomposition) -> None:
        self._names[module], self._last = None, (module, _while_held(made))
        if made.components is None or self._name(module) in self.store:
            return
        if sum(each.nbytes for each in made.components) <= self.store.room() - self.spare:
            self.store.put(self._name(module), dict(zip(_PARTS, made.components, strict=True)))

    def __delitem__(self, module: str) -> None:
        self._names.pop(module)
        self._last = None
        self.store.drop(self._name(module))

    def __contains__(self, module: object) -> bool:
        known = isinstance(module, str) and module in self.moments
        if known and module not in self._names and self._name(str(module)) in self.store:
            self._names[str(module)] = None
        return module in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _name(self, module: str) -> str:
        return f"{file_name(self.method.name)}.{self.part}.{module}"


def _while_held(made: Decomposition) -> Callable[[], Decomposition | None]:
    """Gives it as long as somebody holds it; one of another package may have slots alone."""
    try:
        return weakref.ref(made)
    except TypeError:
        return lambda: made
