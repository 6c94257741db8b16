"""Write `pg_settings.json` anew from the installed PostgreSQL, and from it the space of `essentials` as text.

    python tests/golden/tune/regenerate_postgres.py [--space]

With --space only the text is written, from the rows that are there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mlsysopt.core.processes import temporary_folder
from mlsysopt.core.space import Space
from mlsysopt.operate.tune.knobs import Catalogue
from mlsysopt.operate.tune.server import Address, Knob, Place
from mlsysopt.operate.tune.server_target import server_target
from mlsysopt.operate.tune.servers import postgres

HERE = Path(__file__).parent
ROWS, SPACE = HERE / "pg_settings.json", HERE / "essentials.txt"
MEMORY_BYTES = 2 * 2**30


def knobs() -> list[Knob]:
    """Return the recorded rows as the server file reads them."""
    return [postgres._knob(*row) for row in json.loads(ROWS.read_text())["rows"]]


def essentials() -> Space:
    """Return the space that is tuned when nobody says."""
    catalogue = Catalogue.of(postgres.server, knobs())
    texts = [text.replace("memory", str(MEMORY_BYTES)) for text in postgres.server.constraints]
    return catalogue.space(catalogue.chosen(None), texts)


def text_of(space: Space) -> str:
    """Return a space as one line for each parameter and constraint."""
    lines: list[str] = []
    for one in space:
        fields = {name: getattr(one, name) for name in one.__slots__ if name not in ("_", "name", "about")}
        told = ", ".join(
            f"{name}={value!r}" for name, value in fields.items() if value is not False and value not in ((), "", None)
        )
        lines.append(f"{one.name}: {type(one).__name__} {told}")
    return "\n".join([*lines, *(rule.text for rule in space.constraints), ""])


def main() -> None:
    if "--space" not in sys.argv[1:]:
        target = server_target(postgres.server, knobs="jit", memory="1GiB")
        with temporary_folder(base=target.directory, user=target.user) as folder:
            place = Place(folder / "data", target.programs, user=target.user)
            postgres.server.prepare(place)
            with postgres.server.service(place, {}) as service:
                rows = postgres._rows(Address(*service.address, place.folder, place.programs), postgres._KNOBS)
        written = ",\n".join(json.dumps(row, ensure_ascii=False) for row in sorted(rows))
        ROWS.write_text(f'{{"version": {json.dumps(target.version)}, "rows": [\n{written}\n]}}\n')
    SPACE.write_text(text_of(essentials()))


if __name__ == "__main__":
    main()
