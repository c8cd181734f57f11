"""Rounds, ratios and what is shown of them."""

import json
from contextlib import suppress
from pathlib import Path

import pytest

from tests.bench.__main__ import chosen, parse
from tests.bench.benchmark import Benchmark, Contender, Figures, Session, measure
from tests.bench.corpus import Corpus
from tests.bench.report import table, write_json


class Scripted:
    """Contenders that take their figures from a list and note whose turn it was."""

    def __init__(self) -> None:
        self.turns: list[str] = []

    def contender(self, name: str, speeds: list[float]) -> Contender:
        left = list(speeds)

        def run(_session: Session) -> Figures:
            self.turns.append(name)
            per_s = left.pop(0)
            return {"per_s": per_s, "cpu_us": 5e5 / per_s, "rss_mb": 50.0}

        return Contender(name, run)


def compared(script: Scripted) -> Benchmark:
    ours = script.contender("daemon", [900.0, 100.0, 1200.0])
    theirs = script.contender("sdk", [100.0, 50.0, 100.0])
    return Benchmark(name="mix1", title="1 %", contenders=[ours, theirs], rounds=3)


def test_rounds_are_interleaved_and_the_ratio_is_of_rounds(bench_corpus: Corpus, tmp_path: Path):
    script = Scripted()
    session = Session(tmp_path, bench_corpus, tmp_path, is_quick=True)
    result = measure(compared(script), session, progress=lambda _line: None)
    assert script.turns == ["daemon", "sdk"] * 3
    assert result.ratio == 9.0
    assert result.cpu_ratio == pytest.approx(9.0)
    assert result.median("daemon")["per_s"] == 900.0
    assert result.spread("daemon", "per_s") == (100.0, 1200.0)


def test_table_and_json_tell_the_medians(bench_corpus: Corpus, tmp_path: Path):
    session = Session(tmp_path, bench_corpus, tmp_path, is_quick=True)
    result = measure(compared(Scripted()), session, progress=lambda _line: None)
    lines = table([result]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "daemon" in lines[2]
    assert "900" in lines[2]
    assert "100-1,200" in lines[2]
    assert lines[2].rstrip(" |").endswith("9.0x")
    write_json(tmp_path / "out.json", [result], {"quick": True})
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["benchmarks"][0]["ratio"] == 9.0
    assert document["benchmarks"][0]["cpu_ratio"] == pytest.approx(9.0)
    assert len(document["benchmarks"][0]["contenders"]["sdk"]["rounds"]) == 3


def test_without_a_second_contender_there_is_no_ratio(bench_corpus: Corpus, tmp_path: Path):
    session = Session(tmp_path, bench_corpus, tmp_path, is_quick=True)
    alone = Scripted().contender("daemon", [1.0])
    benchmark = Benchmark(name="fetch", title="fetch", contenders=[alone], rounds=1)
    result = measure(benchmark, session, progress=lambda _line: None)
    assert (result.ratio, result.cpu_ratio) == (None, None)
    assert "x |" not in table([result])


def test_a_run_that_fails_leaves_its_directory(bench_corpus: Corpus, tmp_path: Path):
    session = Session(tmp_path, bench_corpus, tmp_path, is_quick=True)
    with session.run_directory("good") as good:
        assert good.is_dir()
    assert not good.exists()
    with suppress(ZeroDivisionError), session.run_directory("bad") as bad:
        _ = 1 / 0
    assert bad.is_dir()


def test_an_exact_name_chooses_one_benchmark():
    benchmarks = [
        Benchmark(name=name, title=name, contenders=[Scripted().contender("daemon", [])], rounds=5)
        for name in ("mix1", "mix10", "latency")
    ]
    assert [each.name for each in chosen(benchmarks, parse(["--only", "mix1"]))] == ["mix1"]
    assert [each.name for each in chosen(benchmarks, parse(["--only", "mix"]))] == ["mix1", "mix10"]
    assert len(chosen(benchmarks, parse([]))) == 3
    assert chosen(benchmarks, parse(["--contender", "sdk"])) == []
    assert chosen(benchmarks, parse(["--rounds", "2"]))[0].rounds == 2
