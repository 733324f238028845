"""The architecture rules. Each is a function that reads the sources and returns the violations.

`tables.py` holds the tables that the rules use; `docs/architecture.md` explains the packages.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase

from rebound_celery.schedule.store.keys import QueueKeys

from .tables import ALLOWED, ENVIRONMENT_READERS, FOREIGN, FOREIGN_OWNERS, LAYERS, MAX_LINES, MAX_PUBLIC_NAMES
from .tree import Import, Module, Tree, Violation

Rule = Callable[[Tree], list[Violation]]

#: A comment that says whose object a probe or a private name is of, such as "# of celery".
_OWNER = re.compile(r"\bof (" + "|".join(map(re.escape, FOREIGN_OWNERS)) + r")\b", re.IGNORECASE)

#: The part that only handles objects of upstream packages, each listed in docs/patches.md.
_PATCH_PART = "compat"

_HEADER_HOME = "message/headers.py"
_HEADER_FORM = re.compile(r"rebound-[a-z][a-z0-9-]*")
#: A name of the package, not of a header.
_DISTRIBUTION = "rebound-celery"

#: The parts that see what handlers and destinations raise.
_HANDLING_PARTS = ("consumer", "delivery", "destinations")

_KEY_HOME = "schedule/store/keys.py"
_CLOCK_HOME = "clock.py"


def arrows(tree: Tree) -> list[Violation]:
    """A part imports only what `ALLOWED` names."""
    found = []
    for module in tree.modules:
        allowed = ALLOWED.get(module.part)
        if allowed is None:
            found.append(
                Violation(
                    module.path,
                    1,
                    f"the part {module.part!r} is not in the table of imports: see tests/architecture/tables.py",
                )
            )
            continue
        found += [
            Violation(module.path, imported.line, f"{module.part} may not import {_full(imported)}")
            for imported in _own_imports(tree, module)
            if imported.module.split(".")[0] != module.part and not _matches(imported.module, allowed)
        ]
    return found


def layers(tree: Tree) -> list[Violation]:
    """In the schedule, the worker's side imports the transport, the transport imports the store, never the reverse."""
    found = []
    for module in tree.modules:
        layer = ".".join(module.name.split(".")[:2])
        if layer not in LAYERS:
            continue
        found += [
            Violation(module.path, imported.line, f"{layer} may not import {_full(imported)}")
            for imported in _own_imports(tree, module)
            if imported.module.startswith("schedule.")
            and ".".join(imported.module.split(".")[:2]) != layer
            and not _matches(imported.module, LAYERS[layer])
        ]
    return found


def foreign_packages(tree: Tree) -> list[Violation]:
    """A client library is imported only where `FOREIGN` names the module."""
    return [
        Violation(module.path, imported.line, f"{module.name or 'the package'} may not import {imported.module}")
        for module in tree.modules
        for imported in tree.imports(module)
        if not imported.is_own
        and (homes := FOREIGN.get(imported.module.split(".")[0])) is not None
        and not _matches(module.name, homes)
    ]


def probes(tree: Tree) -> list[Violation]:
    """Nobody finds out by `getattr(x, "name", default)` or `hasattr` what another part's object can do.

    A probe of a foreign object is allowed with a comment on its line that names the owner, such as `# of celery`.
    """
    found = []
    for module in tree.modules:
        if module.part == _PATCH_PART:
            continue
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            is_probe = (node.func.id == "getattr" and len(node.args) == 3) or node.func.id == "hasattr"
            if is_probe and not _OWNER.search(module.comment_of(node)):
                what = f'{node.func.id} asks what an object can do: type it, or name its foreign owner ("# of celery")'
                found.append(Violation(module.path, node.lineno, what))
    return found


def private_names(tree: Tree) -> list[Violation]:
    """Nobody uses a private name of another part; one of an upstream package needs a comment that names it."""
    found = []
    for module in tree.modules:
        if module.part == _PATCH_PART:
            continue
        own = _defined_names(module)
        for node in ast.walk(module.tree):
            if (
                isinstance(node, ast.Attribute)
                and node.attr.startswith("_")
                and not node.attr.endswith("__")
                and not _is_self(node.value)
                and node.attr not in own
                and not _OWNER.search(module.comment_of(node))
            ):
                what = f'{node.attr} is private; if it is upstream\'s, say so on that line ("# of kombu")'
                found.append(Violation(module.path, node.lineno, what))
    return found


def header_names(tree: Tree) -> list[Violation]:
    """A header's name is spelled in message/headers.py only, and no other one in two parts.

    A constant NAME_HEADER of another module needs an entry among the exceptions, which says why it is none of those.
    """
    known = {text for module in tree.modules if module.path == _HEADER_HOME for text, _ in module.texts}
    parts: defaultdict[str, set[str]] = defaultdict(set)
    for module in tree.modules:
        for text, _ in module.texts:
            parts[text].add(module.part)
    found = []
    for module in tree.modules:
        if module.path == _HEADER_HOME:
            continue
        named = _named_header(module)
        for text, line in module.texts:
            if not _HEADER_FORM.fullmatch(text) or text == _DISTRIBUTION:
                continue
            if text in known:
                found.append(Violation(module.path, line, f"{text!r} is spelled in {_HEADER_HOME}: import it"))
            elif len(parts[text]) > 1:
                found.append(Violation(module.path, line, f"{text!r} is spelled in {', '.join(sorted(parts[text]))}"))
            elif line in named:
                found.append(Violation(module.path, line, f"the header {text!r} is declared outside {_HEADER_HOME}"))
    return found


def clock_only(tree: Tree) -> list[Violation]:
    """Only clock.py asks for the time; everyone else is given a Clock."""
    found = []
    for module in tree.modules:
        if module.path == _CLOCK_HOME:
            continue
        found += [
            Violation(module.path, imported.line, "imports time: take a Clock")
            for imported in tree.imports(module)
            if not imported.is_own and imported.module == "time"
        ]
        found += [
            Violation(module.path, node.lineno, f"{node.func.attr}() reads the clock: take a Clock")
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("now", "utcnow", "today")
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in ("datetime", "date")
        ]
    return found


def redis_keys(tree: Tree) -> list[Violation]:
    """Only schedule/store/keys.py spells a key of Redis, in Python and in Lua."""
    start = key_start()
    found = []
    for module in tree.modules:
        if module.path != _KEY_HOME:
            found += [
                Violation(module.path, line, f"{text!r} looks like a key of Redis: {_KEY_HOME} spells those")
                for text, line in module.texts
                if _looks_like_key(text, start)
            ]
    for path, text in tree.scripts.items():
        found += [
            Violation(path, number, f"{line.strip()!r} spells a key of Redis: it belongs into KEYS")
            for number, line in enumerate(text.splitlines(), 1)
            if _looks_like_key(line.split("--")[0], start, anywhere=True)
        ]
    return found


def key_start() -> str:
    """The text with which every real key begins, up to the queue's name, such as `rebound:{`."""
    given = {"prefix": "", "queue": "QUEUE", "steps": (0, 3)}
    keys = QueueKeys(**{name: given[name] for name in inspect.signature(QueueKeys).parameters if name in given})
    texts = [
        value
        for name in dir(QueueKeys)
        if not name.startswith("_") and isinstance(value := getattr(keys, name), str) and "QUEUE}" in value
    ]
    starts = {text[: text.index("QUEUE")] for text in texts}
    assert len(starts) == 1, f"the keys of one queue begin differently: {starts}"
    return starts.pop()


def size(tree: Tree) -> list[Violation]:
    """A module is read in one sitting."""
    texts = {module.path: module.source for module in tree.modules} | tree.scripts
    return [
        Violation(path, MAX_LINES + 1, f"{lines} lines: more than {MAX_LINES}")
        for path, text in texts.items()
        if (lines := len(text.splitlines())) > MAX_LINES
    ]


def environment(tree: Tree) -> list[Violation]:
    """Only the configuration, the demo and the embedded servers read the process' environment."""
    found = []
    for module in tree.modules:
        if module.part in ENVIRONMENT_READERS:
            continue
        for node in ast.walk(module.tree):
            reads = isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv")
            takes = (
                isinstance(node, ast.ImportFrom) and node.module == "os" and any("env" in a.name for a in node.names)
            )
            if reads or takes:
                found.append(Violation(module.path, node.lineno, "reads the environment: take a setting"))
    return found


def public_face(tree: Tree) -> list[Violation]:
    """The package itself offers few names and holds no logic."""
    found = []
    for module in tree.modules:
        if module.path != "__init__.py":
            continue
        for node in module.tree.body:
            if not isinstance(node, ast.Expr | ast.ImportFrom | ast.Assign | ast.FunctionDef):
                found.append(Violation(module.path, node.lineno, f"{type(node).__name__} is logic"))
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.List) and _assigns(node, "__all__"):
                names = len(node.value.elts)
                if names > MAX_PUBLIC_NAMES:
                    found.append(Violation(module.path, node.lineno, f"{names} public names: too many to learn"))
    return found


def stack_traces(tree: Tree) -> list[Violation]:
    """Where records and messages are handled, an exception is logged with `Redactor.log`: its text may be secret."""
    found = []
    for module in tree.modules:
        if module.part not in _HANDLING_PARTS:
            continue
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Call):
                continue
            named = {keyword.arg for keyword in node.keywords}
            is_logged = ast.unparse(node.func) == "logger.exception"
            if is_logged or "exc_info" in named:
                found.append(Violation(module.path, node.lineno, "log the exception with Redactor.log"))
    return found


RULES: Mapping[str, Rule] = {
    rule.__name__: rule
    for rule in (
        arrows,
        layers,
        foreign_packages,
        probes,
        private_names,
        header_names,
        clock_only,
        redis_keys,
        size,
        environment,
        public_face,
        stack_traces,
    )
}


def _own_imports(tree: Tree, module: Module) -> Iterator[Import]:
    return (imported for imported in tree.imports(module) if imported.is_own)


def _full(imported: Import) -> str:
    return ".".join(filter(None, [imported.module, imported.name]))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a module is one of these, or lies inside one that ends with `.*`."""
    return any(
        name == pattern or fnmatchcase(name, pattern) or (pattern.endswith(".*") and name == pattern[:-2])
        for pattern in patterns
    )


def _is_self(node: ast.expr) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super":
        return True
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _defined_names(module: Module) -> set[str]:
    """Names that the module itself defines: functions, classes, variables, and attributes of `self`."""
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            found.add(node.attr)
    return found


def _named_header(module: Module) -> set[int]:
    """The lines of constants whose name ends with _HEADER."""
    return {
        node.value.lineno
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and any(isinstance(target, ast.Name) and target.id.endswith("_HEADER") for target in node.targets)
    }


def _looks_like_key(text: str, start: str, *, anywhere: bool = False) -> bool:
    begins = start.rstrip("{")
    return "{rebound" in text or (begins in text if anywhere else text.startswith(begins) or start in text)


def _assigns(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
