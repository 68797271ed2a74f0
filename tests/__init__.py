"""Proofs, comparisons with other implementations, and what they share."""
