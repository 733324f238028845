"""The upstream code that `rebound_celery/compat/patches.py` names, and its recorded digests.

After a new release of celery, kombu or kafka-python, the test of the patches names the code that has changed. Read that
code, correct the patch if it no longer fits, widen `TESTED` in `rebound_celery/compat/patches.py`, and record the new
digests and the page that shows the table:

    python -m tests.patched_code --record
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.version import Version

from rebound_celery.compat.patches import PATCHES, TESTED, Patch

RECORD = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "patches.md"

Digests = Mapping[str, str]


class NoSuchCodeError(LookupError):
    """The installed package has no code of this name."""


def source_of(target: str) -> str:
    """The text of a target as it stands in the package's file, whatever a patch has put in its place meanwhile."""
    module, _, qualified = target.partition(":")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise NoSuchCodeError(f"there is no module {module}")
    text = Path(spec.origin).read_text()
    body: list[ast.stmt] = ast.parse(text).body
    nodes: list[ast.AST] = []
    for name in qualified.split("."):
        nodes = [node for node in _definitions(body) if _defines(node, name)]
        if not nodes:
            raise NoSuchCodeError(f"{module} has no {qualified}")
        first = nodes[0]
        body = first.body if isinstance(first, ast.ClassDef) else []
    lines = text.splitlines()
    return "\n".join(textwrap.dedent("\n".join(lines[_first_line(node) - 1 : node.end_lineno])) for node in nodes)


def _definitions(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """What a module or a class defines; also what the methods of a class assign to `self`."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try):
            yield from _definitions(statement.body)
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from (
                node
                for node in ast.walk(statement)
                if isinstance(node, ast.Assign | ast.AnnAssign) and any(_is_of_self(place) for place in _places(node))
            )


def _places(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def _is_of_self(place: ast.expr) -> bool:
    return isinstance(place, ast.Attribute) and isinstance(place.value, ast.Name) and place.value.id == "self"


def _defines(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name == name
    return any(
        (isinstance(place, ast.Name) and place.id == name) or (isinstance(place, ast.Attribute) and place.attr == name)
        for place in _places(node)
    )


def _first_line(node: ast.AST) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def digest_of(target: str) -> str:
    """A digest of a target's code without its comments, its empty lines and the spaces at the ends of its lines."""
    lines = [line.rstrip() for line in source_of(target).splitlines()]
    code = "\n".join(line for line in lines if line and not line.lstrip().startswith("#"))
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def patches_of(package: str) -> list[Patch]:
    return [patch for patch in PATCHES if patch.package == package]


def recorded(package: str, record: Mapping[str, Mapping[str, Digests]]) -> tuple[str, Digests]:
    """The record of the installed version; without one, that of the newest version which is recorded."""
    installed, versions = importlib.metadata.version(package), record[package]
    chosen = installed if installed in versions else max(versions, key=Version)
    return chosen, versions[chosen]


def changes(package: str, record: Mapping[str, Mapping[str, Digests]]) -> list[str]:
    """What has changed in the installed package since its record; a text for each target."""
    version, digests = recorded(package, record)
    installed = importlib.metadata.version(package)
    found = []
    for patch in patches_of(package):
        where = f"{patch.target} ({patch.kind} by rebound_celery/{patch.home})"
        try:
            digest = digest_of(patch.target)
        except NoSuchCodeError as error:
            found.append(f"{where}: {package} {installed} has no such code: {error}")
            continue
        if patch.target not in digests:
            found.append(f"{where} has no record; run `python -m tests.patched_code --record`")
        elif digest != digests[patch.target]:
            found.append(
                f"{where} is different in {package} {installed} from {package} {version}. Read the new code, mend the "
                "patch if it no longer fits, and run `python -m tests.patched_code --record`"
            )
    return found


def read_record() -> dict[str, dict[str, dict[str, str]]]:
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def write_record() -> None:
    """Record the installed versions, beside those that are recorded already."""
    record = read_record()
    for package in TESTED:
        digests = {patch.target: digest_of(patch.target) for patch in patches_of(package)}
        record.setdefault(package, {})[importlib.metadata.version(package)] = dict(sorted(digests.items()))
    RECORD.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


def rows_of(package: str) -> list[str]:
    """The rows of a package in the table of docs/patches.md."""
    return [f"| `{patch.target}` | {patch.kind} | `{patch.home}` | {patch.reason} |" for patch in patches_of(package)]


def page() -> str:
    """The text of docs/patches.md: its introduction as it stands, and the tables as they should be."""
    introduction = PAGE.read_text().partition("\n## ")[0].rstrip()
    head = "| upstream code | how | by | why |\n|---|---|---|---|\n"
    tables = [f"## {package} {TESTED[package]}\n\n{head}" + "\n".join(rows_of(package)) for package in TESTED]
    return "\n\n".join([introduction, *tables]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare or record the upstream code that rebound patches.")
    parser.add_argument(
        "--record", action="store_true", help="record the installed versions, and write docs/patches.md"
    )
    if parser.parse_args().record:
        write_record()
        PAGE.write_text(page())
    found = [text for package in TESTED for text in changes(package, read_record())]
    print("\n".join(found) or "nothing has changed")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
