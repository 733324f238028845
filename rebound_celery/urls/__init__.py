"""Reads URLs of HTTP receivers and patterns of them, both into the same normal form."""
