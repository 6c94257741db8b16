"""What a real Redis 7.0 said to absurd values (tests/golden/tune/redis-replies.json), and what is made of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlsysopt.core.space import Space
from mlsysopt.operate.tune.knobs import Catalogue
from mlsysopt.operate.tune.server import Address, ClientFailed, Knob, Load, Place
from mlsysopt.operate.tune.servers import redisbench, redisreplies
from mlsysopt.operate.tune.servers.redis import Redis
from mlsysopt.operate.tune.servers.redisreplies import bounds_of, kind_of, ours, text_of, theirs, value_of

redis = pytest.importorskip("redis", reason="redis is not installed: pip install 'mlsysopt[tune]'")

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "tune" / "redis-replies.json").read_text())
ADDRESS = Address("127.0.0.1", 1, Path("/nowhere"), {"redis-server": Path("/nowhere/redis-server")})


class Recorded:
    """A client that answers as the recorded server did."""

    def __init__(self) -> None:
        self.values = dict(GOLDEN["values"])
        self.asked: list[str] = []

    def config_get(self, pattern: str) -> dict[str, str]:
        return self.values

    def config_set(self, name: str, value: str) -> None:
        self.asked.append(name)
        told = GOLDEN["replies"][name].get(value)
        if told is None and "immutable" in GOLDEN["replies"][name]["__mlsysopt__"]:
            told = "CONFIG SET failed - can't set immutable config"
        if told:
            raise redis.ResponseError(told)
        self.values[name] = value


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Knob]:
    def started(argv: Sequence[Any], **_: object) -> Any:
        name, value = str(argv[3]).removeprefix("--"), str(argv[4])
        return SimpleNamespace(stderr=GOLDEN["starts"][name][value])

    monkeypatch.setattr(redisreplies, "run_child", started)
    client = Recorded()
    found = [redisreplies.knob(ADDRESS, client, name, value) for name, value in GOLDEN["values"].items()]
    assert client.values == GOLDEN["values"], "what was asked was put back"
    return {knob.name: knob for knob in found if knob is not None}


def test_types_bounds_and_choices_are_in_the_refusals(listed: dict[str, Knob]) -> None:
    kinds = Counter(knob.kind for knob in listed.values())
    assert kinds == {"int": 75, "bool": 54, "choice": 17}
    assert Counter(knob.change for knob in listed.values()) == {"live": 128, "restart": 18}
    assert sum(knob.unit == "B" for knob in listed.values()) == 14
    hz = listed["hz"]
    assert (hz.kind, hz.low, hz.high, hz.default, hz.change) == ("int", 0, 2**31 - 1, 10, "live")
    threads = listed["io_threads"]
    assert (threads.kind, threads.low, threads.high, threads.change) == ("int", 1, 128, "restart")
    assert listed["maxmemory_policy"].choices[0] == "volatile-lru"
    assert listed["auto_aof_rewrite_min_size"].unit == "B"
    assert listed["maxmemory_samples"].unit == "", "a name with the word memory is no size"
    assert listed["list_max_listpack_size"].low == -(2**31)
    assert listed["slowlog_log_slower_than"].low == -1
    assert (listed["maxmemory"].low, listed["maxmemory"].high) == (None, None), "it takes everything"
    assert not {"save", "requirepass", "oom_score_adj_values", "dbfilename"} & set(listed)


def test_a_choice_between_yes_no_and_more_is_no_switch(listed: dict[str, Knob]) -> None:
    for knob in listed.values():
        if knob.kind == "choice":
            assert value_of(theirs(knob.name), GOLDEN["values"][theirs(knob.name)]) == knob.default
            assert knob.default in knob.choices


def test_the_first_preset_is_free_and_makes_a_space(listed: dict[str, Knob]) -> None:
    catalogue = Catalogue.of(Redis(), listed.values())
    chosen = catalogue.chosen(None)
    assert [knob.name for knob in chosen] == list(Redis.presets["essentials"])
    assert isinstance(catalogue.space(chosen), Space)


@pytest.mark.parametrize(
    ("name", "fence"),
    [
        ("appendonly", "durability"), ("appendfsync", "durability"), ("no_appendfsync_on_rewrite", "durability"),
        ("rdb_save_incremental_fsync", "durability"), ("maxmemory_policy", "eviction"), ("timeout", "meaning"),
        ("repl_timeout", "meaning"), ("enable_debug_command", "security"), ("tls_port", "security"),
        ("port", "network"), ("cluster_enabled", "network"), ("oom_score_adj", "developer"),
        ("hash_max_listpack_entries", None), ("io_threads", None), ("client_query_buffer_limit", None),
    ],
)  # fmt: skip
def test_fences(listed: dict[str, Knob], name: str, fence: str | None) -> None:
    assert Catalogue.of(Redis(), listed.values()).fence(name) == fence


@pytest.mark.parametrize(
    ("word", "kind", "choices"),
    [
        ("argument must be 'yes' or 'no'", "bool", ()),
        ("argument(s) must be one of the following: everysec, always, no", "choice", ("everysec", "always", "no")),
        ("argument couldn't be parsed into an integer", "int", ()),
        ("argument must be a memory value", "int", ()),
        ("argument must be a memory or percent value", "int", ()),
        ("Invalid save parameters", None, ()),
        ("can't set protected config", None, ()),
        ("", None, ()),
    ],
)
def test_kinds(word: str, kind: str | None, choices: tuple[str, ...]) -> None:
    assert kind_of(f"CONFIG SET failed (possibly related to argument 'x') - {word}") == (kind, choices)


def test_bounds() -> None:
    assert bounds_of("argument must be between -3 and 128 inclusive") == (-3.0, 128.0)
    assert bounds_of("argument must be a memory value") is None


def test_names_and_values_there_and_back() -> None:
    assert (ours("io-threads"), theirs("io_threads")) == ("io_threads", "io-threads")
    for value in (True, False, 12, -1, "everysec"):
        assert value_of("appendonly", text_of(value)) == value


def test_persistence_is_part_of_every_start(tmp_path: Path) -> None:
    place = Place(tmp_path, {"redis-server": Path("/usr/bin/redis-server")})
    for config in ({}, {"hz": 50}):
        words = Redis().service(place, config)._argv
        assert words[words.index("--appendonly") + 1] == "yes"
        assert words[words.index("--appendfsync") + 1] == "everysec"
        assert ("--hz" in words) == bool(config)


def test_export_is_a_configuration_file() -> None:
    assert Redis().export({"io_threads": 2, "activerehashing": False}) == ["io-threads 2", "activerehashing no"]


COLUMNS = ("test", "rps", *(f"{what}_latency_ms" for what in ("avg", "min", "p50", "p95", "p99", "max")))
CSV = ",".join(f'"{name}"' for name in COLUMNS) + "\n"


class Client:
    def __init__(self, counts: Sequence[dict[str, Any]]) -> None:
        self.counts = list(counts)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None: ...

    def info(self, section: str) -> dict[str, Any]:
        return self.counts.pop(0)


def test_rates_and_latencies_are_weighted_and_errors_are_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = {"get": (100_000, 0.1, 1.0), "set": (50_000, 0.2, 2.0), "incr": (25_000, 0.4, 4.0)}

    def run(self: Address, program: str, *words: object, timeout_s: float) -> str:
        name = next(str(word) for word in words if word in rows)
        rate, p50, p99 = rows[name]
        return f'{CSV}"{name}","{rate}","0.1","0.0","{p50}","0.9","{p99}","9.0"\n'

    monkeypatch.setattr(Address, "run", run)
    before, after = {"errorstat_ERR": {"count": 12}}, {"errorstat_ERR": {"count": 12}, "errorstat_OOM": {"count": 3}}
    monkeypatch.setattr(redisbench, "connected", lambda address: Client([before, after]))
    load = Load(0.7, 1, 4, tmp_path)
    loaded = redisbench.WORKLOADS["basic"].run(ADDRESS, load)
    share = {"get": 4 / 7, "set": 2 / 7, "incr": 1 / 7}
    assert loaded.metrics["ops"] == pytest.approx(1 / sum(share[name] / rows[name][0] for name in rows), rel=1e-3)
    assert loaded.metrics["p99_ms"] == pytest.approx(sum(share[name] * rows[name][2] for name in rows), rel=1e-3)
    assert (loaded.errors, loaded.first_error) == (3, "OOM")


def test_a_benchmark_that_prints_no_rate_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Address, "run", lambda *_, **__: "Could not connect to Redis\n")
    monkeypatch.setattr(redisbench, "connected", lambda address: Client([{}, {}]))
    with pytest.raises(ClientFailed, match="Could not connect"):
        redisbench.WORKLOADS["basic"].run(ADDRESS, Load(0.7, 1, 4, tmp_path))


def test_an_address_without_a_server_is_a_client_failure() -> None:
    with pytest.raises(ClientFailed), redisreplies.connected(ADDRESS) as client:
        client.ping()
