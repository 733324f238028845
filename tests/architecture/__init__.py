"""The architecture rules: the imports between packages, and the names that only one module may spell."""
