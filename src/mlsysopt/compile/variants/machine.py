"""What is known about this machine: how long each variant took for each site, in one file that grows.

Times of another processor, another set of libraries or another cap on its vector units stay in the file and are not
used. A file that cannot be read or written costs one warning: the profile then lives in memory.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mlsysopt.compile.variants.calibration import Roofline, guessed_roofline, measure_roofline
from mlsysopt.compile.variants.fingerprint import Fingerprint, fingerprint
from mlsysopt.compile.variants.site import Site, Variant
from mlsysopt.compile.variants.timing import Row
from mlsysopt.core.errors import ArtefactError, MlsysoptError, StoreUnavailable
from mlsysopt.core.places import artefact_header, cache_dir, read_header, replace_file

if TYPE_CHECKING:
    from mlsysopt.compile.variants.measuring import Progress
    from mlsysopt.core.store import Store
    from mlsysopt.core.store.database import Database

__all__ = ["Fingerprint", "MachineProfile", "Roofline", "fingerprint"]

log = logging.getLogger("mlsysopt.compile")

ROOM = "machine"
_FORMAT = "machine-profile"


@dataclass
class MachineProfile:
    """Measured rows of this machine; `open` reads them from the file that all programs of a user share.

    Attributes:
        here: The machine.
        path: File that it was read from, None in memory.
        others: Rows of other machines in that file, by machine.
        models: What has been fitted to the rows so far, kept by `price`.
    """

    here: Fingerprint = field(default_factory=fingerprint)
    path: Path | None = None
    others: dict[Fingerprint, int] = field(default_factory=dict)
    models: dict[Any, Any] = field(default_factory=dict, repr=False)
    _rows: dict[tuple[str, str, str, str], Row] = field(default_factory=dict, repr=False)
    _fits: dict[str, tuple[int, str]] = field(default_factory=dict, repr=False)
    _series: dict[tuple[Any, ...], dict[int, Row]] = field(default_factory=dict, repr=False)
    _roofline: Roofline | None = None
    _store: Store | None = field(default=None, repr=False)
    _named: set[str] = field(default_factory=set, repr=False)

    @classmethod
    def open(cls, path: Path | str | None = None) -> Self:
        """Open the profile of this machine.

        Args:
            path: SQLite file; None takes `machine.db` in the cache folder. It is made when there is something to keep.

        >>> profile = MachineProfile.open()
        >>> profile.find("aten.nt", "1", Site.linear(8, 16, 16)) is None
        True
        """
        place = Path(path) if path is not None else cache_dir() / "machine.db"
        profile = cls(path=place)
        try:
            profile._read(place)
        except (MlsysoptError, OSError, ValueError, KeyError, TypeError) as error:
            profile._give_up(place, error)
        return profile

    @property
    def rows(self) -> list[Row]:
        """The newest row of each variant, site and residency, in the order in which they were measured."""
        return list(self._rows.values())

    @property
    def roofline(self) -> Roofline:
        """Bounds of the machine: as measured, else a guess by its vector unit at 2.5 GHz and one memory channel."""
        return self._roofline or guessed_roofline(self.here)

    def find(self, variant: str, version: str, site: Site, residency: str = "cold") -> Row | None:
        """Return the row of a variant for exactly this site."""
        return self._rows.get((variant, version, site.key, residency))

    def series(self, variant: Variant, site: Site, residency: str = "cold") -> Mapping[int, Row]:
        """Return the rows of a variant, by M, for sites that differ from one in M alone, or in the bias."""
        return self._series.get(_series_key(variant.name, variant.version, site, residency), {})

    def rows_of(self, variant: Variant, residency: str = "cold") -> list[Row]:
        """Return all rows of a variant."""
        wanted = (variant.name, variant.version, residency)
        return [row for key, some in self._series.items() if key[:3] == wanted for row in some.values()]

    def add(self, rows: Iterable[Row]) -> None:
        """Keep rows, in place of older ones of the same variant, site and residency; each is on disk when this ends."""
        for row in rows:
            self._remember(row)
            self._write({"kind": "row", **row.as_dict()})

    def fit(self, key: str) -> tuple[int, str] | None:
        """Return what was fitted to how many rows, as text; None when nothing of that name is kept."""
        return self._fits.get(key)

    def keep_fit(self, key: str, rows: int, text: str) -> None:
        """Keep what was fitted to so many rows: to read it takes a hundredth of what fitting takes."""
        self._fits[key] = (rows, text)
        self._write({"kind": "fit", "name": key, "rows": rows, "text": text})

    def calibrate(self) -> Roofline:
        """Measure the bounds of this machine, once; takes some 50 ms."""
        if self._roofline is None:
            self._roofline = measure_roofline()
            self._write({"kind": "roofline", **asdict(self._roofline)})
        return self._roofline

    def measure(
        self,
        sites: Sequence[Site],
        variants: Sequence[Variant],
        *,
        budget_s: float | None = None,
        residency: str = "cold",
        progress: Callable[[Progress], None] | None = None,
    ) -> list[Row]:
        """Time variants for sites, most useful first, and keep what is found; see `measuring.measure`."""
        from mlsysopt.compile.variants.measuring import measure

        return measure(self, sites, variants, budget_s=budget_s, residency=residency, progress=progress)

    def covers(self, variant: Variant, site: Site, residency: str = "cold") -> bool:
        """Whether there is nothing to measure: a row, or a refusal."""
        return (
            self.find(variant.name, variant.version, site, residency) is not None or variant.supports(site) is not None
        )

    def threads_measured(self) -> tuple[int, ...]:
        """Return the thread counts that have rows."""
        return tuple(sorted({row.site.threads for row in self._rows.values()}))

    def export(self, path: Path | str) -> int:
        """Write this machine's rows to a JSON file that other machines of its kind can import; return how many."""
        bounds = asdict(self._roofline) if self._roofline is not None else None
        content = {
            **artefact_header(_FORMAT, 1, machine=self.here.key),
            "fingerprint": asdict(self.here),
            "roofline": bounds,
            "rows": [row.as_dict() for row in self._rows.values()],
        }
        replace_file(Path(path), json.dumps(content, indent=1).encode())
        return len(self._rows)

    def import_(self, path: Path | str) -> tuple[int, Fingerprint]:
        """Read what `export` wrote; rows of another machine are kept under its name and not used here.

        Returns:
            How many rows, and whose they are.

        Raises:
            ArtefactError: another format, newer, or damaged.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            read_header(content, _FORMAT, 1)
            whose = Fingerprint.of(content["fingerprint"])
            rows = [Row.of(one) for one in content["rows"]]
            bounds = None if content["roofline"] is None else Roofline(**content["roofline"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, ArtefactError):
                raise
            raise ArtefactError(f"{path} is damaged: {type(error).__name__}: {error}") from None
        if whose == self.here:
            self.add(rows)
            self._roofline = bounds if self._roofline is None else self._roofline
            return len(rows), whose
        for row in rows:
            self._write({"kind": "row", **row.as_dict()}, whose)
        self.others[whose] = self.others.get(whose, 0) + len(rows)
        return len(rows), whose

    def close(self) -> None:
        """Close the file; what was added is on disk already."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _remember(self, row: Row) -> None:
        key = (row.variant, row.version, row.site.key, row.residency)
        self._rows.pop(key, None)
        self._rows[key] = row
        if "M" in dict(row.site.sizes):
            series = _series_key(row.variant, row.version, row.site, row.residency)
            self._series.setdefault(series, {})[row.site.number("M")] = row

    def _read(self, place: Path) -> None:
        if not place.exists():
            return
        from mlsysopt.core.store.notes import Notes

        database = _reader(place)
        machines: dict[str, Fingerprint] = {}
        counts: dict[str, int] = {}
        try:
            for sample in Notes(database).samples(ROOM):
                kind = sample.row.get("kind")
                if kind == "machine":
                    machines[sample.key] = Fingerprint.of(sample.row)
                elif sample.key != self.here.key:
                    counts[sample.key] = counts.get(sample.key, 0) + (kind == "row")
                elif kind == "roofline":
                    self._roofline = Roofline(**{k: v for k, v in sample.row.items() if k != "kind"})
                elif kind == "fit":
                    self._fits[str(sample.row["name"])] = (int(sample.row["rows"]), str(sample.row["text"]))
                else:
                    self._remember(Row.of(sample.row))
        finally:
            database.close()
        self._named = set(machines)
        self.others = {machines[key]: count for key, count in counts.items() if key in machines}

    def _write(self, row: Mapping[str, Any], whose: Fingerprint | None = None) -> None:
        if self.path is None:
            return
        owner = whose or self.here
        try:
            if self._store is None:
                from mlsysopt.core.store import Store

                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._store = Store.open(self.path)
            if owner.key not in self._named:
                self._store.add_sample(ROOM, owner.key, {"kind": "machine", **asdict(owner)})
                self._named.add(owner.key)
            self._store.add_sample(ROOM, owner.key, row)
        except (MlsysoptError, OSError) as error:
            self._give_up(self.path, error)

    def _give_up(self, place: Path, error: BaseException) -> None:
        """Go on in memory."""
        log.warning("what is measured on this machine is kept in memory only: %s: %s", place, _first_line(error))
        self.close()
        self.path = None


def _series_key(variant: str, version_: str, site: Site, residency: str) -> tuple[Any, ...]:
    # A bias costs nothing that could be measured.
    after = site.epilogue.activation, site.epilogue.residual
    sizes = tuple(one for one in site.sizes if one[0] != "M")
    return (variant, version_, residency, site.op, sizes, site.dtype, site.threads, site.constant_weights, *after)


def _reader(place: Path) -> Database:
    """Open a file for reading alone: without what writing needs, which takes a second to import."""
    from functools import partial

    import sqlalchemy as sa

    from mlsysopt.core.store import sqlite_file
    from mlsysopt.core.store.address import Address
    from mlsysopt.core.store.database import Database
    from mlsysopt.core.store.faults import guarded

    address = Address.parse(place)
    with guarded(address):
        state, _ = sqlite_file.inspect(place, create=False, read_only=True)
    if state != "ours":
        raise StoreUnavailable(f"store {place} holds nothing of this program")
    engine = sa.create_engine(
        "sqlite://", creator=partial(sqlite_file.connect_read_only, place), poolclass=sa.StaticPool
    )
    return Database(address, engine, None, read_only=True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
