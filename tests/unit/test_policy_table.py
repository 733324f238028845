"""Policies by topic and by destination, from mappings and from TOML files, and what is refused in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rebound_celery import ErrorRule, InvalidSettingError, RetryPolicy, Settings
from rebound_celery.policy import PolicyTable
from rebound_celery.policy.toml import line_of

TOML = """
# The policies of the shop.
[default]
max_retries = 5
jitter = "equal"

[[default.rules]]
error = "TimeoutError"
delay = 1

[topics.orders]
kind = "linear"

[topics."orders-*"]
delays = [
    1,
    60,  # a minute
]

[destinations."https://api.example.com/*"]
max_delay = 600
rules = [
    { error = "KeyError", then = "drop" },
    { error = ["ValueError", "OSError"], then = "dead-letter", dead_letter_topic = "broken" },
]
"""
TIMEOUT = ErrorRule("TimeoutError", delay=1)


def read(given: object, **conf: Any) -> PolicyTable:
    return Settings.read(
        {"rebound_policies": given, **{f"rebound_{name}": value for name, value in conf.items()}}
    ).policies


def test_a_file_has_policies_by_topic_and_by_destination(tmp_path: Path) -> None:
    file = tmp_path / "policies.toml"
    file.write_text(TOML)

    table = read(file, base_delay=7)

    assert table == read(str(file), base_delay=7)
    assert table.find() == RetryPolicy(5, 7, jitter="equal", rules=[TIMEOUT])
    assert table.find("orders") == RetryPolicy(5, 7, "linear", jitter="equal", rules=[TIMEOUT])
    assert table.find("orders-eu") == RetryPolicy(delays=[1, 60], jitter="equal", rules=[TIMEOUT])
    assert table.find("refunds") == table.default
    api = table.find(None, "https://api.example.com/v1/hook")
    assert (api.max_retries, api.max_delay, api.jitter) == (5, 600, "equal")
    assert api.rules == (
        ErrorRule("KeyError", "drop"),
        ErrorRule(["ValueError", "OSError"], "dead-letter", None, "broken"),
    )
    assert table.find(None, "https://api.example.com.evil/") == table.default


def test_a_path_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(InvalidSettingError, match="it is no path of a file"):
        read("/etc/rebound-\ud800.toml")


@pytest.mark.parametrize("delays", [[1] * 1_000_000, "s" * 1_000_000])
def test_an_error_shows_the_beginning_of_a_long_value(delays: object) -> None:
    with pytest.raises(InvalidSettingError) as refused:
        read({"default": {"delays": delays}})

    assert len(str(refused.value)) < 2_000


def test_the_environment_names_a_file(tmp_path: Path) -> None:
    file = tmp_path / "policies.toml"
    file.write_text("default.max_retries = 9")

    assert Settings.read({}, {"REBOUND_POLICIES": str(file)}).policies.find("any").max_retries == 9


def test_a_name_goes_before_patterns_and_the_first_pattern_before_later_ones() -> None:
    numbers = {"*": 1, "orders*": 2, "orders": 3}
    table = read({"topics": {pattern: {"max_retries": number} for pattern, number in numbers.items()}})

    assert [table.find(topic).max_retries for topic in ("orders", "orders-eu", "x")] == [3, 1, 1]
    assert table.match("orders-eu")[0] == 'topics."*"'
    assert table.match(None, "kafka://orders")[0] == "default"


@pytest.mark.parametrize(
    ("section", "pattern", "name"),
    [
        ("topics", "*", "orders"),
        ("topics", "orders-[!a]?", "orders-eu"),
        ("destinations", "*", "https://a.example/"),
        ("destinations", "*a.example/*", "https://a.example/"),
        ("destinations", "http*", "https://a.example/"),
        ("destinations", "https://*", "https://a.example/"),
        ("destinations", "https://a.example", "https://a.example/x"),
        ("destinations", "https://a.example/", "https://a.example/"),
        ("destinations", "[hk]*", "kafka://orders"),
        ("destinations", "kafka://orders-?*", "kafka://orders-eu"),
    ],
)
def test_every_form_of_a_pattern_is_taken(section: str, pattern: str, name: str) -> None:
    table = read({section: {pattern: {"max_retries": 9}}})

    assert table.match(**{section[:-1]: name})[0] == f'{section}."{pattern}"'


def test_a_destination_goes_before_a_topic() -> None:
    table = read({"topics": {"*": {"max_retries": 1}}, "destinations": {"kafka://orders": {"max_retries": 2}}})

    assert table.find("orders", "kafka://orders").max_retries == 2
    assert table.find("refunds", "kafka://refunds").max_retries == 1
    assert table.find("orders").max_retries == 1


def test_what_is_not_set_comes_from_the_default_policy_and_then_from_the_settings() -> None:
    table = read(
        {
            "default": {"delays": [1, 2], "jitter": "full"},
            "topics": {"a": {"kind": "constant"}, "b": {"max_retries": 9}},
        },
        max_retries=4,
        base_delay=8,
    )

    assert table.default == RetryPolicy(delays=[1, 2], jitter="full")
    assert table.find("a") == RetryPolicy(4, 8, "constant", jitter="full"), "nothing of a list goes into other kinds"
    assert table.find("b") == RetryPolicy(9, delays=[1, 2], jitter="full")
    assert read({}, max_retries=4, base_delay=8).find("any") == RetryPolicy(4, 8)
    assert Settings(max_retries=4, base_delay=8).policies.find("any") == RetryPolicy(4, 8)


def test_policies_that_were_made_in_python_are_taken_as_they_are() -> None:
    policy = RetryPolicy(1, 2, rules=[ErrorRule(KeyError, "drop")])

    assert read({"topics": {"a": policy}}).find("a") == policy
    table = PolicyTable(RetryPolicy(2), [("a", policy)])
    assert read(table) is table


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (7, "rebound_policies=7 cannot be used: it is a mapping with the names default, topics, destinations"),
        ({"topic": {}}, "rebound_policies['topic']={} cannot be used: there is no such option; did you mean 'topics'?"),
        ({"default": 3}, "rebound_policies['default']=3 cannot be used: it is a mapping with the names kind,"),
        ({"topics": []}, "rebound_policies['topics']=[] cannot be used: it is a mapping of patterns to policies"),
        ({"topics": {"": {}}}, "rebound_policies['topics']['']={} cannot be used: a pattern is a text"),
        ({"topics": {"kafka://a": {}}}, "['topics']['kafka://a']={} cannot be used: it fits no topic: a Kafka topic"),
        ({"topics": {"shop *": {}}}, "['topics']['shop *']={} cannot be used: it fits no topic: a Kafka topic"),
        ({"destinations": {"orders": {}}}, "['destinations']['orders']={} cannot be used: it fits no destination"),
        ({"destinations": {"api.example.com/*": {}}}, "it fits no destination: these begin with kafka://, http://"),
        ({"destinations": {"kafka://k:9092/orders": {}}}, "it fits no destination: these are kafka://topic, without"),
        ({"destinations": {"kafka://a b": {}}}, "['kafka://a b']={} cannot be used: it fits no topic: a Kafka topic"),
        ({"destinations": {"https://api..example.com/*": {}}}, "its host is a name of letters"),
        (
            {"topics": {"orders": {"max_retires": 3}}},
            "['topics']['orders']['max_retires']=3 cannot be used: there is no such option; did you mean 'max_ret",
        ),
        (
            {"topics": {"orders": {"delays": [5, -1]}}},
            "rebound_policies['topics']['orders']['delays']=-1 cannot be used: it must be a number of seconds from 0",
        ),
        (
            {"default": {"budget": 9, "rules": [{"error": "OSError", "delay": 10}]}},
            "rebound_policies['default']['rules'][0]['delay']=10 cannot be used: it is longer than the budget of 9 s",
        ),
        ({"default": {"budget": 2}}, "rebound_policies['default']['budget']=2 cannot be used: it is shorter than the"),
        (
            {"default": {"kind": "exponential", "delays": [1]}},
            "['kind']='exponential' cannot be used: a policy with delays",
        ),
        (
            {"default": {"base_delay": 5, "delays": [1]}},
            "['base_delay']=5 cannot be used: a list of delays has no base",
        ),
        ({"default": {"rules": {}}}, "rebound_policies['default']['rules']={} cannot be used: it is a list of rules"),
        (
            {"default": {"rules": [{}]}},
            "rebound_policies['default']['rules'][0]={} cannot be used: a rule names an error",
        ),
        (
            {"default": {"rules": [{"error": "KeyError"}, {"error": "shop.NoSuchError"}]}},
            "rebound_policies['default']['rules'][1]['error']='shop.NoSuchError' cannot be used: it cannot be imported",
        ),
        (
            {"default": {"rules": [{"error": "KeyError", "then": "dead_letter"}]}},
            "['then']='dead_letter' cannot be used",
        ),
    ],
)
def test_a_mapping_that_cannot_be_used_is_refused_with_its_place(given: Any, text: str) -> None:
    with pytest.raises(InvalidSettingError) as refused:
        read(given)

    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "text"),
    [
        (
            "max_retries = 5",
            "max_retries = 500",
            4,
            "default.max_retries=500 cannot be used: it must be a whole number",
        ),
        ('jitter = "equal"', "jiter = 1", 5, "default.jiter=1 cannot be used: there is no such option; did you mean"),
        ('"TimeoutError"', '"TimeOutError"', 8, "default.rules.0.error='TimeOutError' cannot be used: Python has no"),
        (
            "delay = 1",
            "delay = -1",
            9,
            "default.rules.0.delay=-1 cannot be used: it must be a number of seconds from 0",
        ),
        ('error = "TimeoutError"', "", 7, "default.rules.0={'delay': 1} cannot be used: a rule names an error"),
        ('kind = "linear"', 'kind = "line"', 12, "topics.orders.kind='line' cannot be used: it is one of"),
        ("60,", "-60,", 17, "topics.orders-*.delays=-60 cannot be used"),
        ("max_delay = 600", "max_delay = 1", 21, "max_delay=1 cannot be used: base_delay is longer: 5 s"),
        ("max_delay = 600", "budget = 3", 21, "budget=3 cannot be used: it is shorter than the delay before the first"),
        (
            'then = "drop"',
            'than = "drop"',
            23,
            "rules.0.than='drop' cannot be used: there is no such option; did you mean",
        ),
        ("[topics.orders]", "[topic.orders]", 11, "topic={'orders': {'kind': 'linear'}} cannot be used"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_line(
    tmp_path: Path, old: str, new: str, line: int, text: str
) -> None:
    file = tmp_path / "policies.toml"
    file.write_text(TOML.replace(old, new, 1))

    with pytest.raises(InvalidSettingError) as refused:
        read(file)

    assert str(refused.value).startswith(f"{file}, line {line}: ")
    assert text in str(refused.value)


def test_a_file_that_is_not_there_or_not_toml_says_so(tmp_path: Path) -> None:
    missing, broken, binary = tmp_path / "no.toml", tmp_path / "broken.toml", tmp_path / "binary.toml"
    broken.write_text("[default]\nmax_retries = = 3\n")
    binary.write_bytes(b"\xff\xfe\x00")

    for value, text in [
        (missing, "the file cannot be read: No such file or directory"),
        (tmp_path, "the file cannot be read: Is a directory"),
        (broken, "the file is not TOML: Invalid value (at line 2, column 15)"),
        (binary, "a TOML file is UTF-8, and this one is not"),
    ]:
        with pytest.raises(InvalidSettingError) as refused:
            read(value)
        assert str(refused.value).startswith("rebound_policies=")
        assert text in str(refused.value)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("a",), 2),
        (("a", "b"), 2),
        (("a", "c", "d"), 7),
        (("e", 1, "f"), 12),
        (("e", 1), 11),
        (("g", "h"), 14),
        (("g", "i", 0, "j"), 16),
        (("g", "i", 1, "j"), 17),
        (("g", "i", 2, 1), 20),
        (("no",), 0),
    ],
)
def test_the_line_of_a_value_is_found_in_every_form_of_toml(path: tuple[str | int, ...], line: int) -> None:
    text = """# a comment
a.b = 1 # dotted
long = '''
[a.c]
d = 1
'''
"a".c = { d = 3 }
[[e]]
f = 1

[[e]]
f = [
  2]
[ "g" ]
i = [
  { j = 1 }, # a comment with ]
  { j = 2 }
  , [
    3,
    4]
]
"""
    assert line_of(text, path) == line
