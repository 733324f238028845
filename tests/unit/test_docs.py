"""The documentation is true: its paths exist, its commands can be parsed, and its tables match the code."""

from __future__ import annotations

import importlib.util
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebound_celery.schedule.store.keys import QueueKeys

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()

#: What is a path in backquotes: a name with one of these endings, or a folder.
PATH = re.compile(r"`([\w.*-]+(?:/[\w.*-]+)*(?:\.(?:py|lua|md|json|toml|yml|zdict)|/))`")
LINK = re.compile(r"\]\(([\w./-]+)\)")
#: What appears only when somebody builds the package.
BUILT = {"dist/"}


def paths_of(page: Path) -> Iterator[str]:
    text = page.read_text()
    yield from (path for path in PATH.findall(text) if "*" not in path)
    yield from LINK.findall(text)


def exists(path: str, page: Path) -> bool:
    """Whether the repository has this path: from its root, beside the page, or from the package."""
    if any((base / path).exists() for base in (ROOT, page.parent, ROOT / "rebound_celery")):
        return True
    # A row of a table names its part in another column.
    return any(True for _ in (ROOT / "rebound_celery").rglob(path.rstrip("/")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    missing = {path for path in paths_of(page) if path not in BUILT and not exists(path, page)}

    assert not missing


def test_a_path_that_does_not_exist_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("See `delivery/no_such_file.py`, [here](no/such/page.md), `delivery/` and `x.y.z`.")

    assert [path for path in paths_of(page) if not exists(path, page)] == [
        "delivery/no_such_file.py",
        "no/such/page.md",
    ]


def keys_in_the_code() -> dict[str, str]:
    """Each key of a queue, without the part that all share, and its type in Redis."""
    keys = QueueKeys("", "QUEUE", (0,))
    found = {}
    for name, made in vars(QueueKeys).items():
        kind = (inspect.getdoc(made) or "").split(" ")[0].rstrip(":")
        if kind not in ("HASH", "ZSET", "LIST", "STRING", "SET"):
            continue
        key = getattr(keys, name)
        if callable(key):
            (parameter,) = inspect.signature(key).parameters
            key = key({"reference": "R<lane>", "rank": "R"}.get(parameter, f"<{parameter}>")).replace("R", "<rank>")
        found[key.partition("}:")[2]] = kind
    return found


def test_the_table_of_keys_is_that_of_the_code() -> None:
    section = ARCHITECTURE.partition("## The keys in Redis")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \|", section, re.MULTILINE)

    assert dict(rows) == keys_in_the_code()
    assert f"`{QueueKeys('', 'queue', (0,)).messages.removesuffix('messages')}`" in section


def counters_in_the_scripts() -> set[str]:
    """Each field that a script increments in the hash of counters."""
    found = set()
    for script in (ROOT / "rebound_celery" / "schedule" / "store" / "scripts").glob("*.lua"):
        text = script.read_text()
        for call in re.findall(r"'HINCRBY', (?:KEYS\[\d+\]|stats), (.*)", text):
            found.update(re.findall(r"'(\w+)'", call))
        # Counts that are collected first and added one by one.
        for table in re.findall(r"local counts = \{(.*?)\}", text):
            found.update(re.findall(r"(\w+) =", table))
    return found


def test_the_table_of_counters_is_that_of_the_scripts() -> None:
    section = ARCHITECTURE.partition("| counter | counts |")[2].partition("\n## ")[0]

    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == counters_in_the_scripts()


def test_every_part_and_module_at_the_top_is_in_the_architecture() -> None:
    package = ROOT / "rebound_celery"
    for path in sorted(package.iterdir()):
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"`{path.name}/" in ARCHITECTURE, path.name


def commands_of(text: str) -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines() if line.strip()]


def test_the_commands_of_the_contributing_page_name_what_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    commands = commands_of(CONTRIBUTING)

    assert commands
    for command in commands:
        for module in re.findall(r"python -m ([\w.]+)", command):
            assert importlib.util.find_spec(module) is not None, command
        for path in re.findall(r"\btests/[\w/.]+", command):
            assert (ROOT / path).exists(), command
        for extra in re.findall(r'pip install -e "\.\[(\w+)\]"', command):
            assert extra in extras, command


@pytest.mark.parametrize("command", ["ruff check .", "ruff format --check .", "mypy"])
def test_ci_runs_the_checks_of_the_contributing_page(command: str) -> None:
    assert command in commands_of(CONTRIBUTING)
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_version_to_release_is_in_the_changelog() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text()

    assert f"## [{version}]" in changelog or "## [Unreleased]" in changelog
