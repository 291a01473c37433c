"""Numbers as a person reads them."""


def count(number: int) -> str:
    """``8.03 G``, ``1.25 M``, ``64``."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def signed(number: int) -> str:
    """``-7.7 M``, ``0``."""
    return "0" if number == 0 else f"{'-' if number < 0 else '+'}{count(abs(number))}"
