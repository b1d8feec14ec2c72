"""Ending a whole service, whichever of its processes finds the reason."""

import mmap
import os
import signal

# The first process imports this, and forks the others: they share the byte.
_first = os.getpid()
_code = mmap.mmap(-1, 1)


def end_service(code: int) -> bool:
    """End all processes of the service as SIGTERM does, and let the first one exit with `code` (1 to 255).

    Returns whether nobody has asked for it before.
    """
    asked_before = bool(_code[0])
    _code[0] = code
    os.kill(_first, signal.SIGTERM)
    return not asked_before


def exit_code() -> int:
    """Return the exit code that was asked for, or 0."""
    return _code[0]
