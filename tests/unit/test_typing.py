"""The public API is typed: examples of its use pass under mypy and pyright, and wrong uses do not."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import rebound_celery

ROOT = Path(__file__).parents[2]
API = ROOT / "tests" / "typing" / "api.py"
WRONG = ROOT / "tests" / "typing" / "wrong.py"

#: What a checker reports of a file: line number -> message.
Report = dict[int, str]


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy(path: Path) -> Report:
    pytest.importorskip("mypy")
    output = run("mypy", "--strict", "--follow-imports=silent", "--no-error-summary", str(path.relative_to(ROOT)))
    found = re.findall(rf"^{re.escape(str(path.relative_to(ROOT)))}:(\d+): error: (.*)$", output, re.MULTILINE)
    assert bool(found) == bool(output.strip()), output
    return {int(line): text for line, text in found}


def pyright(path: Path) -> Report:
    pytest.importorskip("pyright")
    output = json.loads(run("pyright", "--outputjson", "--pythonpath", sys.executable, str(path)))
    return {
        found["range"]["start"]["line"] + 1: found["message"]
        for found in output["generalDiagnostics"]
        if found["severity"] == "error"
    }


CHECKERS = pytest.mark.parametrize("check", [mypy, pyright])


@CHECKERS
def test_the_examples_of_the_public_api_pass(check: Callable[[Path], Report]) -> None:
    assert check(API) == {}


@CHECKERS
def test_wrong_uses_are_errors_and_nothing_else_is(check: Callable[[Path], Report]) -> None:
    expected = {
        number for number, line in enumerate(WRONG.read_text().splitlines(), 1) if line.endswith("# expect-error")
    }

    reported = check(WRONG)

    assert expected - set(reported) == set(), "not reported"
    assert {line: reported[line] for line in set(reported) - expected} == {}, "reported, and right"


def test_the_examples_use_every_public_name() -> None:
    used = {node.id for node in ast.walk(ast.parse(API.read_text())) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(ast.parse(API.read_text())) if isinstance(node, ast.Attribute)}

    assert set(rebound_celery.__all__) - used == set()
