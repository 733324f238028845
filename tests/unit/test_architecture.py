"""The sources follow the rules of `tests/architecture/rules.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

import rebound_celery
from tests.architecture.allowances import EXCEPTIONS
from tests.architecture.rules import RULES, key_start
from tests.architecture.tables import ALLOWED, COMMON, PORTS, STAGES
from tests.architecture.tree import Tree

ROOT = Path(rebound_celery.__file__).parent
TREE = Tree(ROOT)
DOCS = [ROOT.parent / "README.md", *sorted((ROOT.parent / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", RULES)
def test_the_sources_keep_the_rule(name: str) -> None:
    rule = RULES[name]
    violations = [str(violation) for violation in rule(TREE) if (name, violation.path) not in EXCEPTIONS]

    assert not violations, f"{rule.__doc__}\n" + "\n".join(violations)


@pytest.mark.parametrize("name", RULES)
def test_every_allowance_is_still_needed(name: str) -> None:
    """What no longer breaks its rule must leave the list, so that it cannot come back unseen."""
    broken = {violation.path for violation in RULES[name](TREE)}
    allowed = {path for rule, path in EXCEPTIONS if rule == name}

    assert allowed <= broken, f"take these out of tests/architecture/allowances.py: {sorted(allowed - broken)}"


def test_the_allowances_name_rules_that_exist() -> None:
    assert {rule for rule, _ in EXCEPTIONS} <= set(RULES)


def test_the_table_of_arrows_lets_stages_meet_only_at_ports() -> None:
    """`arrows` holds the sources against the table ALLOWED; this holds the table against the design."""
    for part in STAGES:
        others = {name for name in ALLOWED[part] if name.split(".")[0] in set(STAGES) - {part}}
        assert others <= set(PORTS), part
    for name in COMMON:
        assert not {allowed.split(".")[0] for allowed in ALLOWED.get(name, ())} & set(STAGES), name
    kafka_or_message = ("message", "policy", "compat.kafka_*", "destinations")
    assert not any(name.split(".")[0] in kafka_or_message or name in kafka_or_message for name in ALLOWED["schedule"])


def test_the_rule_for_redis_keys_looks_for_the_real_prefix() -> None:
    assert key_start().startswith("rebound")
    assert "{" in key_start(), "without a hash tag, one script could not touch all keys of a queue"


def test_the_public_names_exist_and_are_documented() -> None:
    text = "\n".join(path.read_text() for path in DOCS)
    public = [name for name in rebound_celery.__all__ if not name.startswith("__")]

    assert len(public) == len(set(public))
    for name in public:
        assert getattr(rebound_celery, name).__doc__, f"{name} has no docstring"
        assert name in text, f"{name} is named neither in README.md nor in docs/"
