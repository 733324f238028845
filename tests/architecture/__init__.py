"""The house rules: which room may import which, and what may be spelled where. `rules.py` states and checks them."""
