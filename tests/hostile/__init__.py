"""Inputs that go wrong, through the command line: `python -m tests.hostile` writes their table."""
