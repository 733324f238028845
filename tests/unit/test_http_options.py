"""The options of HTTP destinations: which URL has which, and the errors for what cannot be used."""

from __future__ import annotations

from typing import Any

import pytest

from rebound_celery import HttpOptions, Settings
from rebound_celery.destinations.http_plan import Plans
from rebound_celery.errors import InvalidSettingError
from rebound_celery.http_options import HttpTable
from rebound_celery.message.address import HttpAddress

KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ED25519 = "whsk_" + "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="


def strict_for(pattern: str, url: str) -> bool:
    return Plans(HttpTable({pattern: {"strict": True}})).of(HttpAddress(url)).rules.strict


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("*", "http://anything:8080/x"),
        ("https://api.example.com/*", "https://api.example.com/"),
        ("https://api.example.com/*", "https://user:pw@API.example.com:443/a/b?c=d"),
        ("https://api.example.com", "https://api.example.com/a"),
        ("https://api.example.com:443/hooks/*", "https://api.example.com/hooks/1"),
        ("https://*.example.com/*", "https://eu.api.example.com/"),
        ("http://localhost:*/*", "http://localhost:8000/x"),
        ("http://[::1]:8000/*", "http://[::1]:8000/x"),
    ],
)
def test_a_pattern_stands_for_these_urls(pattern: str, url: str) -> None:
    assert strict_for(pattern, url)


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("https://*.example.com/*", "https://evil.test/.example.com/"),
        ("https://*.example.com/*", "https://evil.test/?.example.com/"),
        ("https://*.example.com/*", "https://x.example.com.evil.test/"),
        ("https://api.example.com/*", "http://api.example.com/"),
        ("https://api.example.com/*", "https://api.example.com:8443/"),
        ("https://api.example.com/*", "https://apixexample.com/"),
        ("https://api.example.com/hooks/*", "https://api.example.com/hooks/../admin"),
        ("https://api.example.com/hooks/*", "https://api.example.com/hooks/%2e%2e/admin"),
    ],
)
def test_a_pattern_does_not_stand_for_these_so_that_a_secret_stays_with_its_host(pattern: str, url: str) -> None:
    assert not strict_for(pattern, url)


def test_the_first_pattern_that_matches_counts_and_leaves_the_rest_to_the_star() -> None:
    table = HttpTable(
        {
            "*": {"rate": 5, "strict": True},
            "https://a.test/hooks/*": {"strict": False, "method": "PUT"},
            "https://a.test/*": {"rate": 7},
        }
    )

    first, second, other = (
        Plans(table).of(HttpAddress(f"https://{place}")) for place in ("a.test/hooks/1", "a.test/x", "b.test/")
    )

    assert (first.rate, first.rules.strict, first.method) == (5, False, "PUT")
    assert (second.rate, second.rules.strict, second.method) == (7, True, "POST")
    assert (other.rate, other.rules.strict) == (5, True)


def test_options_may_be_given_as_an_object_or_as_a_mapping() -> None:
    read = [
        Settings.read({"rebound_http_destinations": {"*": given}}, {})
        for given in (HttpOptions(secret=KEY, rate=3), {"secret": KEY, "rate": 3})
    ]

    assert read[0] == read[1]


@pytest.mark.parametrize(
    ("destinations", "text"),
    [
        (7, "rebound_http_destinations=7 cannot be used: it is a mapping"),
        ({"ftp://x/": {}}, "rebound_http_destinations['ftp://x/']="),
        ({"https://u:hunter2@x/*": {}}, "a destination is * or http(s)://host/path"),
        ({"*": 5}, "rebound_http_destinations['*']=5 cannot be used: give HttpOptions, or a mapping"),
        (
            {"*": {"secert": "hunter2"}},
            "['*'].secert='***' cannot be used: there is no such option; did you mean 'secret'",
        ),
        ({"*": {"secret": "hunter2"}}, "['*'].secret='***' cannot be used: a key is whsec_ and the base64 of 24 to 64"),
        ({"*": {"secret": "whsec_hunter2!"}}, "is not base64"),
        ({"*": {"secret": "whsec_aHVudGVyMg=="}}, "it has 7 bytes"),
        ({"*": {"secret": "whsk_aHVudGVyMg=="}}, "it has 7 bytes"),
        ({"*": {"secret": [KEY, "hunter2"]}}, "['*'].secret[1]='***'"),
        ({"*": {"secret": {"key": KEY, "until": "2027-01-01T00:00:00"}}}, "secret.until='2027-01-01T00:00:00'"),
        ({"*": {"secret": {"key": KEY, "until": "2027-01-01T00:00:00Z"}}}, "one key has no 'until'"),
        ({"*": {"secret": {"key": KEY, "til": 1}}}, "a mapping with 'key' and 'until'"),
        ({"*": {"method": "get"}}, "['*'].method='get' cannot be used: it is one of POST, PUT, PATCH, DELETE"),
        ({"*": {"rate": 0}}, "['*'].rate=0 cannot be used: it is a number of requests a second, above 0 to 1000000"),
        ({"*": {"timeout": -1}}, "['*'].timeout=-1 cannot be used: it is a number of seconds, above 0 to 86400"),
        ({"*": {"timeout": float("nan")}}, "['*'].timeout=nan"),
        ({"*": {"timeout": 10**400}}, "['*'].timeout=1000"),
        ({"*": {"query": {"a": "\ud800"}}}, "['*'].query='***' cannot be used: it is a mapping of names to texts"),
        ({"*": {"headers": {"Content-Length": "5"}}}, "['*'].headers.Content-Length='***' cannot be used: this header"),
        ({"*": {"headers": {"transfer-encoding": "chunked"}}}, "this header is of the connection"),
        ({"*": {"max_redirects": 11}}, "['*'].max_redirects=11 cannot be used: it is a whole number from 0 to 10"),
        ({"*": {"concurrency": 0}}, "it is a whole number from 1 to 64"),
        ({"*": {"rate": 0}}, "above 0"),
        ({"*": {"strict": "yes"}}, "['*'].strict='yes' cannot be used: it is True or False"),
        ({"*": {"headers": {"a b": "c"}}}, "['*'].headers='a b'"),
        (
            {"*": {"headers": {"X-Key": "hunter2\r\nX: 1"}}},
            "['*'].headers.X-Key='***' cannot be used: a header's value",
        ),
        ({"*": {"allowed_networks": ["10.0.0.1/8"]}}, "has host bits set"),
        ({"*": {"client_key": "key.pem"}}, "['*'].client_key='key.pem' cannot be used: give client_cert too"),
        ({"*": {"proxy": "socks5://u:hunter2@x"}}, "['*'].proxy='***'"),
        ({"*": {"disable_after": -1}}, "['*'].disable_after=-1 cannot be used: it is a number of hours, from 0"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_limits_and_without_secrets(destinations: Any, text: str) -> None:
    with pytest.raises(InvalidSettingError) as raised:
        Settings.read({"rebound_http_destinations": destinations}, {})

    assert text in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_no_secret_is_in_the_text_of_options_or_settings() -> None:
    options = HttpOptions(
        secret=[KEY, ED25519],
        headers={"X-Key": "hunter2"},
        query={"token": "hunter2"},
        client_cert="c.pem",
        client_key_password="hunter2",
        proxy="http://u:hunter2@p:1",
    )
    settings = Settings.read({"rebound_http_destinations": {"*": options}}, {})
    plan = Plans(settings.http_destinations).of(HttpAddress("https://a.test/"))

    for text in map(repr, (options, settings, options.keys, plan.tls, plan.signer)):
        assert "hunter2" not in text
        assert "QUFB" not in text
        assert "AAAA" not in text


@pytest.mark.parametrize(
    ("url", "target"), [("http://a/", "/?k=v+w"), ("http://a/x?b=1", "/x?b=1&k=v+w"), ("http://a/?", "/?k=v+w")]
)
def test_the_query_of_the_options_is_added_to_that_of_the_url(url: str, target: str) -> None:
    assert Plans(HttpTable({"*": {"query": {"k": "v w"}}})).of(HttpAddress(url)).url.target == target
