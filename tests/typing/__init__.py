"""Examples of the whole public API for the type checkers; nothing here is run. See tests/unit/test_typing.py."""
