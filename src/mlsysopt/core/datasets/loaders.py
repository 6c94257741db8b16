"""Each data set as plain numpy arrays.

Every loader takes the set's folder and returns a dictionary; its docstring says what is in it.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlsysopt.core.datasets.conversions import mnist_arrays
from mlsysopt.core.datasets.pickles import read_pickle
from mlsysopt.core.errors import DatasetError

__all__ = [
    "LOADERS",
    "ariane133",
    "gsrc",
    "har",
    "mnist",
    "musae_facebook",
    "nab",
    "nsl_kdd",
    "planetoid",
    "posteriordb",
]

Arrays = dict[str, Any]
Ints = npt.NDArray[np.int64]


def mnist(folder: Path) -> Arrays:
    """X_train (60000, 28, 28) uint8, y_train (60000,), X_test (10000, 28, 28), y_test (10000,).

    Rows are sorted by class, then by pixels, so that every copy gives the same order: shuffle with a
    fixed seed before taking a part.
    """
    return dict(mnist_arrays(folder / "mnist.npz"))


def har(folder: Path) -> Arrays:
    """X_train (2400, 9, 128) float32, y_train (2400,) uint8 in 0..5, X_test (950, 9, 128), y_test.

    Channels: body acceleration x y z, angular velocity x y z, total acceleration x y z.
    """
    with np.load(folder / "har.npz", allow_pickle=False) as archive:
        return {f"{kind}_{part}": archive[f"{kind}{part}"] for kind in ("X", "y") for part in ("train", "test")}


def planetoid(folder: Path) -> Arrays:
    """Cora: x (2708, 1433) float32, y (2708,) class, edges (2, m) both ways and sorted, train, val, test (indices).

    The split is the usual one: 140 labelled papers, the next 500, and the 1,000 of the test file.
    """
    tx, allx = (read_pickle(folder / f"ind.cora.{name}").dense() for name in ("tx", "allx"))
    y, ty, ally = (read_pickle(folder / f"ind.cora.{name}") for name in ("y", "ty", "ally"))
    test = np.loadtxt(folder / "ind.cora.test.index", dtype=np.int64)
    features = np.concatenate([allx, tx])
    labels = np.concatenate([ally, ty]).argmax(axis=1)
    # The test file lists its papers in another order than their rows.
    order = np.sort(test)
    features[test], labels[test] = features[order].copy(), labels[order].copy()
    graph: Mapping[int, list[int]] = read_pickle(folder / "ind.cora.graph")
    pairs = [(a, b) for a, others in graph.items() for b in others]
    return {
        "x": features,
        "y": labels.astype(np.int64),
        "edges": _both_ways(np.asarray(pairs, dtype=np.int64)),
        "train": np.arange(len(y)),
        "val": np.arange(len(y), len(y) + 500),
        "test": order,
    }


def musae_facebook(folder: Path) -> Arrays:
    """Pages: edges (2, m) both ways and sorted, y (22470,) class, classes (4,) their names.

    Features are rows of a sparse binary matrix: those of page i are
    `columns[starts[i]:starts[i + 1]]`; n_features is their number.
    """
    with (folder / "facebook_edges.csv").open(newline="", encoding="utf-8") as stream:
        pairs = np.asarray([(int(row["id_1"]), int(row["id_2"])) for row in csv.DictReader(stream)], dtype=np.int64)
    with (folder / "facebook_target.csv").open(newline="", encoding="utf-8") as stream:
        kinds = {int(row["id"]): row["page_type"] for row in csv.DictReader(stream)}
    classes, labels = np.unique([kinds[i] for i in range(len(kinds))], return_inverse=True)
    rows: Mapping[str, list[int]] = json.loads((folder / "facebook.json").read_text(encoding="utf-8"))
    lists = [sorted(set(rows[str(i)])) for i in range(len(kinds))]
    starts, columns = _ragged(lists)
    return {
        "edges": _both_ways(pairs),
        "y": labels.astype(np.int64),
        "classes": classes,
        "starts": starts,
        "columns": columns,
        "n_features": int(columns.max()) + 1,
    }


def nab(folder: Path) -> Arrays:
    """Per machine, by file name without ending: time (n,) datetime64[s], value (n,) percent of CPU."""
    found: Arrays = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        found[path.stem] = {
            "time": np.asarray([row["timestamp"] for row in rows], dtype="datetime64[s]"),
            "value": np.asarray([float(row["value"]) for row in rows]),
        }
    return found


def nsl_kdd(folder: Path) -> Arrays:
    """Flows: numeric_train (n, 38) float64, symbolic_train (n, 3) text, label_train, attack_train, difficulty_train.

    The same for `test`; numeric_names and symbolic_names name the columns. `attack` is the
    category of the label: normal, dos, probe, r2l or u2r; unknown for labels that the list of
    categories does not hold, which occur in the test set only.
    """
    names, symbolic = _fields(folder / "Field Names.csv")
    # That file ends its lines in the old Mac way.
    lines = (folder / "Attack Types.csv").read_text(encoding="ascii").split()
    category = dict(line.split(",") for line in lines)
    found: Arrays = {
        "numeric_names": np.asarray([name for name, text in zip(names, symbolic, strict=True) if not text]),
        "symbolic_names": np.asarray([name for name, text in zip(names, symbolic, strict=True) if text]),
    }
    for part, file in (("train", "KDDTrain+_20Percent.txt"), ("test", "KDDTest+.txt")):
        with (folder / file).open(newline="", encoding="ascii") as stream:
            rows = list(csv.reader(stream))
        columns = list(zip(*rows, strict=True))
        pairs = list(zip(columns, symbolic, strict=False))
        found[f"numeric_{part}"] = np.asarray([column for column, text in pairs if not text], dtype=np.float64).T
        found[f"symbolic_{part}"] = np.asarray([column for column, text in pairs if text]).T
        labels = columns[len(names)]
        found[f"label_{part}"] = np.asarray(labels)
        found[f"attack_{part}"] = np.asarray([category.get(label, "unknown") for label in labels])
        found[f"difficulty_{part}"] = np.asarray(columns[len(names) + 1], dtype=np.int64)
    return found


def gsrc(folder: Path) -> Arrays:
    """Per design (n100, n300, ami49): names (b,), width (b,), height (b,) of blocks; pads; nets.

    pads (p,) names their terminals, pad_xy (p, 2) their places (not given for ami49: shape (0, 2)).
    The pins of net i are `pins[starts[i]:starts[i + 1]]`: below b a block, from b on a pad.
    """
    return {
        "n100": _design(folder, "n100"),
        "n300": _design(folder, "n300"),
        "ami49": _ami49(folder),
    }


def ariane133(folder: Path) -> Arrays:
    """Netlist and placements in the format of Circuit Training.

    node (n,) names, kind (n,) of {PORT, MACRO, macro, MACRO_PIN, macro_pin}, xy (n, 2), size (n, 2),
    offset (n, 2) of pins, macro (n,) index of a pin's macro or -1, weight (n,) of the net it drives.
    The nodes that node i drives are `sinks[starts[i]:starts[i + 1]]`. All lengths in micrometres.
    placements: file name -> {"index", "xy", "orientation", "fixed", "header" (text by word)}.
    """
    with gzip.open(folder / "netlist.pb.txt.gz", "rt", encoding="utf-8") as stream:
        nodes = [node for node in _nodes(stream) if node["name"] != "__metadata__"]
    index = {node["name"]: i for i, node in enumerate(nodes)}
    starts, sinks = _ragged([[index[name] for name in node["input"]] for node in nodes])

    def number(key: str, default: float = 0.0) -> npt.NDArray[np.float64]:
        return np.asarray([float(node.get(key, default)) for node in nodes])

    return {
        "node": np.asarray([node["name"] for node in nodes]),
        "kind": np.asarray([node.get("type", "") for node in nodes]),
        "xy": np.stack([number("x"), number("y")], axis=1),
        "size": np.stack([number("width"), number("height")], axis=1),
        "offset": np.stack([number("x_offset"), number("y_offset")], axis=1),
        "macro": np.asarray([index.get(node.get("macro_name", ""), -1) for node in nodes]),
        "weight": number("weight", 1.0),
        "starts": starts,
        "sinks": sinks,
        "placements": {path.name: _placement(path) for path in sorted(folder.glob("*.plc"))},
    }


def posteriordb(folder: Path) -> Arrays:
    """Per posterior, `DATA-MODEL`: data (name -> array or number) and draws (parameter -> (10, 1000))."""
    data = {
        path.name.removesuffix(".data.json"): {
            name: np.asarray(value) if isinstance(value, list) else value
            for name, value in json.loads(path.read_text(encoding="utf-8")).items()
        }
        for path in sorted(folder.glob("*.data.json"))
    }
    found: Arrays = {}
    for path in sorted(folder.glob("*.draws.json.gz")):
        name = path.name.removesuffix(".draws.json.gz")
        chains: list[dict[str, list[float]]] = json.loads(gzip.decompress(path.read_bytes()))
        draws = {parameter: np.asarray([chain[parameter] for chain in chains]) for parameter in chains[0]}
        found[name] = {"data": data[name.partition("-")[0]], "draws": draws}
    return found


def _both_ways(pairs: Ints) -> Ints:
    """Return each edge once in both directions, sorted, without loops: (m, 2) -> (2, 2m')."""
    kept = pairs[pairs[:, 0] != pairs[:, 1]]
    return np.unique(np.concatenate([kept, kept[:, ::-1]]), axis=0).T.copy()


def _ragged(lists: Iterable[list[int]]) -> tuple[Ints, Ints]:
    rows = list(lists)
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    flat = np.asarray([value for row in rows for value in row], dtype=np.int64)
    return starts, flat


def _fields(path: Path) -> tuple[list[str], list[bool]]:
    with path.open(newline="", encoding="ascii") as stream:
        rows = [row for row in csv.reader(stream) if row]
    return [row[0].strip() for row in rows], [row[1].strip() == "symbolic" for row in rows]


_CORNERS = re.compile(r"\(\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*\)")


def _design(folder: Path, design: str) -> Arrays:
    names: list[str] = []
    sizes: list[tuple[float, float]] = []
    for line in (folder / f"{design}.hardblocks").read_text(encoding="ascii").splitlines():
        corners = [(float(x), float(y)) for x, y in _CORNERS.findall(line)]
        if "hardrectilinear" in line and corners:
            names.append(line.split()[0])
            sizes.append((max(x for x, _ in corners), max(y for _, y in corners)))
    places = {
        fields[0]: (float(fields[1]), float(fields[2]))
        for fields in map(str.split, (folder / f"{design}.pl").read_text(encoding="ascii").splitlines())
        if len(fields) >= 3 and fields[0].startswith("p")
    }
    return _floorplan(names, sizes, list(places), list(places.values()), folder / f"{design}.nets")


def _ami49(folder: Path) -> Arrays:
    rows = [line.split() for line in (folder / "ami49.block").read_text(encoding="ascii").splitlines()]
    blocks = [row for row in rows if len(row) == 3 and ":" not in row[0] and row[1] != "terminal"]
    pads = [row for row in rows if len(row) >= 2 and row[1] == "terminal"]
    sizes = [(float(row[1]), float(row[2])) for row in blocks]
    xy = [(float(row[2]), float(row[3])) for row in pads if len(row) == 4]
    return _floorplan([row[0] for row in blocks], sizes, [row[0] for row in pads], xy, folder / "ami49.nets")


def _floorplan(
    names: list[str], sizes: list[tuple[float, float]], pads: list[str], pad_xy: list[tuple[float, float]], nets: Path
) -> Arrays:
    index = {name: i for i, name in enumerate([*names, *pads])}
    lists: list[list[int]] = []
    for line in nets.read_text(encoding="ascii").splitlines():
        fields = line.split()
        if not fields or fields[0].startswith(("NumNets", "NumPins")):
            continue
        if fields[0].startswith("NetDegree"):
            lists.append([])
        elif fields[0] in index and lists:
            lists[-1].append(index[fields[0]])
        else:
            raise DatasetError(f"{nets}: {fields[0]!r} is neither a block nor a pad")
    starts, pins = _ragged(lists)
    width, height = np.asarray(sizes, dtype=np.float64).T
    return {
        "names": np.asarray(names), "width": width, "height": height,
        "pads": np.asarray(pads), "pad_xy": np.asarray(pad_xy, dtype=np.float64).reshape(-1, 2),
        "starts": starts, "pins": pins,
    }  # fmt: skip


def _nodes(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    """Yield the nodes of a text protocol buffer: name, input (list), and each attribute's value."""
    node: dict[str, Any] | None = None
    key = ""
    for raw in lines:
        line = raw.strip()
        if line == "node {":
            if node is not None:
                yield node
            node = {"name": "", "input": []}
        elif node is None or line in ("attr {", "value {", "}"):
            continue
        else:
            word, _, value = line.partition(": ")
            value = value.strip('"')
            if word == "name":
                node["name"] = value
            elif word == "input":
                node["input"].append(value)
            elif word == "key":
                key = value
            elif word in ("placeholder", "f", "i", "s"):
                node[key] = value
    if node is not None:
        yield node


def _placement(path: Path) -> Arrays:
    header: dict[str, str] = {}
    rows: list[list[str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            if line.strip():
                rows.append(line.split())
        elif " : " in line:
            for word, value in re.findall(r"([\w% ,()+-]+?)\s+:\s+(\S+)", line[1:]):
                header[word.strip()] = value
    return {
        "index": np.asarray([int(row[0]) for row in rows]),
        "xy": np.asarray([[float(row[1]), float(row[2])] for row in rows]),
        "orientation": np.asarray([row[3] for row in rows]),
        "fixed": np.asarray([row[4] == "1" for row in rows]),
        "header": header,
    }


LOADERS: Mapping[str, Callable[[Path], Arrays]] = {
    "ariane133": ariane133,
    "gsrc": gsrc,
    "mnist": mnist,
    "musae-facebook": musae_facebook,
    "nab": nab,
    "nsl-kdd": nsl_kdd,
    "planetoid": planetoid,
    "posteriordb": posteriordb,
    "uci-har-subset": har,
}
