"""A pattern of URLs fits the URL that is written like it, or is refused when the settings are read."""

from __future__ import annotations

import time
from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rebound_celery.config import Settings
from rebound_celery.delivery.lanes import lane_of
from rebound_celery.delivery.steering import lane_name
from rebound_celery.destinations.http_plan import Plans
from rebound_celery.errors import InvalidSettingError
from rebound_celery.message.address import HttpAddress, parse_address, policy_names
from rebound_celery.policy.patterns import destination_pattern
from rebound_celery.selection import Filter


def by_options(pattern: str, url: str) -> bool:
    settings = Settings.read({"rebound_http_destinations": {pattern: {"strict": True}}}, {})
    return Plans(settings.http_destinations).of(HttpAddress(url)).rules.strict


def by_rates(pattern: str, url: str) -> bool:
    (rule,) = Settings.read({"rebound_rates": {pattern: 5}}, {}).rates or ()
    return rule.is_for(HttpAddress(url).parts.endpoint)


def by_policies(pattern: str, url: str) -> bool:
    settings = Settings.read({"rebound_policies": {"destinations": {pattern: {"max_retries": 77}}}}, {})
    return settings.policies.find(*policy_names(parse_address(url))).max_retries == 77


def by_filter(pattern: str, url: str) -> bool:
    Filter(destination=pattern)
    return bool(destination_pattern(pattern).regex.match(policy_names(parse_address(url))[1]))


Fits = Callable[[str, str], bool]

BY_STAR: list[Fits] = [by_options, by_rates]
BY_SIGNS: list[Fits] = [by_policies, by_filter]

HOSTS = [
    "api.example.com",
    "API.Example.COM",
    "api.example.com.",
    "api.example.com:443",
    "api.example.com:0443",
    "api.example.com:80",
    "api.example.com:080",
    "api.example.com:",
    "api.example.com:8443",
    "api.example.com:0",
    "api.example.com:65536",
    "api.example.com:\N{FULLWIDTH DIGIT EIGHT}0",
    "user:pw@api.example.com",
    "user@api.example.com",
    "@api.example.com",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[0000::0001]:8080",
    "[2001:DB8:0::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]:0443",
    "[fe80::1%25eth0]",
    "[1:2]",
    "127.0.0.1",
    "127.1",
    "0x7f.1",
    "0X7F.0.0.1",
    "0177.0.0.1",
    "2130706433",
    "127.0.0.1.",
    "127.0.0.256",
    "1.2.3.4.5",
    "bücher.example",
    "BÜCHER.example",
    "xn--bcher-kva.example",
    "straße.example",
    "日本。example",
    "\N{FULLWIDTH LATIN SMALL LETTER A}pi.example",
    "a..b",
    ".a",
    "a" * 64,
    "a b",
    "a%41",
    "my_service-1",
    "",
]
PATHS = [
    "",
    "/",
    "//",
    "/hooks",
    "/hooks/",
    "/Hooks/A",
    "/a/../b",
    "/a/./b",
    "/a/b/..",
    "/a/.",
    "/..",
    "/a/%2e%2e/b",
    "/a/%2E/b",
    "/grö",
    "/gr%C3%B6",
    "/gr%c3%b6",
    "/{id}",
    "/%7Bid%7D",
    "/%7bid%7d",
    "/a b",
    "/a%20b",
    "/a\tb",
    "/a\\b",
    "/100%",
    "/100%2",
    "/%41%7e",
    "/a%2Fb",
    "/a%2fb",
    "/a;b=1,c/!$&'()+=:@",
    '/a|"b"<c>^`',
    "/a#b",
    "/" + "a" * 8_000,
]
URLS = [
    *(f"https://{host}{path}" for host in HOSTS for path in ("", "/", "/hooks")),
    *(f"http://{host}/hooks" for host in HOSTS),
    *(f"{scheme}://api.example.com{path}" for scheme in ("https", "HTTPS", "Http") for path in PATHS),
]


def is_url(text: str) -> bool:
    try:
        HttpAddress(text)
    except InvalidSettingError:
        return False
    return True


def is_refused(fits: Fits, pattern: str) -> bool:
    try:
        fits(pattern, "https://elsewhere.example/x")
    except InvalidSettingError as error:
        return bool(error.allowed) and ":pw@" not in str(error)
    return False


def holds(fits: Fits, pattern: str, url: str) -> bool:
    """Whether the pattern is refused, or fits the URL."""
    return is_refused(fits, pattern) or (is_url(url) and fits(pattern, url))


@pytest.mark.parametrize("fits", [*BY_STAR, *BY_SIGNS])
@pytest.mark.parametrize("url", URLS)
def test_a_pattern_that_is_written_like_a_url_fits_it_or_is_refused(fits: Fits, url: str) -> None:
    assert holds(fits, url, url)


@pytest.mark.parametrize("fits", [*BY_STAR, *BY_SIGNS])
@pytest.mark.parametrize("base", URLS)
def test_the_parts_around_a_star_are_read_in_the_same_way(fits: Fits, base: str) -> None:
    for pattern, url in (
        # A last '.' or '..' is resolved, and is none any more with something behind it.
        *(((f"{base}*", base), (f"{base}*", f"{base}x")) if not base.endswith("/.") and "/.." not in base else ()),
        (f"{base}/*", f"{base}/x"),
        (base.replace("api.", "*.", 1), base),
        (base.replace("://", "://*.", 1), base.replace("://", "://x.", 1)),
    ):
        assert not is_url(url) or holds(fits, pattern, url), (pattern, url)


@pytest.mark.parametrize("fits", BY_STAR)
@given(
    host=st.text(max_size=8) | st.from_regex(r"[0-9x.:\[\]f]{1,9}", fullmatch=True),
    path=st.text(max_size=12) | st.from_regex(r"[./%0-9a-fA-F]{1,12}", fullmatch=True),
)
def test_any_text_as_a_pattern_fits_the_url_of_the_same_text_or_is_refused(fits: Fits, host: str, path: str) -> None:
    assume("*" not in host + path)
    url = f"https://{host}/{path}"
    # The text of a rate's rule may stand between spaces.
    assume(fits is not by_rates or url == url.strip())

    assert holds(fits, url, url)


@pytest.mark.parametrize("fits", [*BY_STAR, *BY_SIGNS])
@given(before=st.text(max_size=6), inside=st.text(max_size=4), after=st.text(max_size=6))
def test_a_star_in_a_path_stands_for_any_characters(fits: Fits, before: str, inside: str, after: str) -> None:
    assume(not set(before + inside + after) & set("*?[]#%."))
    url = f"https://a.example/{before}{inside}{after}"
    assume(is_url(url))

    assert holds(fits, f"https://a.example/{before}*{after}", url)


@pytest.mark.parametrize("fits", [*BY_STAR, *BY_SIGNS])
@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("https://bücher.example/*", "https://xn--bcher-kva.example/"),
        ("https://xn--bcher-kva.example/*", "https://BÜCHER.example/a"),
        ("HTTPS://API.example.com:0443/grö/*", "https://api.example.com/gr%c3%b6/x"),
        ("https://api.example.com/a/../b/*", "https://api.example.com/b/x"),
        ("https://api.example.com/hooks/*", "https://api.example.com/%68ooks/x"),
        ("https://api.example.com/%7bid%7d/*", "https://api.example.com/{id}/x"),
        ("http://[0:0:0:0:0:0:0:1]:8080/*", "http://[::1]:8080/x"),
        ("http://[::ffff:127.0.0.1]/*", "http://[::ffff:7f00:1]/x"),
        ("http://127.1/*", "http://127.0.0.1/x"),
        ("http://127.0.0.1/*", "http://0x7f.1/x"),
        ("https://*.example.com/A/*", "https://EU.example.com/A/x"),
        ("https://BÜCHER*.example/*", None),
        ("https://api.example.com/*/../b", None),
        ("https://api.example.com/%c*", None),
        ("https://10.1*/*", None),
        ("https://api.example.com:*/*", "https://api.example.com:443/x"),
        ("https://api.example.com:*/*", "https://api.example.com:8443/x"),
        ("https://api.example.com:4*/*", "https://api.example.com/x"),
        ("https://api.example.com:4*/*", "https://api.example.com:4433/x"),
        ("https://api.example.com:09*/*", None),
        ("https://*.EXAMPLE.com:0443/*", "https://a.example.com/x"),
        ("https://*.bücher.example/*", "https://a.xn--bcher-kva.example/"),
        ("https://api.example.com", "https://api.example.com/x"),
        ("https://*.example.com", "https://api.example.com/x"),
        ("http://[::1]", "http://[::1]/x"),
        ("https://0x7f.1*/*", None),
        ("https://api.example.com/100%*", None),
        ("https://user:pw@api.example.com/*", None),
        ("https://api.example.com/a?b=c", None),
        ("https://api.example.com:99999/*", None),
    ],
)
def test_patterns_are_read_as_urls_are(fits: Fits, pattern: str, url: str | None) -> None:
    if url is None:
        with pytest.raises(InvalidSettingError):
            fits(pattern, "https://api.example.com/")
    else:
        assert fits(pattern, url)


@pytest.mark.parametrize("fits", [*BY_STAR, *BY_SIGNS])
@pytest.mark.parametrize(
    ("pattern", "url", "is_fit"),
    [
        ("https://*.example.com/*", "https://a.b.example.com/x", True),
        ("https://*.example.com/*", "https://other.example/a.example.com/b", False),
        ("https://*.example.com/*", "https://a.example.com.evil.example/", False),
        ("https://*.example.com/*", "https://a.example.com:8443/", False),
        ("https://*.example.com", "https://other.example/a.example.com/b", False),
        ("https://*.example.com", "https://a.example.com:8443/", False),
        ("https://*a*b*.example/*", "https://xaxbx.example/", True),
        ("https://*a*b*.example/*", "https://xbxax.example/", False),
        ("https://api*", "https://api.example.com/x", True),
        ("https://api*", "https://api.example.com:8443/x", False),
        ("https://*/*", "https://[::1]/", True),
        ("https://*/*", "https://a.example:8443/", False),
        ("https://*/x", "https://a.example:8443/x", False),
        ("https://*/x", "https://a.example/v/x", False),
        ("https://*", "https://a.example:8443/", False),
        ("https://*", "https://a.example/x", True),
        ("https://*:*/*", "https://[2001:db8::1]:8443/", True),
        ("https://*:*/*", "http://a.example:8443/", False),
        ("https://a.example:*/*", "https://a.example/", True),
        ("https://a.example:8*/*", "https://a.example:8443/", True),
        ("https://a.example:8*/*", "https://a.example/", False),
        ("https://a.example:8*/*", "https://a.example:9443/8", False),
        ("https://*.EXAMPLE:443/*", "https://a.example/x", True),
        ("https://a.example", "https://a.example/x", True),
        ("https://a.example/", "https://a.example/x", False),
    ],
)
def test_a_sign_in_the_host_or_the_port_stays_there(fits: Fits, pattern: str, url: str, is_fit: bool) -> None:
    assert fits(pattern, url) is is_fit


@pytest.mark.parametrize("fits", [*BY_STAR, *BY_SIGNS])
@given(host=st.from_regex(r"https://[ab*]{1,6}", fullmatch=True), path=st.text("ab/*", max_size=6), data=st.data())
def test_a_pattern_fits_what_its_host_and_its_path_fit(fits: Fits, host: str, path: str, data: st.DataObject) -> None:
    own_host = "https://" + data.draw(st.text("ab", min_size=1, max_size=8))
    own_path = data.draw(st.text("ab/", max_size=8))

    are_fit = fnmatchcase(own_host, host) and fnmatchcase(f"/{own_path}", f"/{path}")
    assert fits(f"{host}/{path}", f"{own_host}/{own_path}") is are_fit


@pytest.mark.parametrize("fits", [*BY_STAR, *BY_SIGNS])
def test_a_pattern_with_many_stars_is_compared_in_a_short_time(fits: Fits) -> None:
    pattern = f"https://{'*a' * 20}.b/{'*a' * 100}b"

    start = time.process_time()
    assert not fits(pattern, f"https://{'.'.join(['a' * 60] * 3)}.b/{'a' * 7_000}")
    assert time.process_time() - start < 1


@pytest.mark.parametrize("fits", BY_SIGNS)
@pytest.mark.parametrize(
    ("pattern", "url", "is_fit"),
    [
        ("*", "https://a.example/", True),
        ("http*", "https://a.example/", True),
        ("http*", "http://a.example:8080/", True),
        ("http*", "kafka://orders", False),
        ("*", "kafka://orders", True),
        ("*://a.example/*", "https://a.example/x", True),
        ("*://A.example:443/*", "https://a.example/x", True),
        ("*://a.example:443/*", "http://a.example:443/x", True),
        ("*://a.example:443/*", "http://a.example/x", False),
        ("http*://A.example/*", "https://a.example/x", True),
        ("http*://*.example/*", "https://other.net/a.example/x", False),
        ("http?://a.example/*", "http://a.example/x", False),
        ("*://orders*", "kafka://orders-eu", True),
        ("*://orders*", "https://orders.example/x", True),
        ("*://orders*", "https://a.example/orders", False),
        ("http://[::1]:80[0-9]0/*", "http://[::1]:8080/x", True),
        ("http://localhost:8???/*", "http://localhost:8080/x", True),
        ("http://localhost:8?/*", "http://localhost/x", True),
        ("http://localhost:8?/*", "http://localhost:8443/x", False),
        ("https://a.example:44?/", "https://a.example/", True),
        ("https://[AB].example/*", "https://a.example/x", True),
        ("https://[AB].example", "https://b.example/x", True),
        ("https://[!a].example/*", "https://b.example/x", True),
        ("https://[!a].example/*", "https://a.example/x", False),
        ("https://?.example/*", "https://a.example/x", True),
        ("https://a.example?x/*", "https://a.example/x/y", False),
        ("https://a.example/[AB]/?", "https://a.example/B/x", True),
        ("https://a.example/[AB]/?", "https://a.example/b/x", False),
        ("*/Reports/*", "https://a.example/Reports/x", True),
    ],
)
def test_the_signs_of_policies_and_filters_keep_their_meaning(fits: Fits, pattern: str, url: str, is_fit: bool) -> None:
    assert fits(pattern, url) is is_fit


@pytest.mark.parametrize("fits", BY_SIGNS)
@pytest.mark.parametrize(
    "pattern",
    [
        "*größe*",
        "f*://a.example/*",
        "https://a[/]*",
        "https://[:/]a/*",
        "http://a.example:[x]/",
        "https://a.example/[äö]",
        "https://a.example/[.][.]/x",
        "*%c3*",
        "*{id}*",
        "*.example/x?id=5",
    ],
)
def test_a_pattern_of_policies_or_filters_that_fits_no_destination_is_refused(fits: Fits, pattern: str) -> None:
    with pytest.raises(InvalidSettingError):
        fits(pattern, "https://a.example/")


@pytest.mark.parametrize(
    "settings",
    [
        {"rebound_http_destinations": {"https://A.example/*": {}, "https://a.example:443": {}}},
        {"rebound_rates": {"https://A.example key=7": 1, "https://a.example/* key=7": 2}},
        {"rebound_policies": {"destinations": {"https://A.example/*": {}, "https://a.example/*": {}}}},
        {"rebound_policies": {"destinations": {"https://a.example": {}, "https://a.example/*": {}}}},
    ],
)
def test_the_second_pattern_for_the_same_urls_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InvalidSettingError, match="leave out one of them"):
        Settings.read(settings, {})


def test_an_error_names_the_field_the_value_and_what_to_write() -> None:
    with pytest.raises(InvalidSettingError) as refused:
        by_options("https://a.example/x?b=c", "https://a.example/")

    assert str(refused.value).startswith("rebound_http_destinations['https://a.example/x")
    assert "leave out the query" in str(refused.value)


@pytest.mark.parametrize(
    ("url", "lane"),
    [
        ("https://BÜCHER.example:0443/", "http:xn--bcher-kva.example:443"),
        ("http://[0:0:0:0:0:0:0:1]:8080/", "http:::1:8080"),
        ("http://0x7f.1/", "http:127.0.0.1:80"),
    ],
)
def test_a_host_has_one_lane_in_whatever_way_it_is_written(url: str, lane: str) -> None:
    assert lane_of(parse_address(url)) == lane


@pytest.mark.parametrize(
    ("given_name", "lane"),
    [
        ("http:Bücher.Example:0443", "http:xn--bcher-kva.example:443"),
        ("http:0:0:0:0:0:0:0:1:8080", "http:::1:8080"),
        ("http:Shop.example:443|/A/*", "http:shop.example:443|/A/*"),
        ("http:https://Shop.example:443/a/../Hook", "http:https://shop.example/Hook"),
    ],
)
def test_the_name_of_a_lane_is_read_as_a_url_is(given_name: str, lane: str) -> None:
    assert lane_name(given_name) == lane


@pytest.mark.parametrize("name", ["http:shop.example", "http:shop.example:x", "http:a..b:80", "http:shop.example:"])
def test_the_name_of_a_lane_in_which_nothing_can_wait_is_refused(name: str) -> None:
    with pytest.raises(InvalidSettingError, match=r"^destination="):
        lane_name(name)
