"""This project's parts against other ways to compute the same."""
