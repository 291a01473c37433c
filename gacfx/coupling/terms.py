"""Term algebra: what an axis of a tensor is made of.

    term := atom                a size that stands for itself
          | product(t1 .. tn)   row-major view of several axes
          | cat(t1 .. tn)       one part after the other: split, slice, concatenation

``unify(a, b)`` says that index i of ``a`` is index i of ``b``. Knowledge only grows: atoms are
refined into structures and linked to each other in place (a union-find forest), so terms that were
handed out earlier stay valid. Terms of size 1 or 0 are constants: they are never linked, because
every broadcast axis has size 1 and would tie unrelated parts of a model together.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, pairwise


class Conflict(ValueError):  # noqa: N818 - names the situation
    """Two axes of different size were said to be the same."""


class Kind(StrEnum):
    """How a term is built."""

    ATOM = "atom"
    PRODUCT = "product"
    CAT = "concatenation"


@dataclass(eq=False, slots=True)
class Term:
    """What one axis is made of; compare terms by ``find(a) is find(b)``."""

    size: int
    """Linked terms have equal sizes, so this may be read without ``find``."""
    frozen: str = ""
    """Of an atom: why its size may not change; empty when it may."""
    mixed: str = ""
    """Of an atom: what sums or averages over its elements, so that removing some is not the same as
    setting them to zero; empty where nothing does."""
    kind: Kind = Kind.ATOM
    parts: tuple["Term", ...] = ()
    link: "Term | None" = None
    """The term that this one was unified with."""


Axes = tuple[Term, ...]
"""The axes of one tensor, outermost first."""


def find(term: Term) -> Term:
    """The term that now stands for ``term``."""
    while term.link is not None:
        if term.link.link is not None:
            term.link = term.link.link  # shortens the path for the next look-up
        term = term.link
    return term


def atoms(term: Term) -> Iterator[Term]:
    """The atoms of ``term`` in order; one that shows twice comes twice."""
    term = find(term)
    if term.kind is Kind.ATOM:
        yield term
    for part in term.parts:
        yield from atoms(part)


def freeze(terms: Iterable[Term], why: str) -> None:
    """Forbid every size in ``terms`` to change; an earlier reason is kept."""
    for term in terms:
        for atom in atoms(term):
            atom.frozen = atom.frozen or why


def mix(terms: Iterable[Term], why: str) -> None:
    """Record that every element in ``terms`` has its say in one result."""
    for term in terms:
        for atom in atoms(term):
            atom.mixed = atom.mixed or why


def join(kind: Kind, terms: Iterable[Term]) -> Term:
    """One axis made of ``terms``."""
    neutral = 1 if kind is Kind.PRODUCT else 0
    parts: list[Term] = []
    for term in map(find, terms):
        parts += term.parts if term.kind is kind else [term] if term.size != neutral else []
    if len(parts) == 1:
        return parts[0]
    sizes = [part.size for part in parts]
    size = math.prod(sizes) if kind is Kind.PRODUCT else sum(sizes)
    return Term(size, kind=kind, parts=tuple(parts)) if parts else Term(neutral)


def count_times(term: Term) -> dict[Term, int]:
    """Atom -> elements of ``term`` for one unit of that atom, over all of its positions."""
    term = find(term)
    if term.kind is Kind.ATOM:
        return {term: 1}
    times: dict[Term, int] = {}
    for part in term.parts:
        repeat = term.size // part.size if term.kind is Kind.PRODUCT else 1
        for atom, inner in count_times(part).items():
            times[atom] = times.get(atom, 0) + repeat * inner
    return times


def resized(term: Term, sizes: Mapping[Term, int]) -> int:
    """The size that ``term`` has once atoms change to these sizes; the others stay.

    Args:
        term: of any axis.
        sizes: atom, as ``find`` gives it -> its new size.
    """
    term = find(term)
    if term.kind is Kind.ATOM:
        return sizes.get(term, term.size)
    parts = [resized(part, sizes) for part in term.parts]
    return math.prod(parts) if term.kind is Kind.PRODUCT else sum(parts)


def to_text(term: Term, name: Callable[[Term], str]) -> str:
    """``term`` as text, for example ``(d2*d3)+d4``; ``name`` gives the text of an atom."""
    term = find(term)
    if term.kind is Kind.ATOM:
        return name(term)
    sign = "*" if term.kind is Kind.PRODUCT else "+"
    texts = [(to_text(part, name), find(part).kind) for part in term.parts]
    return sign.join(text if kind is Kind.ATOM else f"({text})" for text, kind in texts)


class _Irregular(Exception):  # noqa: N818
    """Row-major refinement is impossible."""


class Terms:
    """Relates terms; what it cannot express it freezes and tells in ``remarks``."""

    def __init__(self) -> None:
        self.remarks: list[str] = []

    def split(self, term: Term, sizes: Sequence[int]) -> list[Term]:
        """Consecutive parts of ``term`` with these sizes.

        Raises:
            Conflict: the sizes do not add up to the size of ``term``.
        """
        if sum(sizes) != term.size:
            raise Conflict(f"size {term.size} cannot be split into {list(sizes)}")
        fine = iter(self._refine(term, list(accumulate(sizes))))
        out = []
        for size in sizes:
            got: list[Term] = []
            while sum(part.size for part in got) < size:
                got.append(next(fine))
            out.append(join(Kind.CAT, got))
        return out

    def _refine(self, term: Term, cuts: Sequence[int]) -> list[Term]:
        """Parts of ``term`` that have a border at every cut (an offset from its start)."""
        term = find(term)
        inside = sorted({cut for cut in cuts if 0 < cut < term.size})
        if not inside:
            return [term]
        sizes = [end - start for start, end in pairwise([0, *inside, term.size])]
        if term.kind is Kind.PRODUCT:
            return self._give_up([term], sizes, "product seen as concatenation")
        if term.kind is Kind.ATOM:
            term.kind, term.parts = Kind.CAT, tuple(_piece(term, size) for size in sizes)
            return list(term.parts)
        fine: list[Term] = []
        start = 0
        for part in term.parts:
            fine += self._refine(part, [cut - start for cut in inside])
            start += part.size
        term.parts = tuple(fine)
        return fine

    def view(self, terms: Sequence[Term], sizes: Sequence[int]) -> list[Term]:
        """Row-major reshape of the axes ``terms`` to ``sizes``.

        Raises:
            Conflict: the numbers of elements differ.
        """
        source = [term for term in map(find, terms) if term.size != 1]
        if math.prod(term.size for term in source) != math.prod(sizes):
            raise Conflict(f"{[term.size for term in source]} cannot be viewed as {list(sizes)}")
        queue = deque(source)
        try:
            return [_take(queue, size) for size in sizes]
        except _Irregular:
            return self._give_up(source, sizes, "irregular view")

    def unify(self, a: Term, b: Term) -> Term:
        """Say that index i of ``a`` is index i of ``b``; gives the common term.

        Raises:
            Conflict: the sizes differ.
        """
        a, b = find(a), find(b)
        if a.size != b.size:
            raise Conflict(f"size {a.size} cannot be the same as size {b.size}")
        if a is b or a.size <= 1:
            return a
        if a.kind is not Kind.ATOM and b.kind is not Kind.ATOM:
            self._unify_parts(a, b)
            a, b = find(a), find(b)
        return a if a is b else _link(a, b)

    def _unify_parts(self, a: Term, b: Term) -> None:
        if a.kind is not b.kind:
            self._give_up([a, b], [a.size], f"{a.kind} meets {b.kind}")
            return
        sizes = [part.size for part in b.parts]
        mine = self.split(a, sizes) if a.kind is Kind.CAT else self.view([a], sizes)
        for x, y in zip(mine, b.parts, strict=True):
            self.unify(x, y)

    def broadcast(self, *tensors: Axes) -> Axes:
        """Axes of an elementwise result: aligned at the right, size 1 stretches.

        Raises:
            Conflict: the shapes do not broadcast.
        """
        out: list[Term] = []
        for back in range(1, max(map(len, tensors), default=0) + 1):
            column = [axes[-back] for axes in tensors if len(axes) >= back]
            known = column[0]
            for term in column[1:]:
                if known.size == 1:
                    known = term
                elif term.size != 1:
                    known = self.unify(known, term)
            out.append(known)
        return tuple(reversed(out))

    def _give_up(self, terms: Sequence[Term], sizes: Sequence[int], why: str) -> list[Term]:
        self.remarks.append(f"{why}: {[t.size for t in terms]} -> {list(sizes)}")
        freeze(terms, why)
        return [Term(size, frozen=why) for size in sizes]


def _take(queue: deque[Term], size: int) -> Term:
    """The next ``size`` elements of a row-major sequence of axes, as one term."""
    got: list[Term] = []
    need = size
    while need != 1:
        head = find(queue.popleft()) if queue else Term(0)
        if head.size and need % head.size == 0:
            got.append(head)
            need //= head.size
        else:
            queue.extendleft(reversed(_factors(head, math.gcd(head.size, need))))
    return join(Kind.PRODUCT, got)


def _factors(term: Term, outer: int) -> tuple[Term, ...]:
    """Factors of ``term``; an atom is refined into ``outer`` times the rest."""
    if term.kind is Kind.ATOM and 1 < outer < term.size:
        parts = (_piece(term, outer), _piece(term, term.size // outer))
        term.kind, term.parts = Kind.PRODUCT, parts
    if term.kind is not Kind.PRODUCT:
        raise _Irregular
    return term.parts


def _piece(atom: Term, size: int) -> Term:
    """A new atom that knows what is known of the atom that it is a part of."""
    return Term(size, atom.frozen, atom.mixed)


def _link(a: Term, b: Term) -> Term:
    """Let the plainer of two terms stand for the other one."""
    child, root = (a, b) if a.kind is Kind.ATOM else (b, a)
    if child.kind is Kind.ATOM and child.frozen:
        freeze([root], child.frozen)
    if child.kind is Kind.ATOM and child.mixed:
        mix([root], child.mixed)
    child.link = root
    return root
