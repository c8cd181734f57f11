"""The soak's verdict notices what grows, and is not misled by single bad moments."""

from itertools import pairwise

import pytest

from tests.devnet.frames import Event
from tests.soak.crowd import CrowdedStream
from tests.soak.sampling import Latencies, Sample
from tests.soak.verdict import judge, slope


class SmallCrowd:
    size = 9


def samples(**growth_per_hour: float) -> list[Sample]:
    """Two hours, one a minute, calm but for what grows."""
    start = {"rss_mb": 150.0, "descriptors": 25.0, "threads": 10.0, "wal_mb": 6.0,
             "p50_ms": 12.0, "p99_ms": 30.0, "cores": 0.3, "behind": 5.0}  # fmt: skip
    return [
        {
            "at_s": minute * 60.0,
            **{
                name: value + growth_per_hour.get(name, 0.0) * minute / 60
                for name, value in start.items()
            },
        }
        for minute in range(120)
    ]


def failed(taken: list[Sample]) -> list[str]:
    return [check.name for check in judge(taken, behind_max=100) if not check.holds]


def test_calm_samples_pass():
    assert failed(samples()) == []


@pytest.mark.parametrize(
    ("name", "per_hour"),
    [("rss_mb", 12.0), ("descriptors", 6.0), ("threads", 4.0), ("p50_ms", 8.0), ("p99_ms", 90.0)],
)
def test_what_grows_is_noticed(name: str, per_hour: float):
    assert failed(samples(**{name: per_hour})) == [f"growth of {name} over the second half"]


def test_growth_that_ends_in_the_first_half_is_warming_up():
    taken = samples()
    for at, each in enumerate(taken[:40]):
        each["rss_mb"] = 80.0 + at
    assert failed(taken) == []


def test_a_minute_without_a_stream_does_not_tilt_the_latency():
    taken = samples()
    for each in taken[100:104]:
        each["p99_ms"] = 30_000.0
    del taken[110]["p50_ms"], taken[110]["p99_ms"]
    assert failed(taken) == []


def test_what_waits_after_outages_is_no_slowness():
    taken = samples()
    for each in taken[90:]:
        each["p50_ms"], each["behind"] = 30_000.0, 500.0
    assert failed(taken) == []


def test_a_long_log_is_noticed_once_is_enough():
    taken = samples()
    taken[7]["wal_mb"] = 300.0
    assert failed(taken) == ["largest wal_mb"]


def test_few_samples_are_refused():
    with pytest.raises(ValueError, match="say nothing"):
        judge(samples()[:7], behind_max=100)


def test_a_slope_is_that_of_most_pairs():
    assert slope([(at, 3.0 * at + (1000 if at == 5 else 0)) for at in range(50)]) == 3.0


def test_latency_runs_from_the_seq_to_the_first_cursor_at_or_beyond_it():
    stream = CrowdedStream(10, SmallCrowd())
    seqs = [stream.append(Event("#commit", "did:plc:x", {})) for _ in range(3)]
    assert [b - a for a, b in pairwise(seqs)] == [10, 10]
    began = stream.sent[0][1]
    latencies = Latencies(stream)
    latencies.see([(began + 0.5, seqs[0] + 4), (began + 0.7, seqs[1])])
    first, second = latencies.take()
    assert first == pytest.approx(500, abs=5)
    assert second == pytest.approx(700, abs=5)
    assert latencies.behind == 1
    assert latencies.take() == []
