"""The policies of an app: one for all, and others by topic and by destination."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from ..errors import InvalidSettingError
from .declared import Fault, Path, read_mapping, read_policy, with_imported_names
from .patterns import Pattern, destination_pattern, topic_pattern
from .policy import RetryPolicy

DEFAULT: Final = "default"
TOPICS: Final = "topics"
DESTINATIONS: Final = "destinations"

_SECTIONS = (DEFAULT, TOPICS, DESTINATIONS)

#: How many names a table remembers the policy of.
_MOST_FOUND = 1_024


class PolicyTable:
    """The policies of an app by topic and by destination.

    A pattern is a name in which `*` stands for any characters, `?` for one, and `[ab]` for one of these. In the host
    and the port of a URL they stand for a part of it only. A name without such signs goes before all patterns; then the
    first pattern that fits counts. A URL without a path is a pattern for all URLs of its host.

    Args:
        default: the policy for everything else.
        topics: pairs of a pattern of topic names and a policy.
        destinations: pairs of a pattern of destinations and a policy: `kafka://orders`, `https://api.example.com/*`.

    Raises:
        ValueError: if no topic or no destination fits a pattern.
    """

    def __init__(
        self,
        default: RetryPolicy,
        topics: Iterable[tuple[str, RetryPolicy]] = (),
        destinations: Iterable[tuple[str, RetryPolicy]] = (),
    ) -> None:
        self.default = default
        self.topics = tuple(topics)
        self.destinations = tuple(destinations)
        #: Whether there is one policy for everything.
        self.is_single = not (self.topics or self.destinations)
        self._patterns = {
            TOPICS: _with_patterns(self.topics, topic_pattern),
            DESTINATIONS: _with_patterns(self.destinations, destination_pattern),
        }
        self._found: dict[tuple[str | None, str | None], RetryPolicy] = {}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PolicyTable):
            return NotImplemented
        return (self.default, self.topics, self.destinations) == (other.default, other.topics, other.destinations)

    def __hash__(self) -> int:
        return hash((self.default, self.topics, self.destinations))

    def __repr__(self) -> str:
        return f"PolicyTable({self.default!r}, topics={self.topics!r}, destinations={self.destinations!r})"

    @property
    def all(self) -> tuple[RetryPolicy, ...]:
        """All policies of the table."""
        return (self.default, *(policy for _, policy in (*self.topics, *self.destinations)))

    def find(self, topic: str | None = None, destination: str | None = None) -> RetryPolicy:
        """Return the policy for a destination, or else for a topic, or else the default one.

        Args:
            topic: the topic of a record; None if there is none.
            destination: `kafka://topic` or a URL; None if there is none.
        """
        if self.is_single:
            return self.default
        found = self._found.get((topic, destination))
        if found is None:
            if len(self._found) >= _MOST_FOUND:
                self._found.clear()
            found = self._found[topic, destination] = self.match(topic, destination)[1]
        return found

    def match(self, topic: str | None = None, destination: str | None = None) -> tuple[str, RetryPolicy]:
        """Return the entry that `find` takes: its name, such as `topics."orders*"`, and its policy."""
        for section, name in ((DESTINATIONS, destination), (TOPICS, topic)):
            if name is not None and (found := _first(self._patterns[section], name)) is not None:
                return f'{section}."{found[0]}"', found[1]
        return DEFAULT, self.default

    def choose(
        self,
        given: object,
        max_retries: int | None,
        base_delay: float | None,
        topic: str | None = None,
        destination: str | None = None,
    ) -> RetryPolicy:
        """Return the policy of a message: the one that was given with it, or else the one of this table.

        Args:
            given: a RetryPolicy, a mapping with its options, or None.
            max_retries, base_delay: what the message has instead of the options of the table's policy; None for none.
            topic, destination: as for `find`.

        Raises:
            InvalidSettingError: naming the field that cannot be used.
        """
        if given is None:
            return self.find(topic, destination).with_limits(max_retries, base_delay)
        if max_retries is not None or base_delay is not None:
            raise InvalidSettingError("policy", given, "give it, or max_retries and base_delay, not both")
        if isinstance(given, RetryPolicy):
            return with_imported_names(given)
        if not isinstance(given, Mapping):
            raise InvalidSettingError("policy", given, "it is a RetryPolicy, or a mapping with its options")
        try:
            return read_policy(given, self.default)
        except Fault as fault:
            raise refusal("policy", fault) from None

    @classmethod
    def read(cls, given: object, base: RetryPolicy) -> PolicyTable:
        """Make a table of a mapping with the names `default`, `topics` and `destinations`.

        Args:
            given: the mapping. The policies in it are mappings with the options of `RetryPolicy`, or RetryPolicy.
            base: has the options that the mapping's default policy does not set.

        Raises:
            Fault: naming the value that cannot be used.
        """
        sections = read_mapping(given, (), _SECTIONS)
        default = read_policy(sections.get(DEFAULT, {}), base, (DEFAULT,))
        entries = {
            section: _read_section(sections.get(section, {}), default, base, (section,)) for section in _SECTIONS[1:]
        }
        return cls(default, entries[TOPICS], entries[DESTINATIONS])


def _read_section(given: object, default: RetryPolicy, base: RetryPolicy, path: Path) -> list[tuple[str, RetryPolicy]]:
    if not isinstance(given, Mapping):
        raise Fault(path, given, "it is a mapping of patterns to policies")
    read = topic_pattern if path == (TOPICS,) else destination_pattern
    entries = []
    first: dict[re.Pattern[str], str] = {}
    for pattern, policy in given.items():
        if not isinstance(pattern, str) or not pattern:
            raise Fault((*path, str(pattern)), policy, "a pattern is a text that is not empty")
        try:
            twin = first.setdefault(read(pattern).regex, pattern)
        except ValueError as error:
            raise Fault((*path, pattern), policy, str(error)) from None
        if twin != pattern:
            raise Fault((*path, pattern), policy, f"it is for the same names as {twin!r}: leave out one of them")
        entries.append((pattern, read_policy(policy, default, (*path, pattern), root=base)))
    return entries


#: An entry of a table, and its pattern as it is compared with names.
_Entry = tuple[Pattern, tuple[str, RetryPolicy]]


def _with_patterns(entries: Iterable[tuple[str, RetryPolicy]], read: Callable[[str], Pattern]) -> tuple[_Entry, ...]:
    return tuple((read(entry[0]), entry) for entry in entries)


def _first(entries: Iterable[_Entry], name: str) -> tuple[str, RetryPolicy] | None:
    """Return the entry for a name: the one with exactly this name, or the first pattern that fits."""
    found = None
    for pattern, entry in entries:
        if pattern.name == name:
            return entry
        if found is None and pattern.regex.match(name):
            found = entry
    return found


def refusal(setting: str, fault: Fault) -> InvalidSettingError:
    """Return the error for a fault in the mapping that is the value of `setting`."""
    place = "".join(f"[{part!r}]" for part in fault.shown_path)
    return InvalidSettingError(f"{setting}{place}", fault.value, fault.allowed)
