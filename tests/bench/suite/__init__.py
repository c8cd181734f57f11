"""The benchmarks: one module each, found by name. A module offers `benchmarks(session)`."""

from __future__ import annotations

import importlib
import pkgutil

from tests.bench.benchmark import Benchmark, Session


def all_benchmarks(session: Session) -> list[Benchmark]:
    """What the modules of this package offer, in the order of their names."""
    return [
        benchmark
        for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name)
        for benchmark in importlib.import_module(f"{__name__}.{module.name}").benchmarks(session)
    ]
