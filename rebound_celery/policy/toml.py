"""Reads policies from a TOML file. An error names the line at fault."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

from ..errors import InvalidSettingError
from .declared import Fault, Path
from .policy import RetryPolicy
from .table import PolicyTable


def read_toml(setting: str, file: str, base: RetryPolicy) -> PolicyTable:
    """Read the policies in a file.

    Args:
        setting: the name of the setting that names the file.
        file: the path of the file.
        base: has the options that the file's default policy does not set.

    Raises:
        InvalidSettingError: if there is no such file, or something in it cannot be used.
    """
    try:
        text = FilePath(file).read_bytes().decode("utf-8")
    except OSError as error:
        raise InvalidSettingError(
            setting, file, f"the file cannot be read: {error.strerror or error} (from {FilePath.cwd()})"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidSettingError(setting, file, f"a TOML file is UTF-8, and this one is not: {error}") from error
    except ValueError as error:
        # Half a surrogate pair, for which the file system has no bytes.
        raise InvalidSettingError(setting, ascii(file), f"it is no path of a file: {error}") from error
    try:
        given = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidSettingError(setting, file, f"the file is not TOML: {error}") from error
    try:
        return PolicyTable.read(given, base)
    except Fault as fault:
        line = line_of(text, _exactly(given, fault))
        place = f"{file}, line {line}: " if line else f"{file}: "
        name = ".".join(str(part) for part in fault.shown_path)
        raise InvalidSettingError(f"{place}{name}", fault.value, fault.allowed) from None


def _exactly(given: object, fault: Fault) -> Path:
    """Return the path of a value that cannot be used: of one in a list, with its number, which the fault leaves out."""
    place: Any = given
    for part in fault.path:
        try:
            place = place[part]
        except (LookupError, TypeError):
            return fault.path
    return (*fault.path, place.index(fault.value)) if isinstance(place, list) and fault.value in place else fault.path


def line_of(text: str, path: Path) -> int:
    """Return the number of the line that sets the value at `path`, or the nearest value around it; 0 for none.

    Args:
        text: a text that tomllib can read.
        path: the names and numbers that lead to the value.
    """
    best, best_length = 0, 0
    for number, place in _statements(text):
        length = _common(place, path)
        # A line below `path` is about it too: a table is where its first value is.
        if length > best_length:
            best, best_length = number, length
    return best


def _statements(text: str) -> list[tuple[int, Path]]:
    """Return each statement of a TOML text: the number of its first line, and the path of what it sets."""
    statements: list[tuple[int, Path]] = []
    table: Path = ()
    arrays: dict[Path, int] = {}
    begun, parts = 0, ""
    for number, line in enumerate(text.split("\n"), start=1):
        if not parts:
            begun = number
        parts += line + "\n"
        # A statement may go over many lines. It ends with the first line after which it can be read.
        try:
            read = tomllib.loads(parts)
        except tomllib.TOMLDecodeError:
            continue
        is_header, parts = parts.lstrip().startswith("["), ""
        keys, value = _path(read)
        if is_header and isinstance(value, list):
            # The numbers of the arrays around it: in `[[topics.orders.rules]]`, how many rules came before.
            index = arrays[keys] = arrays.get(keys, -1) + 1
            table = (*keys, index)
            statements.append((begun, table))
        elif is_header:
            table = keys
            statements.append((begun, table))
        elif keys:
            statements.append((begun, (*table, *keys)))
            if isinstance(value, list) and number > begun:
                lines = text.split("\n")[begun - 1 : number]
                statements += [(line, (*table, *keys, index)) for line, index in _items(lines, begun)]
    return statements


def _items(lines: Sequence[str], begun: int) -> Iterator[tuple[int, int]]:
    """Yield the line with which each item of an array ends, and the item's number.

    Args:
        lines: the statement that sets the array.
        begun: the number of its first line.
    """
    count, parts = 0, ""
    for number, line in enumerate(lines, start=begun):
        parts += line + "\n"
        # The items so far, if none of them goes on.
        try:
            _, items = _path(tomllib.loads(parts + "]"))
        except tomllib.TOMLDecodeError:
            continue
        while count < len(items):
            yield number, count
            count += 1


def _path(read: Mapping[str, Any]) -> tuple[Path, Any]:
    """Return the path and the value of the one statement that was read. A table's value is an empty mapping."""
    path: list[str | int] = []
    value: Any = read
    while isinstance(value, dict) and len(value) == 1:
        ((name, value),) = value.items()
        path.append(name)
    return tuple(path), value


def _common(place: Path, path: Path) -> int:
    """Return how many parts two paths have in common, from the first on."""
    count = 0
    for one, other in zip(place, path, strict=False):
        if one != other:
            break
        count += 1
    return count
