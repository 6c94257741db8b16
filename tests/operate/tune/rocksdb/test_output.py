"""Real output of db_bench as metrics; a missing line must be an error, never a zero."""

import re
from pathlib import Path

import pytest

from mlsysopt.operate.tune.rocksdb.output import OutputError, PhaseOutput, load_metrics, parse, run_metrics, tail

GOLDEN = Path(__file__).parents[3] / "golden" / "rocksdb"
OPERATIONS = {"mixgraph": ("get", "seek", "write"), "ycsb-b": ("get", "write"), "read-seek": ("get", "seek")}
BENCHMARKS = {"mixgraph": ["mixgraph"], "ycsb-b": ["readrandomwriterandom"], "read-seek": ["readrandom", "seekrandom"]}


def phases(name: str) -> tuple[PhaseOutput, PhaseOutput, PhaseOutput]:
    load, opened, run = (parse((GOLDEN / f"{name}-{phase}.txt").read_text()) for phase in ("load", "open", "run"))
    return load, opened, run


def metrics(name: str, cpu_s: float = 0.5) -> dict[str, float]:
    return run_metrics(*phases(name), BENCHMARKS[name], OPERATIONS[name], cpu_s)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_metric_of_a_workload_is_found(name: str) -> None:
    found = metrics(name)
    latencies = {f"{p}{kind}_us" for kind in OPERATIONS[name] for p in ("", "p50_", "p95_", "p99_")}
    rest = {"throughput", "throughput_cpu", "stall_us", "write_amp", "block_misses_per_op", "cache_hit", "l0_files"}
    assert set(found) == latencies | rest
    for kind in OPERATIONS[name]:
        assert 0 < found[f"p50_{kind}_us"] <= found[f"p95_{kind}_us"] <= found[f"p99_{kind}_us"]


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("phase", ["load", "run"])
def test_percentiles_from_buckets_are_those_that_rocksdb_prints(name: str, phase: str) -> None:
    text = (GOLDEN / f"{name}-{phase}.txt").read_text()
    shown = re.findall(
        r"Microseconds per (\w+):\n.*\n.*\nPercentiles: P50: ([\d.]+) P75: ([\d.]+) P99: ([\d.]+) P99.9: ([\d.]+)", text
    )
    assert shown
    histograms = parse(text).histograms
    for word, *values in shown:
        made = histograms[{"read": "get", "write": "write", "seek": "seek"}[word]]  # type: ignore[index]
        for p, value in zip((50, 75, 99, 99.9), values, strict=True):
            assert made.percentile(p) == pytest.approx(float(value), abs=0.006)


def test_mean_latencies_times_shares_add_up_to_the_time_per_operation() -> None:
    _, _, run = phases("mixgraph")
    total = sum(run.histograms[kind].total for kind in ("get", "seek", "write"))
    result = run.results[0]
    assert sum(h.count for h in run.histograms.values()) == result.operations == 30_000
    assert total / result.operations == pytest.approx(result.micros_per_op, rel=0.01)


def test_write_amplification_counts_both_phases() -> None:
    load, _, run = phases("ycsb-b")
    written = [p.counters["rocksdb.flush.write.bytes"] + p.counters["rocksdb.compact.write.bytes"] for p in (load, run)]
    user = [p.counters["rocksdb.bytes.written"] for p in (load, run)]
    assert metrics("ycsb-b")["write_amp"] == pytest.approx(sum(written) / sum(user))
    assert written[0] > 0 and user[1] > 0


def test_several_benchmarks_in_one_phase_are_taken_together() -> None:
    _, _, run = phases("read-seek")
    both = run.result(["readrandom", "seekrandom"])
    assert both.operations == 40_000
    assert both.seconds == pytest.approx(sum(line.seconds for line in run.results))
    assert both.ops_per_s == pytest.approx(40_000 / both.seconds)


def test_load_metrics_count_the_fill_only_but_all_of_the_cpu() -> None:
    load, _, _ = phases("mixgraph")
    found = load_metrics(load, ["fillrandom"], 2.0)
    assert found == {"load_ops": load.results[0].ops_per_s, "load_ops_cpu": 60_000.0}


def test_cpu_throughput_uses_the_given_seconds() -> None:
    assert metrics("mixgraph", cpu_s=0.6)["throughput_cpu"] == pytest.approx(50_000)


def test_notes_and_levels() -> None:
    _, opened, run = phases("mixgraph")
    assert run.warnings == ("Assertions are enabled; benchmarks unnecessarily slow",)
    assert opened.level_files[0] == 2 and len(opened.level_files) == 7


@pytest.mark.parametrize(
    ("pattern", "phase", "named"),
    [
        (r"^mixgraph +:.*\n", "run", "no result line for 'mixgraph'"),
        (r"^Microseconds per seek:$", "run", "no 'Microseconds per seek:'"),
        (r"^rocksdb.block.cache.miss COUNT.*\n", "run", "no 'rocksdb.block.cache.miss COUNT'"),
        (r"^rocksdb.flush.write.bytes COUNT.*\n", "load", "no 'rocksdb.flush.write.bytes COUNT'"),
        (r"^rocksdb.stall.micros COUNT.*\n", "run", "no 'rocksdb.stall.micros COUNT'"),
        (r"^Level Files Size\(MB\)$", "open", "no 'Level Files Size"),
    ],
)
def test_a_missing_line_is_an_error_that_names_it_and_shows_the_tail(pattern: str, phase: str, named: str) -> None:
    found = dict(zip(("load", "open", "run"), phases("mixgraph"), strict=True))
    text = (GOLDEN / f"mixgraph-{phase}.txt").read_text()
    found[phase] = parse(re.sub(pattern, "", text, flags=re.MULTILINE))
    with pytest.raises(OutputError, match=re.escape(named)) as caught:
        run_metrics(found["load"], found["open"], found["run"], ["mixgraph"], ("get", "seek", "write"), 0.5)
    assert "rocksdb.async.prefetch.abort.micros" in str(caught.value)


def test_an_operation_that_never_happened_is_missing_not_zero() -> None:
    text = "Microseconds per read:\nCount: 0 Average: 0.0000  StdDev: 0.00\nMin: 0  Median: 0.0000  Max: 0\n"
    with pytest.raises(OutputError, match="Microseconds per read"):
        parse(text).histogram("get")


def test_numbers_are_not_read_by_column() -> None:
    wide = (
        "mixgraph     :  1234567.855 micros/op 47943 ops/sec 1062.626 seconds 123456789012 operations;  831.3 MB/s ( x"
    )
    line = parse(wide).results[0]
    assert (line.micros_per_op, line.operations, line.seconds) == (1234567.855, 123456789012, 1062.626)


def test_the_tail_leaves_progress_out() -> None:
    progress = "".join(f"... finished {n} ops{' ' * 30}\r" for n in range(100, 1000, 100))
    assert tail(f"first\n{progress}put error: IO error: No space left on device\n") == (
        "first\nput error: IO error: No space left on device"
    )
