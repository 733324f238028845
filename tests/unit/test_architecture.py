"""The house rules of design.md section 3, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import rebound_celery

ROOT = Path(rebound_celery.__file__).parent
STAGES = {"consumer", "schedule", "delivery"}
#: What every part may import, beside itself.
COMMON = {"caching", "clock", "config", "errors", "health", "message", "policy", "registry", "stopping"}
ALLOWED = {
    **dict.fromkeys(COMMON, COMMON),
    "compat": set(),
    "consumer": COMMON | {"compat"},
    "schedule": {"errors", "config", "health", "stopping"},  # usable alone: nothing of Kafka, retries or messages
    "delivery": COMMON | {"destinations"},
    "destinations": COMMON,
    "embedded": {"errors"},
    "requests": COMMON,
}
#: These put the parts together.
COMPOSERS = {"__init__", "app", "operate", "demo", "testing"}
SOURCES = {path: ast.parse(path.read_text(), str(path)) for path in sorted(ROOT.rglob("*.py"))}


def part_of(path: Path) -> str:
    """The folder directly in the package, or the module's name."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Full names of what a module imports, at its top or in a function, relative imports resolved."""
    package = ("rebound_celery", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(SOURCES[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def parts_imported(path: Path) -> set[str]:
    names = [name.split(".") for name in imports(path)]
    return {name[1] for name in names if name[0] == "rebound_celery" and len(name) > 1} - {part_of(path)}


def where(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [path for path in SOURCES if part_of(path) not in COMPOSERS], ids=where)
def test_arrows_between_the_parts_run_only_where_the_design_draws_them(path: Path) -> None:
    part = part_of(path)

    assert part in ALLOWED, f"{part} has no place in the house yet: say here what it may import"
    assert parts_imported(path) <= ALLOWED[part]


def test_stages_do_not_import_each_other_nor_does_what_they_share_import_them() -> None:
    """The table above says so; this holds the table."""
    assert not any(ALLOWED[stage] & STAGES for stage in STAGES)
    assert not any(ALLOWED[common] & (STAGES | COMPOSERS) for common in COMMON | {"destinations"})


def test_only_the_config_and_the_demo_read_the_environment() -> None:
    readers = {
        part_of(path)
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv"))
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and any("env" in a.name for a in node.names))
    }

    assert readers <= {"config", "demo", "embedded"}


def test_a_redis_key_is_spelled_in_one_module_only() -> None:
    spellers = {
        where(path)
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("{rebound")
    }

    assert spellers <= {"destinations/dead_set.py"} or spellers <= {"schedule/keys.py"}


def test_kafka_and_http_clients_are_imported_only_where_they_are_used() -> None:
    users: dict[str, set[str]] = {"kafka": set(), "urllib3": set()}
    for path in SOURCES:
        for name in imports(path):
            if name.split(".")[0] in users:
                users[name.split(".")[0]].add(part_of(path))

    assert users["kafka"] <= {"compat", "consumer", "destinations", "embedded", "operate", "demo", "testing"}
    assert users["urllib3"] <= {"destinations", "operate", "demo", "testing"}


def test_the_public_names_exist_and_are_few() -> None:
    assert len(rebound_celery.__all__) == len(set(rebound_celery.__all__)) <= 16
    assert all(hasattr(rebound_celery, name) for name in rebound_celery.__all__)


def test_the_public_face_holds_no_logic() -> None:
    kinds = {type(node) for node in SOURCES[ROOT / "__init__.py"].body}

    assert kinds <= {ast.Expr, ast.ImportFrom, ast.Assign, ast.FunctionDef}
