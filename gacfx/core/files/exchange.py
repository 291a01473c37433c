"""Swap two names in one step, where the system can: a reader meets the one or the other."""

import ctypes
import errno
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

_HERE = -100  # AT_FDCWD of linux/fcntl.h
_EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h; renameat2(2)
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.ENOTSUP)
"""No such call in this kernel, not on this file system, or forbidden in a container."""


def exchange(one: Path, two: Path) -> bool:
    """Swap the two names; False where that cannot be done, and then nothing was done.

    Raises:
        OSError: one of them is missing, or its folder cannot be written.
    """
    call = _renameat2()
    if call is None:
        return False
    if call(_HERE, os.fsencode(one), _HERE, os.fsencode(two), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(two))


@cache
def _renameat2() -> Callable[..., int] | None:
    """The call of the C library; None on other systems and in old libraries."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    call.restype = ctypes.c_int
    return call
