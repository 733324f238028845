"""What the pages, the examples and the error messages tell to install can be installed."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from rebound_celery.consumer import codecs
from rebound_celery.embedded import server

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
FOLDERS = {"rebound_celery": "*.py", "examples": "*", "docs": "*.md", "benchmarks": "*.py"}
TEXTS = [
    *ROOT.glob("*.md"),
    *(path for folder, pattern in FOLDERS.items() for path in (ROOT / folder).rglob(pattern) if path.is_file()),
]


def tells(path: Path) -> list[str]:
    """What stands behind each `pip install` in a file, up to the end of the line."""
    return re.findall(r"pip install (.+)", path.read_text(errors="replace"))


def test_nothing_tells_to_install_the_package_by_its_name_before_it_is_on_an_index() -> None:
    """After the first release these texts may name the extras: `rebound-celery[demo]`."""
    assert [path.name for path in TEXTS for told in tells(path) if "rebound-celery" in told] == []


def test_every_extra_that_is_named_exists() -> None:
    named = {extra for path in TEXTS for told in tells(path) for extra in re.findall(r'-e "\.\[(\w+)\]"', told)}

    assert {"demo", "test"} <= named <= set(EXTRAS)


@pytest.mark.parametrize(("extra", "told"), [("demo", server.INSTALL), ("codecs", codecs.INSTALL)])
def test_an_error_names_all_packages_of_its_extra(extra: str, told: str) -> None:
    words = shlex.split(told)

    assert words[:2] == ["pip", "install"]
    named, needed = (
        {(one.name, frozenset(one.extras)) for one in map(Requirement, texts)} for texts in (words[2:], EXTRAS[extra])
    )
    assert named == needed


def test_the_docstring_of_an_error_says_the_same() -> None:
    assert server.INSTALL in str(server.MissingExtraError.__doc__)


def test_the_pythons_of_the_classifiers_are_those_of_the_readme() -> None:
    prefix = "Programming Language :: Python :: 3."
    versions = [text.removeprefix(prefix) for text in PROJECT["classifiers"] if text.startswith(prefix)]

    assert f">=3.{versions[0]}" == PROJECT["requires-python"]
    assert f"Python 3.{versions[0]} to 3.{versions[-1]}" in (ROOT / "README.md").read_text()


def test_no_page_on_the_web_is_named_that_does_not_exist() -> None:
    assert "urls" not in PROJECT
