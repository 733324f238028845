"""The package's sources, parsed once for all rules."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGE = "rebound_celery"


@dataclass(frozen=True)
class Violation:
    """One place in the sources that breaks a rule."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


@dataclass(frozen=True)
class Import:
    """One import: `module` is the deepest module that it names, and `name` what is taken of that module."""

    module: str
    name: str | None
    line: int
    is_own: bool


class Module:
    """One Python file of the package."""

    def __init__(self, root: Path, path: Path) -> None:
        relative = path.relative_to(root)
        self.path = relative.as_posix()
        #: The module's dotted name inside the package; the empty text for the package itself.
        self.name = ".".join(relative.with_suffix("").parts).removesuffix("__init__").rstrip(".")
        #: The folder directly in the package, or the name of a module that lies there.
        self.part = relative.parts[0].removesuffix(".py")
        self.source = path.read_text()
        self.tree = ast.parse(self.source, str(path))
        #: The dotted name of the package that relative imports start from.
        self.package = ".".join(relative.parent.parts)

    @cached_property
    def comments(self) -> dict[int, str]:
        """Line number -> comment."""
        tokens = tokenize.generate_tokens(io.StringIO(self.source).readline)
        return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}

    def comment_of(self, node: ast.AST) -> str:
        """The comments on the lines of an expression."""
        first, last = getattr(node, "lineno", 0), getattr(node, "end_lineno", 0)
        return " ".join(self.comments.get(line, "") for line in range(first, last + 1))

    @cached_property
    def texts(self) -> list[tuple[str, int]]:
        """Each string constant with its line, parts of f-strings and bytes too, docstrings not."""
        docstrings = {
            id(node.value)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Constant) and id(node) not in docstrings:
                if isinstance(node.value, str):
                    found.append((node.value, node.lineno))
                elif isinstance(node.value, bytes):
                    found.append((node.value.decode("latin-1"), node.lineno))
        return found


class Tree:
    """All sources of the package below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.modules = [Module(root, path) for path in sorted(root.rglob("*.py"))]
        #: Lua file -> its text.
        self.scripts = {path.relative_to(root).as_posix(): path.read_text() for path in sorted(root.rglob("*.lua"))}
        self._names = {module.name for module in self.modules}

    def imports(self, module: Module) -> Iterator[Import]:
        """What a module imports, at its top, in a function or for the type checker only."""
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield self._resolve(alias.name, None, node.lineno)
            elif isinstance(node, ast.ImportFrom):
                base = self._base(module, node)
                for alias in node.names:
                    yield self._resolve(base, alias.name, node.lineno)

    @staticmethod
    def _base(module: Module, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = [PACKAGE, *filter(None, module.package.split("."))]
        return ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])

    def _resolve(self, base: str, name: str | None, line: int) -> Import:
        if base != PACKAGE and not base.startswith(f"{PACKAGE}."):
            return Import(base, name, line, is_own=False)
        inside = base.removeprefix(PACKAGE).lstrip(".")
        if name is not None and f"{inside}.{name}".lstrip(".") in self._names:
            inside, name = f"{inside}.{name}".lstrip("."), None
        return Import(inside, name, line, is_own=True)
