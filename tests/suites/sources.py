"""Prepares a cache folder for the suites: their sources from the package registry, and an environment for them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import venv
from importlib import metadata
from pathlib import Path

# Requirements of the suites without which the tests on Redis would be skipped.
_NEEDED = (
    *("kombu[redis,msgpack]", "pytest", "pytest-celery", "pytest-timeout", "cryptography", "django", "psutil"),
    *("pydantic", "python-dateutil", "sqlalchemy"),
)


def fetch_suite(package: str, cache: Path, side: str) -> Path:
    """Make a new folder for one side, with the tests of the installed version of `package`. Return its path.

    Only `t/` and the settings of pytest are unpacked, because the tests must run on the installed code.
    """
    version = metadata.version(package)
    cache.mkdir(parents=True, exist_ok=True)
    archive = cache / f"{package}-{version}.tar.gz"
    if not archive.exists():
        source = ["--no-binary", package, "--no-deps", f"{package}=={version}"]
        _pip(sys.executable, "download", "--dest", str(cache), *source)
    folder = cache / f"{package}-{side}"
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(cache / f"{package}-{side}", members=_tests_of(tar), filter="data")
    return folder / f"{package}-{version}"


def _tests_of(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    kept = {"t", "pyproject.toml", "setup.cfg"}
    return [member for member in tar if len(parts := Path(member.name).parts) > 1 and parts[1] in kept]


def make_environment(cache: Path) -> Path:
    """Make a virtual environment for the suites and return its Python. It has the package versions installed here."""
    folder = cache / "venv"
    python = folder / "bin" / "python"
    installed = sorted(f"{each.name}=={each.version}" for each in metadata.distributions())
    # The schedule itself is imported from the checkout.
    needed = [*_NEEDED, *(each for each in metadata.requires("rebound-celery") or () if "extra ==" not in each)]
    wanted = "\n".join([sys.version, *needed, *installed])
    made_of = folder / "made-of.txt"
    if made_of.exists() and made_of.read_text() == wanted:
        return python
    venv.create(folder, clear=True, with_pip=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(line for line in installed if not line.startswith("rebound-celery")))
    _pip(str(python), "install", "--constraint", str(constraints), *needed)
    made_of.write_text(wanted)
    return python


def _pip(python: str, *arguments: str) -> None:
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, stdout=sys.stderr)
