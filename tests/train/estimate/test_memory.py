"""Free memory, exact arrays, refusals with their arithmetic, and the formulas against what the kernel counts."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlsysopt.train.estimate import DoesNotFit, Ratings, Sample, synthetic
from mlsysopt.train.estimate.forks import Job, Reading
from mlsysopt.train.estimate.host import Host
from mlsysopt.train.estimate.memory import Free, arrays, check, free, need, peak_of
from mlsysopt.train.estimate.sampling import subset
from mlsysopt.train.estimate.trainers import find
from mlsysopt.train.estimate.trainers.surprise import leaked_bytes

GiB = 2**30


def machine_root(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


MEMINFO = "MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n"


def test_the_machine_alone(tmp_path: Path) -> None:
    found = free(root=machine_root(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/\n"}))
    assert (found.bytes, found.limit) == (8 * GiB, "MemAvailable")


def test_a_container_of_version_2_with_a_limit_above_it(tmp_path: Path) -> None:
    found = free(
        root=machine_root(
            tmp_path,
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/memory.max": str(3 * GiB),
                "sys/fs/cgroup/pod/memory.current": str(2 * GiB),
                "sys/fs/cgroup/pod/memory.stat": f"anon 1\ninactive_file {GiB // 2}\n",
                "sys/fs/cgroup/pod/box/memory.max": "max",
                "sys/fs/cgroup/pod/box/memory.current": "1",
            },
        )
    )
    assert (found.bytes, found.limit) == (GiB + GiB // 2, "cgroup v2")


def test_a_container_of_version_1(tmp_path: Path) -> None:
    found = free(
        root=machine_root(
            tmp_path,
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "5:cpu:/\n4:memory:/box\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1",
                "sys/fs/cgroup/memory/box/memory.limit_in_bytes": str(2 * GiB),
                "sys/fs/cgroup/memory/box/memory.usage_in_bytes": str(GiB),
                "sys/fs/cgroup/memory/box/memory.stat": "total_inactive_file 1024\n",
            },
        )
    )
    assert (found.bytes, found.limit) == (GiB + 1024, "cgroup v1")


def test_the_users_limit_and_the_address_space_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine_root(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/status": "VmSize:\t1048576 kB\n"})
    assert free(GiB, root=root).limit == "--memory"
    monkeypatch.setattr(resource, "getrlimit", lambda _: (3 * GiB, resource.RLIM_INFINITY))
    found = free(5 * GiB, root=root)
    assert (found.bytes, found.limit) == (2 * GiB, "RLIMIT_AS")
    assert found.all["--memory"] == 5 * GiB


def test_nothing_tells(tmp_path: Path) -> None:
    assert free(root=tmp_path).limit == "nothing tells"


def test_a_refusal_shows_the_arithmetic_and_the_way_out() -> None:
    ratings = synthetic.ratings("lognormal", "flat", n_users=3000, n_items=1500, n_ratings=30_000, seed=1)
    record = find("knn").settled({"sim": "cosine", "user_based": False}, ratings)
    sizes = ratings.characteristics
    expected = f"cosine by item holds 5 squares of {sizes.I:,}^2 x 8 B = "
    assert need(record, sizes).startswith(expected)
    room = Free(90 * 2**20, "--memory", {})
    with pytest.raises(DoesNotFit) as refused:
        check(record, ratings, room)
    first, second, third = str(refused.value).splitlines()
    assert first.startswith(expected) and "90 MiB free (--memory)" in first
    assert second.startswith("instead: sim=msd needs ")
    assert third.startswith("at most ") and third.endswith("% of the items fit; nothing was started")


def test_the_largest_share_that_fits_does_fit() -> None:
    ratings = synthetic.ratings("lognormal", "flat", n_users=6000, n_items=300, n_ratings=60_000, seed=2)
    record = find("svdpp").settled({"n_factors": 400}, ratings)
    with pytest.raises(DoesNotFit) as refused:
        check(record, ratings, Free(25 * 2**20, "--memory", {}))
    assert "not even 1 %" in str(refused.value) or "at most" in str(refused.value)
    check(record, ratings, Free(2 * GiB, "--memory", {}))


def test_lists_in_one_process_leak_as_counted() -> None:
    ratings = Ratings.from_codes([0, 0, 1, 2, 2, 2], [0, 1, 0, 0, 1, 2], [1, 2, 3, 4, 5, 1.0])
    # Longest so far: 2, 2, 3 entries of 4 bytes; the smallest chunk of the allocator is 32 bytes.
    assert leaked_bytes(ratings) == 96


def test_a_long_list_touches_one_page_only() -> None:
    ratings = Ratings.from_codes([0] * 5000 + [1], [*range(5000), 0], [1.0] * 5001)
    assert leaked_bytes(ratings) == 2 * 4096


def test_a_peak_without_samples_says_that_it_is_a_guess() -> None:
    ratings = synthetic.ratings(n_users=100, n_items=50, n_ratings=2000)
    peak = peak_of(find("svd").settled(), ratings.characteristics)
    assert not peak.measured and peak.low < peak.bytes < peak.high


def test_a_fixed_part_of_loading_is_not_multiplied() -> None:
    full = synthetic.ratings(n_users=1000, n_items=500, n_ratings=100_000)
    samples = [
        Sample(
            share, part.characteristics, {"n_factors": 1}, 0.01, 0.01,
            extra={"base_bytes": 40e6, "loaded_bytes": 2e6 + 300 * len(part), "growth_bytes": 0},
        )
        for share in (0.01, 0.02, 0.03)
        if (part := subset(full, "user", share, seed=1))
    ]  # fmt: skip
    for seen in (samples, samples[:1]):
        peak = peak_of(find("svd").settled(), full.characteristics, samples=seen)
        assert peak.loaded == pytest.approx(2e6 + 300 * 100_000, rel=0.2)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host(modules=("surprise", "implicit")) as host:
        yield host


@pytest.fixture(scope="module")
def middling() -> Ratings:
    return synthetic.ratings("lognormal", "zipf0.7", n_users=1800, n_items=1500, n_ratings=30_000, order="shuffled")


def growth(host: Host, ratings: Ratings, name: str, params: dict[str, Any]) -> tuple[float, float]:
    """Return what training added at its peak, and what the formula says."""
    record = find(name).settled(params, ratings)
    path = host.keep(ratings)
    found = host.ask(Job(path, record, dict(record.params), data=record.data))
    host.forget(path)
    assert isinstance(found, Reading), found
    return found.growth_bytes, sum(arrays(record, ratings.characteristics).values())


@pytest.mark.parametrize("user_based", [True, False])
@pytest.mark.parametrize("sim", ["msd", "cosine", "pearson", "pearson_baseline"])
def test_similarities_hold_their_squares(host: Host, middling: Ratings, sim: str, user_based: bool) -> None:
    seen, formula = growth(host, middling, "knn", {"sim": sim, "user_based": user_based})
    assert seen == pytest.approx(formula, rel=0.05)


def test_slope_one_holds_two(host: Host, middling: Ratings) -> None:
    seen, formula = growth(host, middling, "slopeone", {})
    assert seen == pytest.approx(formula, rel=0.05)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("svd", {"n_factors": 300, "n_epochs": 1}),
        ("nmf", {"n_factors": 150, "n_epochs": 1}),
        ("svdpp", {"n_factors": 100, "n_epochs": 1, "cache_ratings": True}),
        ("svdpp", {"n_factors": 60, "n_epochs": 1}),
        ("als", {"factors": 1500, "iterations": 1, "cg_steps": 1}),
    ],
)
def test_factors_take_what_the_formula_says(host: Host, middling: Ratings, name: str, params: dict[str, Any]) -> None:
    seen, formula = growth(host, middling, name, params)
    assert seen == pytest.approx(formula, rel=0.2)
