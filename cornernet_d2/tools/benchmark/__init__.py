"""Benchmarks. Each module is one subcommand: ``add_arguments(parser)`` and ``run(args) -> int``."""
