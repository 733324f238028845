"""Every patch of celery, kombu and kafka-python is declared, documented, and fits the code that is installed."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import json
import logging
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import rebound_celery
from rebound_celery.compat import versions
from rebound_celery.compat.patches import PATCHES, TESTED
from tests import patched_code
from tests.architecture.tree import Tree

ROOT = Path(rebound_celery.__file__).parent
UPSTREAM = ("celery", "kombu", "kafka")
TREE = Tree(ROOT)
PROJECT = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
#: Package -> the versions that the package requires.
ALLOWED = {Requirement(text).name: Requirement(text).specifier for text in PROJECT["dependencies"]}
DECLARED = {(patch.home, patch.name) for patch in PATCHES}


@pytest.mark.parametrize("package", TESTED)
def test_the_patched_code_is_what_the_patches_were_written_for(package: str) -> None:
    changes = patched_code.changes(package, patched_code.read_record())

    assert not changes, "\n".join(changes)


def test_changed_code_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    record = patched_code.read_record()
    package, target = "kombu", "kombu.transport.redis:Channel._put"
    version = importlib.metadata.version(package)
    record[package][version][target] = "0" * 16

    (change,) = patched_code.changes(package, record)

    assert target in change
    assert "python -m tests.patched_code --record" in change


def test_code_that_is_gone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = patched_code.Patch("kombu", "kombu.transport.redis:Channel._gone", "used", "app.py", "A test.")
    monkeypatch.setattr(patched_code, "PATCHES", (gone,))

    (change,) = patched_code.changes("kombu", patched_code.read_record())

    assert "has no such code" in change


def test_the_digest_looks_at_code_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    forms = {
        "upstream_a": "class A:\n    def f(self):\n        return 1\n",
        "upstream_b": "X = 1\n\n\nclass A:\n    # why\n    def f(self):\n\n        # how\n        return 1\n",
        "upstream_c": "class A:\n    def f(self):\n        return 2\n",
    }
    for name, text in forms.items():
        (tmp_path / f"{name}.py").write_text(text)
    importlib.invalidate_caches()
    a, b, c = (patched_code.digest_of(f"{name}:A.f") for name in forms)

    assert a == b != c


def test_a_version_without_a_record_is_compared_with_the_newest_record() -> None:
    record = {"kombu": {"5.6.0": {}, "5.10.0": {"x": "y"}}}

    assert patched_code.recorded("kombu", record) == ("5.10.0", {"x": "y"})


def overrides() -> Iterator[tuple[str, str, str]]:
    """Each private name of an upstream class that a class of ours has too: our module's path, our class, the name."""
    for module in pkgutil.walk_packages(rebound_celery.__path__, "rebound_celery."):
        for name, found in vars(importlib.import_module(module.name)).items():
            if not inspect.isclass(found) or found.__module__ != module.name:
                continue
            path = str(Path(inspect.getfile(found)).relative_to(ROOT))
            bases = [base for base in found.__mro__ if base.__module__.split(".")[0] in UPSTREAM]
            for own in vars(found):
                is_private = own.startswith("_") and not own.startswith(("__", "_abc_"))
                if is_private and any(own in vars(base) for base in bases):
                    yield path, name, own


def test_every_private_name_that_is_overridden_is_declared() -> None:
    undeclared = [found for found in overrides() if (found[0], found[2]) not in DECLARED]

    assert not undeclared, f"declare these in rebound_celery/compat/patches.py: {undeclared}"


def inherited_uses() -> Iterator[tuple[str, str]]:
    """Each private name that one of our classes uses of itself, and has from an upstream class."""
    ours: list[tuple[str, ast.ClassDef, type]] = []
    for module in TREE.modules:
        loaded = importlib.import_module(f"rebound_celery.{module.name}".rstrip("."))
        for node in ast.walk(module.tree):
            found = getattr(loaded, node.name, None) if isinstance(node, ast.ClassDef) else None
            if inspect.isclass(found) and upstream_names(found):
                ours.append((module.path, node, found))
    for path, node, found in ours:
        own = set().union(*(names_made_in(body) for _, body, kind in ours if kind in found.__mro__))
        own -= upstream_names(found)
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and is_private_of_self(part) and part.attr not in own:
                yield path, part.attr


def upstream_names(kind: type) -> set[str]:
    """What the upstream classes among the bases of a class have."""
    bases = [base for base in kind.__mro__ if base.__module__.split(".")[0] in UPSTREAM]
    return {name for base in bases for name in vars(base)}


def names_made_in(body: ast.ClassDef) -> set[str]:
    """The methods of a class, its variables, and what it assigns to itself."""
    made = set()
    for part in ast.walk(body):
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            made.add(part.name)
        elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            made.add(part.id)
        elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
            made.add(part.attr)
    return made


def is_private_of_self(part: ast.Attribute) -> bool:
    return isinstance(part.value, ast.Name) and part.value.id == "self" and bool(re.match(r"_[^_]", part.attr))


def marked_uses() -> Iterator[tuple[str, str]]:
    """Each private name that is used with a comment which says that it is of a patched package."""
    owner = re.compile(r"\bof (" + "|".join(TESTED) + r")\b", re.IGNORECASE)
    for module in TREE.modules:
        for node in ast.walk(module.tree):
            if (
                isinstance(node, ast.Attribute)
                and re.match(r"_[^_]", node.attr)
                and not is_private_of_self(node)
                and owner.search(module.comment_of(node))
            ):
                yield module.path, node.attr


def test_every_private_name_that_is_used_is_declared() -> None:
    declared_anywhere = {name for _, name in DECLARED}
    undeclared = {found for found in [*inherited_uses(), *marked_uses()] if found[1] not in declared_anywhere}

    assert not undeclared, f"declare these in rebound_celery/compat/patches.py: {sorted(undeclared)}"


def test_every_row_names_code_that_its_home_touches() -> None:
    for patch in PATCHES:
        home = ROOT / patch.home
        assert home.is_file(), patch
        assert patch.name in home.read_text(), patch
        assert patch.package in TESTED
        assert patch.reason.endswith("."), patch


def test_no_row_is_there_twice() -> None:
    assert len({(patch.target, patch.home) for patch in PATCHES}) == len(PATCHES)


def test_the_page_shows_the_table() -> None:
    assert patched_code.PAGE.read_text() == patched_code.page(), "run `python -m tests.patched_code --record`"


def test_the_installed_versions_are_tested_ones() -> None:
    assert versions.untested() == []


def test_what_was_tested_can_be_installed() -> None:
    """The requirements of the package allow the tested versions."""
    for package in TESTED:
        assert importlib.metadata.version(package) in ALLOWED[package]


def test_a_later_celery_may_be_installed_and_is_then_warned_of() -> None:
    """No upper bound of ours keeps an app from updating Celery; see `versions.py`."""
    for package in ("celery", "kombu"):
        assert ALLOWED[package].contains("99.0")
        assert not TESTED[package].contains("99.0")


def test_an_untested_version_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(versions, "_seen", set())
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "6.0.0" if package == "kombu" else "5.7.0")
    with caplog.at_level(logging.WARNING):
        versions.warn_of_untested("celery", "kombu")
        versions.warn_of_untested("celery", "kombu")

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    text = record.getMessage()
    assert "kombu 6.0.0" in text
    assert str(TESTED["kombu"]) in text
    assert "docs/patches.md" in text
    assert f'pip install "kombu{TESTED["kombu"]}"' in text


def test_the_record_holds_no_digest_of_what_is_not_declared() -> None:
    for package, by_version in json.loads(patched_code.RECORD.read_text()).items():
        assert set(by_version[importlib.metadata.version(package)]) == {
            patch.target for patch in PATCHES if patch.package == package
        }
