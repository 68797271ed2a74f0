"""Numerical parity with the authors' implementation, measured on a folder of its outputs.

One module per kind of file; each has ``run(folder)`` that yields :class:`.check.Check`.
"""
