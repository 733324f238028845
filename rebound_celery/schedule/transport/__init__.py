"""The schedule as a part of kombu's Redis transport."""
