"""Numerical parity with other implementations, measured on folders of what they computed.

A package per kind of folder, a module per kind of file. :mod:`.ours` is the package's side.
"""
