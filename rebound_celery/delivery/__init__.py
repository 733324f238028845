"""Stage 3: a due message goes to its destination, and what became of it is settled."""
