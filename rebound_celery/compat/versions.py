"""Warn, once, where a package is installed in a version that rebound's patches were not tested with."""

from __future__ import annotations

import importlib.metadata
import logging
from dataclasses import dataclass

from packaging.specifiers import SpecifierSet

from .patches import TESTED

logger = logging.getLogger(__name__)

#: Packages that were looked at; each is looked at once in a process.
_seen: set[str] = set()


@dataclass(frozen=True, slots=True)
class Untested:
    """A package whose installed version lies outside the tested range."""

    package: str
    version: str
    tested: SpecifierSet

    def __str__(self) -> str:
        return f"{self.package} {self.version} is installed, and rebound was tested with {self.package} {self.tested}"


def untested(*packages: str) -> list[Untested]:
    """The packages whose installed version was not tested; without arguments, of all that are patched."""
    found = []
    for package in packages or TESTED:
        version = importlib.metadata.version(package)
        if not TESTED[package].contains(version, prereleases=True):
            found.append(Untested(package, version, TESTED[package]))
    return found


def warn_of_untested(*packages: str) -> None:
    """Log a warning for each of these packages whose installed version was not tested. Each is looked at only once."""
    new = [package for package in packages if package not in _seen]
    _seen.update(new)
    for finding in untested(*new) if new else ():
        logger.warning(
            '%s: patches of its private code may not fit (see docs/patches.md); to go back: pip install "%s%s"',
            finding,
            finding.package,
            finding.tested,
            extra={"event": "untested_version"},
        )
