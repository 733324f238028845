"""Where the user's code made something, for errors that have to name two of a kind."""

from __future__ import annotations

import inspect

_PACKAGE = __name__.partition(".")[0] + "."


def place_of_caller() -> str:
    """File and line of the nearest caller outside of this package."""
    frame = inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(_PACKAGE):
        frame = frame.f_back
    return "an unknown place" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
