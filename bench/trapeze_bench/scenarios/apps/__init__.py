"""Apps that scenarios serve: a copy of them, in a directory of its own, which can be broken."""
