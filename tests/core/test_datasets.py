"""Data sets: every way to a file is checked; whatever is wrong with it, nothing wrong is kept."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mlsysopt.core import datasets
from mlsysopt.core.datasets import conversions, fetch, loaders, registry
from mlsysopt.core.datasets.pickles import read_pickle
from mlsysopt.core.errors import DatasetError, UsageError
from mlsysopt.core.places import cache_dir


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A loopback web server whose files the set `toy` consists of; no mirror is set."""
    served: dict[str, bytes] = {"/a.csv": b"1,2\n" * 1000, "/b.csv": b"3,4\n"}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            content = served.get(self.path)
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    base = f"http://127.0.0.1:{server.server_port}"
    files = {
        name[1:]: registry.File(name[1:], (base + name,), _sha(content), len(content))
        for name, content in served.items()
    }
    toy = replace(registry.find("nab"), name="toy", files=files)
    monkeypatch.setattr(registry, "DATASETS", {**registry.DATASETS, "toy": toy})
    monkeypatch.delenv("MLSYSOPT_DATA", raising=False)
    try:
        yield SimpleNamespace(served=served, asked=asked, set=toy, base=base)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _cached() -> Path:
    return cache_dir() / "datasets" / "toy"


def test_downloads_once_and_checks(source: SimpleNamespace) -> None:
    seen: list[tuple[str, int, int]] = []
    folder = datasets.get("toy", progress=lambda *step: seen.append(step))
    assert folder == _cached() and sorted(file.name for file in folder.iterdir()) == ["a.csv", "b.csv"]
    assert ("a.csv", 4000, 4000) in seen and seen[-1] == ("b.csv", 4, 4)
    datasets.get("toy")
    assert source.asked == ["/a.csv", "/b.csv"]


def test_the_mirror_comes_first(source: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSYSOPT_DATA", str(tmp_path))
    (tmp_path / "toy").mkdir()
    for name, content in source.served.items():
        (tmp_path / "toy" / name[1:]).write_bytes(content)
    assert datasets.get("toy") == tmp_path / "toy" and source.asked == []
    (tmp_path / "toy" / "b.csv").unlink()
    assert datasets.get("toy") == _cached(), "a mirror that lacks a file does not hold the set"


def test_a_changed_source_is_not_kept(source: SimpleNamespace) -> None:
    source.served["/b.csv"] = b"3,5\n"
    with pytest.raises(DatasetError, match="no longer gives the published content") as error:
        datasets.get("toy")
    assert str(error.value).count("\n") <= 2
    assert [file.name for file in _cached().iterdir()] == ["a.csv"]
    source.served["/b.csv"] = b"3,4\n"
    datasets.get("toy")
    assert source.asked.count("/a.csv") == 1, "what was downloaded is not downloaded again"


def test_a_damaged_file_is_named(source: SimpleNamespace) -> None:
    folder = datasets.get("toy")
    (folder / "b.csv").write_bytes(b"9,9\n")
    with pytest.raises(DatasetError, match=r"b\.csv is not the published file"):
        datasets.get("toy")


def test_absent_and_offline_names_both_ways(source: SimpleNamespace) -> None:
    del source.served["/a.csv"]
    with pytest.raises(DatasetError) as error:
        datasets.get("toy")
    text = str(error.value)
    assert (
        "HTTP 404" in text
        and "mlsysopt data get toy" in text
        and "set MLSYSOPT_DATA=DIR" in text
        and text.count("\n") <= 2
    )
    assert error.value.exit_code == 1 and list(_cached().iterdir()) == []


def test_nobody_answers(source: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = replace(source.set.files["b.csv"], urls=("http://127.0.0.1:9/b.csv",))
    monkeypatch.setitem(registry.DATASETS, "toy", replace(source.set, files={"b.csv": silent}))
    with pytest.raises(DatasetError, match=r"cannot be downloaded: .*refused"):
        datasets.get("toy")


def test_a_cache_that_cannot_be_written(source: SimpleNamespace) -> None:
    cache_dir().mkdir(parents=True, exist_ok=True)
    (cache_dir() / "datasets").write_text("in the way")
    with pytest.raises(DatasetError, match="cannot be kept in"):
        datasets.get("toy")


def test_what_cannot_be_made_again_says_why(source: SimpleNamespace) -> None:
    with pytest.raises(DatasetError, match="was not published") as error:
        datasets.get("uci-har-subset")
    assert "har.npz" in str(error.value) and "MLSYSOPT_DATA" in str(error.value) and "go online" not in str(error.value)


def test_unknown_name(source: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="did you mean mnist"):
        datasets.get("mnits")


def test_every_set_is_complete() -> None:
    assert sorted(datasets.DATASETS) == sorted(loaders.LOADERS) and len(datasets.DATASETS) == 9
    for one in datasets.DATASETS.values():
        assert one.licence and one.about and one.citation.bibtex().startswith("@") and one.bytes > 0
        for file in one.files.values():
            assert len(file.sha256) == 64 and file.bytes > 0
            assert all(url.startswith("https://") for url in file.urls) and bool(file.urls) != bool(one.needs)
            assert (file.make in conversions.MAKERS) == bool(file.make)
            assert not file.content or file.make in conversions.CONTENT
    for listing in datasets.listed():
        json.dumps(listing.to_json())


def _idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(head + array.tobytes())


def test_mnist_is_made_of_the_official_files_in_any_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sets = [(rng.integers(0, 256, (n, 4, 4), np.uint8), rng.integers(0, 10, n, np.uint8)) for n in (50, 20)]
    digests: set[str] = set()
    for turn in range(3):
        parts: list[Path] = []
        for i, (images, labels) in enumerate(sets):
            order = rng.permutation(len(labels))
            for kind, array in (("x", images[order]), ("y", labels[order])):
                parts.append(tmp_path / f"{turn}{i}{kind}")
                parts[-1].write_bytes(_idx(array))
        made = tmp_path / f"{turn}.npz"
        conversions.MAKERS["mnist"](parts, made)
        digests.add(conversions.CONTENT["mnist"](made))
    assert len(digests) == 1
    read = conversions.mnist_arrays(made)
    assert (np.diff(read["y_train"].astype(int)) >= 0).all()
    pairs = {(label, image.tobytes()) for image, label in zip(*sets[0], strict=True)}
    assert {(y, x.tobytes()) for x, y in zip(read["X_train"], read["y_train"], strict=True)} == pairs


def test_an_idx_file_that_ends_early(tmp_path: Path) -> None:
    whole = gzip.decompress(_idx(np.zeros((3, 2, 2), np.uint8)))
    (tmp_path / "x").write_bytes(gzip.compress(whole[:-1]))
    with pytest.raises(ValueError, match="ends early"):
        conversions.MAKERS["mnist"]([tmp_path / "x"] * 4, tmp_path / "made")


def test_draws_are_rounded_and_recognised_by_content(source: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("toy.json", json.dumps([{"mu": [1.23456789, -0.00001234567]}]))
    source.served["/toy.json.zip"] = packed.getvalue()
    text = b'[{"mu":[1.23457,-1.23457e-05]}]'
    file = registry.File(
        "toy.draws.json.gz", (source.base + "/toy.json.zip",), "0" * 64, 1, "draws", content=_sha(text)
    )
    monkeypatch.setitem(registry.DATASETS, "toy", replace(source.set, files={file.name: file}))
    assert gzip.decompress((datasets.get("toy") / file.name).read_bytes()) == text
    source.served["/toy.json.zip"] = b"not a zip"
    (_cached() / file.name).unlink()
    with pytest.raises(DatasetError, match="no longer gives"):
        datasets.get("toy")


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/never",)


@pytest.mark.parametrize("value", [_Evil(), [1, {"a": _Evil()}]])
def test_a_pickle_runs_nothing(tmp_path: Path, value: object) -> None:
    (tmp_path / "evil").write_bytes(pickle.dumps(value))
    with pytest.raises(DatasetError, match="which is not data"):
        read_pickle(tmp_path / "evil")


def test_a_pickle_that_ends_early(tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(pickle.dumps([1, 2, 3])[:-3])
    with pytest.raises(DatasetError, match="is not read"):
        read_pickle(tmp_path / "cut")


def test_plain_lists_are_read(tmp_path: Path) -> None:
    (tmp_path / "fine").write_bytes(pickle.dumps({1: [2, 3]}, protocol=2))
    assert read_pickle(tmp_path / "fine") == {1: [2, 3]}


def test_files_are_hashed_once(source: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.get("toy")
    monkeypatch.setattr(fetch, "_sha256", lambda path: pytest.fail(f"{path} was read again"))
    datasets.get("toy")


def test_real_shapes(data_mirror: Path) -> None:
    """What the papers and file headers say of each set."""
    assert all(listing.path == data_mirror / listing.name for listing in datasets.listed())
    cora = datasets.load("planetoid")
    assert cora["x"].shape == (2708, 1433) and cora["edges"].shape == (2, 10556)
    assert (len(cora["train"]), len(cora["val"]), len(cora["test"])) == (140, 500, 1000)
    assert np.bincount(cora["y"]).tolist() == [351, 217, 418, 818, 426, 298, 180]
    assert np.bincount(cora["y"][cora["train"]]).tolist() == [20] * 7
    pages = datasets.load("musae-facebook")
    assert len(pages["y"]) == 22470 and pages["n_features"] == 4714 and len(pages["classes"]) == 4
    assert len(pages["starts"]) == 22471 and pages["edges"].max() == 22469
    flows = datasets.load("nsl-kdd")
    assert flows["numeric_train"].shape == (25192, 38) and flows["symbolic_test"].shape == (22544, 3)
    assert (flows["attack_train"] == "normal").sum() == 13449 and (flows["attack_test"] == "normal").sum() == 9711
    plans = datasets.load("gsrc")
    assert [len(plans[name]["names"]) for name in ("n100", "n300", "ami49")] == [100, 300, 49]
    assert [len(plans[name]["starts"]) - 1 for name in ("n100", "n300", "ami49")] == [885, 1893, 396]
    assert len(plans["n100"]["pins"]) == 1873 and len(plans["ami49"]["pads"]) == 22
    chip = datasets.load("ariane133")
    kinds = {kind: int((chip["kind"] == kind).sum()) for kind in ("PORT", "MACRO", "macro", "MACRO_PIN", "macro_pin")}
    assert kinds == {"PORT": 495, "MACRO": 133, "macro": 782, "MACRO_PIN": 7847, "macro_pin": 10630}
    assert float(chip["placements"]["legalized.plc"]["header"]["Wirelength cost"]) == 0.0736
    assert len(chip["placements"]["legalized.plc"]["index"]) == 495 + 133 + 782
    posteriors = datasets.load("posteriordb")
    assert len(posteriors) == 16 and posteriors["arK-arK"]["draws"]["alpha"].shape == (10, 1000)
    machines = datasets.load("nab")
    assert len(machines) == 7 and all(len(rows["time"]) == len(rows["value"]) >= 4032 for rows in machines.values())
    har = datasets.load("uci-har-subset")
    assert har["X_train"].shape == (2400, 9, 128) and sorted(set(har["y_test"].tolist())) == list(range(6))


def test_real_contents_are_those_of_the_conversions(data_mirror: Path) -> None:
    digits = datasets.load("mnist")
    assert digits["X_train"].shape == (60000, 28, 28) and np.bincount(digits["y_test"]).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    for name in ("mnist", "posteriordb"):
        for file in datasets.DATASETS[name].files.values():
            if file.content:
                assert conversions.CONTENT[file.make](data_mirror / name / file.name) == file.content
