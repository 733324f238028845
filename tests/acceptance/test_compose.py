"""The deployments that the repository shows: docker-compose.yml, Kubernetes, systemd.

None of these systems is installed here. So the tests run their commands and health checks as processes. They also check
each file with the schema or the program that reads it, if there is one.
"""

from __future__ import annotations

import configparser
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from packaging.requirements import Requirement

from rebound_celery import health
from rebound_celery.config import PREFIX, Settings
from rebound_celery.embedded import free_port
from rebound_celery.health import HealthFile
from rebound_celery.operate.cli.commands import consume
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.processes import Process

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ["worker", "consumer", "flower"]
DOCKERFILE = ROOT / "examples/docker/Dockerfile"

#: A Celery command takes its app from the folder that the image has it in.
WORKDIR = str(ROOT / "examples")

HEALTH_DIR = "/run/rebound"


def as_python(words: list[str], changes: dict[str, str]) -> list[str]:
    """A command of the file as arguments of this Python, with some of its words, or parts of them, replaced."""
    for old, new in changes.items():
        words = [word.replace(old, new) for word in words]
    assert words[0] == "celery"
    return ["-m", "celery", "--workdir", WORKDIR, *words[1:]]


def succeeds(check: list[str], changes: dict[str, str]) -> bool:
    """Whether a health check, as Docker or Kubernetes would run it, says yes."""
    for old, new in changes.items():
        check = [word.replace(old, new) for word in check]
    program = {"CMD-SHELL": ["sh", "-c"], "CMD": []}.get(check[0])
    command = check if program is None else [*program, *check[1:]]
    if command[0] == "python":
        command[0] = sys.executable
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    return done.returncode == 0


def write_health(path: Path, state: str | None, age_s: float) -> None:
    """The health file of a process in that state, last rewritten so long ago; None for no file."""
    path.unlink(missing_ok=True)
    if state is not None:
        HealthFile(path).report(state)
        os.utime(path, (time.time() - age_s,) * 2)


# docker-compose.yml


def test_every_part_is_there_and_says_whether_it_is_well() -> None:
    """Kafka, Redis, worker, consumer and Flower, each with a health check; the topics are made once."""
    assert sorted(SERVICES) == sorted(["kafka", "redis", "topics", *OURS])
    assert [name for name, service in SERVICES.items() if "test" not in service.get("healthcheck", {})] == ["topics"]


def test_docker_compose_reads_the_file() -> None:
    """Docker's own check."""
    command = ["docker", "compose"]
    if (
        shutil.which("docker") is None
        or subprocess.run([*command, "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("there is no docker compose")

    done = subprocess.run([*command, "config", "--quiet"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_parts_wait_until_what_they_need_is_there() -> None:
    """Kafka and Redis must be healthy and the topics made; the worker, which has the image built, is first."""
    servers = {"kafka": {"condition": "service_healthy"}, "redis": {"condition": "service_healthy"}}
    worker = {"worker": {"condition": "service_started"}}
    topics = {"topics": {"condition": "service_completed_successfully"}}

    assert SERVICES["worker"]["depends_on"] == servers
    assert SERVICES["consumer"]["depends_on"] == {**servers, **topics, **worker}
    assert SERVICES["flower"]["depends_on"] == {**servers, **worker}


def test_topics_are_those_of_the_consumer() -> None:
    """The one that it reads, and the one for its dead letters, which Kafka is not left to make by itself."""
    (topic,) = [word.partition("=")[2] for word in SERVICES["consumer"]["command"] if word.startswith("--topic=")]

    assert f"for topic in {topic} {topic}{Settings().dead_letter_suffix};" in SERVICES["topics"]["command"][-1]


def test_each_store_keeps_its_data_in_a_volume_of_its_own() -> None:
    """What Kafka and Redis write lies in named volumes, and they do write it there."""
    kafka, redis = SERVICES["kafka"], SERVICES["redis"]

    assert sorted(COMPOSE["volumes"]) == ["kafka-data", "redis-data"]
    assert kafka["volumes"] == [f"kafka-data:{kafka['environment']['KAFKA_LOG_DIRS']}"]
    assert redis["volumes"] == ["redis-data:/data"]
    assert " ".join(redis["command"]).startswith("redis-server --appendonly yes")


def test_kafka_is_found_where_the_parts_look_for_it() -> None:
    """The advertised listeners are the address in the parts' environment, and the published port."""
    advertised = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")

    assert f"INTERNAL://{SERVICES['worker']['environment']['REBOUND_KAFKA_BROKERS']}" in advertised
    assert "EXTERNAL://localhost:9092" in advertised
    assert SERVICES["kafka"]["ports"] == ["127.0.0.1:9092:9092"]


@pytest.mark.parametrize("name", OURS)
def test_environment_names_settings_that_exist(name: str) -> None:
    """A misspelt REBOUND_ variable would be read by nobody; these also have values that can be used."""
    environment = SERVICES[name]["environment"]

    assert settings_of(environment).kafka_brokers == ("kafka:19092",)
    assert environment["CELERY_BROKER_URL"] == "redis://redis:6379/0"


def settings_of(environment: dict[str, str]) -> Settings:
    ours = {variable: value for variable, value in environment.items() if variable.startswith("REBOUND_")}
    assert set(ours) <= {(PREFIX + setting.name).upper() for setting in fields(Settings)}
    return Settings.read({}, ours)


def test_worker_and_consumer_can_be_scaled() -> None:
    """Nothing that two containers of a service would both want: a name, a host's port, a node's name."""
    for name in ("worker", "consumer"):
        assert {"container_name", "hostname", "ports"}.isdisjoint(SERVICES[name])
        # A container has its own; what an earlier process left there is gone at a restart.
        assert SERVICES[name]["tmpfs"] == [f"{HEALTH_DIR}:mode=1777,size=1m"]
    assert "worker@%h" in SERVICES["worker"]["command"]


def test_flower_shows_the_arguments() -> None:
    """Its columns are those that the README names."""
    (columns,) = [word for word in SERVICES["flower"]["command"] if word.startswith("--tasks_columns=")]

    assert "args" in columns.partition("=")[2].split(",")
    assert columns in (ROOT / "README.md").read_text()


# The image


def test_image_is_built_once_and_shared() -> None:
    """One service builds it; no service looks for it elsewhere."""
    assert [name for name in OURS if "build" in SERVICES[name]] == ["worker"]
    assert len({SERVICES[name]["image"] for name in OURS}) == 1
    assert {SERVICES[name]["pull_policy"] for name in OURS} == {"never"}


def test_image_is_built_from_files_that_exist_and_that_docker_sees() -> None:
    """The Dockerfile is where the file says, and .dockerignore lets in all that it copies, and not much else."""
    build = SERVICES["worker"]["build"]
    assert ROOT / build["context"] / build["dockerfile"] == DOCKERFILE
    copied = [line.split()[1:-1] for line in DOCKERFILE.read_text().splitlines() if line.startswith("COPY")]
    paths = [path for words in copied for path in words]

    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [path for path in paths if is_ignored(path)] == []
    ignored = [
        ".git",
        "tests",
        "benchmarks",
        "docs",
        "examples/01_consumer_with_policy.py",
        "rebound_celery/__pycache__",
    ]
    assert [path for path in ignored if not is_ignored(path)] == []


def is_ignored(path: str) -> bool:
    """What Docker does: the last pattern that matches the path, or a folder above it, decides."""
    decision = False
    above = ["/".join(path.split("/")[: depth + 1]) for depth in range(path.count("/") + 1)]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        everywhere = pattern.startswith("**/")
        for part in above:
            same_depth = everywhere or part.count("/") == pattern.count("/")
            if same_depth and fnmatch(part.rpartition("/")[2] if everywhere else part, pattern.removeprefix("**/")):
                decision = not line.startswith("!")
    return decision


def test_versions_are_pinned() -> None:
    """Those of the images, and those of all packages in ours, within the limits of pyproject.toml."""
    (base,) = re.findall(r"^FROM (\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    foreign = {service["image"] for name, service in SERVICES.items() if name not in OURS} | {base}
    assert [image for image in foreign if not re.search(r":\d+\.\d+\.\d+(-|$)", image)] == []

    lines = (ROOT / "examples/docker/constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    flower = [line for line in project["optional-dependencies"]["demo"] if line.startswith("flower")]
    for requirement in map(Requirement, [*project["dependencies"], *flower]):
        assert requirement.specifier.contains(pinned[requirement.name]), requirement


# The commands, as docker-compose.yml and the Kubernetes example have them


def test_commands_and_health_checks_work(
    kafka_brokers: str,
    redis_url: str,
    make_topic: Callable[..., str],
    produce: Callable[..., Any],
    read_topic: Callable[..., list[Any]],
    run_process: Callable[..., Process],
    tmp_path: Path,
) -> None:
    """Started as the file says, two workers and two consumers among them, all become healthy; an order is handled, and
    one that fails becomes a dead letter."""
    topic, port = make_topic(), str(free_port())
    make_topic(1, f"{topic}-dlq")
    environment = {
        **SERVICES["worker"]["environment"],
        "CELERY_BROKER_URL": redis_url,
        "REBOUND_KAFKA_BROKERS": kafka_brokers,
        "REBOUND_BASE_DELAY": "1",
    }
    # The embedded broker lets a member in after half of its session time-out.
    quick = ["--option", "session_timeout_ms=6000", "--option", "heartbeat_interval_ms=2000"]

    parts: dict[str, Process] = {}
    checks: dict[str, Callable[[], bool]] = {}
    for name, replica in [*itertools.product(["worker", "consumer"], "12"), ("flower", "1")]:
        # What a container has of its own: its folder and its host's name.
        own = tmp_path / f"{name}-{replica}"
        own.mkdir()
        changes = {
            HEALTH_DIR: str(own),
            "%h": f"{topic}-{replica}",
            "=orders": f"={topic}",
            "=shop": f"=shop-{topic}",
            "5555": port,
        }
        command = as_python(SERVICES[name]["command"], changes) + (quick if name == "consumer" else [])
        health_file = environment["REBOUND_HEALTH_FILE"].replace(HEALTH_DIR, str(own))
        parts[own.name] = run_process(*command, env={**environment, "REBOUND_HEALTH_FILE": health_file})
        test = SERVICES[name]["healthcheck"]["test"]
        checks[own.name] = lambda test=test, changes=changes: succeeds(test, changes)  # type: ignore[misc]

    def is_healthy(name: str) -> bool:
        assert parts[name].is_running, parts[name].tail()
        return checks[name]()

    for name in parts:
        wait_until(lambda name=name: is_healthy(name), timeout=60, message=lambda name=name: parts[name].tail())
    produce(topic, [(b"1", b"an order", []), (b"2", b"please fail", [])])
    dead = read_topic(f"{topic}-dlq", 1, timeout=30)

    assert [letter.value for letter in dead] == [b"please fail"]
    assert dict(dead[0].headers)["rebound-attempt"] == b"3"
    handled = parts["consumer-1"].output + parts["consumer-2"].output
    assert handled.count(": an order") == 1
    assert handled.count(": please fail") == 3


@pytest.mark.parametrize("name", ["worker", "consumer"])
@pytest.mark.parametrize(
    ("state", "age_s", "is_well"),
    [
        (health.OK, 0, True),
        (health.OK, 50, True),
        (health.OK, 70, False),
        (health.STARTING, 0, False),
        (health.WAITING, 0, False),
        (health.STALLED, 70, False),
        (None, 0, False),
    ],
)
def test_health_checks_read_the_health_file(
    name: str, state: str | None, age_s: float, is_well: bool, tmp_path: Path
) -> None:
    """Healthy is who says so, and has said so within the last minute."""
    write_health(tmp_path / f"{name}.health", state, age_s)

    assert succeeds(SERVICES[name]["healthcheck"]["test"], {HEALTH_DIR: str(tmp_path)}) is is_well


# Kubernetes

MANIFEST: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "examples/kubernetes/rebound.yaml").read_text()))
PODS: dict[str, dict[str, Any]] = {
    one["spec"]["template"]["spec"]["containers"][0]["name"]: one["spec"]["template"]["spec"]
    for one in MANIFEST
    if one["kind"] == "Deployment"
}
CONTAINERS: dict[str, dict[str, Any]] = {name: pod["containers"][0] for name, pod in PODS.items()}


def test_kubernetes_manifest_fits_the_schema() -> None:
    """No field is misspelt, missing, or of another type."""
    validator = pytest.importorskip("kubernetes_validate")

    for one in MANIFEST:
        validator.validate(one, validator.latest_version(), strict=True)


def test_kubernetes_manifest_fits_together() -> None:
    """Names that point to something, selectors that find their pods, mounts that have a volume."""
    kinds = {(one["kind"], one["metadata"]["name"]): one for one in MANIFEST}
    assert sorted(PODS) == sorted(OURS)
    for (kind, name), one in kinds.items():
        if kind != "Deployment":
            continue
        template = one["spec"]["template"]
        assert one["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"] == {"app": name}
        (container,) = template["spec"]["containers"]
        for source in container["envFrom"]:
            ((reference, target),) = source.items()
            assert ({"configMapRef": "ConfigMap", "secretRef": "Secret"}[reference], target["name"]) in kinds
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in template["spec"]["volumes"]}
    service = kinds["Service", "rebound-flower"]["spec"]
    assert ("Deployment", service["selector"]["app"]) in kinds
    assert service["ports"][0]["targetPort"] in [port["name"] for port in CONTAINERS["flower"]["ports"]]


def test_kubernetes_runs_what_docker_compose_runs() -> None:
    """The same commands, of the same image; so what was tried of one holds for both."""
    assert {name: one["command"] for name, one in CONTAINERS.items()} == {n: SERVICES[n]["command"] for n in OURS}
    assert {one["image"] for one in CONTAINERS.values()} == {SERVICES["worker"]["image"]}
    configured = next(one["data"] for one in MANIFEST if one["kind"] == "ConfigMap")
    assert settings_of(configured).health_file == SERVICES["worker"]["environment"]["REBOUND_HEALTH_FILE"]


@pytest.mark.parametrize("name", OURS)
def test_kubernetes_lets_a_pod_finish_and_limits_it(name: str) -> None:
    """Time for what is under way, memory that is asked for and limited, no rights that are not needed."""
    pod, container = PODS[name], CONTAINERS[name]

    assert name == "flower" or pod["terminationGracePeriodSeconds"] > 45
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]
    assert pod["securityContext"]["runAsUser"] == 65534
    assert f"USER {pod['securityContext']['runAsUser']}" in DOCKERFILE.read_text()
    assert container["securityContext"]["readOnlyRootFilesystem"]
    # Else a Service named flower makes FLOWER_PORT=tcp://..., which Flower takes for its port.
    assert pod["enableServiceLinks"] is False
    assert {"livenessProbe", "readinessProbe"} <= set(container)


@pytest.mark.parametrize("name", ["worker", "consumer"])
@pytest.mark.parametrize(
    ("state", "age_s", "alive", "ready"),
    [
        (health.OK, 0, True, True),
        (health.STARTING, 0, True, False),
        (health.WAITING, 0, True, False),
        (health.STOPPING, 0, True, False),
        (health.STALLED, 70, False, False),
        (health.OK, 70, False, False),
        (None, 0, False, False),
    ],
)
def test_kubernetes_probes_read_the_health_file(
    name: str, state: str | None, age_s: float, alive: bool, ready: bool, tmp_path: Path
) -> None:
    """A pod is started anew when its file grows old, and ready only when it says that it is well."""
    write_health(tmp_path / f"{name}.health", state, age_s)
    here = {HEALTH_DIR: str(tmp_path)}

    assert succeeds(CONTAINERS[name]["startupProbe"]["exec"]["command"], here) is alive
    assert succeeds(CONTAINERS[name]["livenessProbe"]["exec"]["command"], here) is alive
    assert succeeds(CONTAINERS[name]["readinessProbe"]["exec"]["command"], here) is ready


def test_documented_probes_are_those_of_the_manifest() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    probes = yaml.safe_load(re.findall(r"```yaml\n(livenessProbe.*?)```", text, re.DOTALL)[0])

    for name in ("livenessProbe", "readinessProbe"):
        assert probes[name]["exec"] == CONTAINERS["worker"][name]["exec"]


# systemd

UNITS = sorted((ROOT / "examples/systemd").iterdir())


def read_unit(name: str) -> dict[str, dict[str, str]]:
    """The sections of a unit; of a setting that stands there twice, the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    text = (ROOT / "examples/systemd" / name).read_text().replace("\\\n", " ")
    parser.read_string(text)
    return {section: dict(parser[section]) for section in parser.sections()}


def test_systemd_reads_the_units(tmp_path: Path) -> None:
    """systemd's own check; the app's venv is this one."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    for unit in UNITS:
        text = unit.read_text().replace("/opt/shop/venv/bin", str(Path(sys.executable).parent))
        (tmp_path / unit.name.replace("@", "@rebound-worker")).write_text(text)

    done = subprocess.run(
        ["systemd-analyze", "verify", *sorted(tmp_path.iterdir())], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_runs_the_worker_that_docker_compose_runs() -> None:
    """The same options; its health file lies in a folder that systemd makes for it."""
    unit = read_unit("rebound-worker.service")["Service"]
    program, *words = shlex.split(unit["ExecStart"].replace("%%", "%"))

    assert Path(program).name == "celery"
    assert [word.replace("shop", "compose_app") for word in words] == SERVICES["worker"]["command"][1:]
    assert unit["Environment"] == f"REBOUND_HEALTH_FILE=%t/{unit['RuntimeDirectory']}/health"


def test_systemd_runs_a_consumer_with_options_that_exist() -> None:
    unit = read_unit("rebound-consumer.service")["Service"]
    words = shlex.split(unit["ExecStart"])
    options = [word.partition("=") for word in words if word.startswith("--")]

    known = {name for parameter in consume.params for name in parameter.opts}
    assert {name for name, _, _ in options} <= known
    assert ("--health-file", "=", f"%t/{unit['RuntimeDirectory']}/health") in options
    assert ("--wait", "", "") in options


@pytest.mark.parametrize("name", ["rebound-worker.service", "rebound-consumer.service"])
def test_systemd_lets_a_service_finish(name: str) -> None:
    """Only the main process is told to stop, and it has time; it is started again however it ends."""
    unit = read_unit(name)

    assert unit["Service"]["KillMode"] == "mixed"
    assert int(unit["Service"]["TimeoutStopSec"]) > 45
    assert unit["Service"]["Restart"] == "always"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"


@pytest.mark.parametrize(
    ("state", "age_s", "restarts"), [(health.WAITING, 0, False), (health.STALLED, 70, True), (None, 0, False)]
)
def test_systemd_timer_starts_a_stalled_service_anew(
    state: str | None, age_s: float, restarts: bool, tmp_path: Path
) -> None:
    """The service whose health file has grown old; not one that has none yet."""
    (tmp_path / "rebound-worker").mkdir()
    write_health(tmp_path / "rebound-worker/health", state, age_s)
    command = read_unit("rebound-health@.service")["Service"]["ExecStart"]
    command = command.replace("%t", str(tmp_path)).replace("%i", "rebound-worker").replace("systemctl", "echo")

    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True)

    assert done.stdout == ("try-restart rebound-worker.service\n" if restarts else "")
