"""Write the golden files of this folder anew.

    python tests/golden/infer/regenerate.py

`programs.txt` has the sites of the models of `tests/infer/models.py`, `explained.txt` their plans and refusals, both
without line numbers.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent


def programs() -> str:
    """Return the sites of every model as text."""
    from mlsysopt.infer.binding import bind
    from mlsysopt.infer.frontend.source import read
    from tests.infer.models import cases

    said: list[str] = []
    for case in cases():
        text = bind(read(case.function), case.inputs).program.text()
        said += [f"# {case.name}", *(line.partition(": ")[2] for line in text.splitlines()), ""]
    return "\n".join(said)


def explained() -> str:
    """Return what `explain` says of every model as text."""
    from mlsysopt.infer.compiled import Model
    from tests.infer.models import cases

    said: list[str] = []
    for case in cases():
        text = Model(case.function)(**case.inputs).explain()
        text = re.sub(r"\(line \d+\)", "(line)", re.sub(r"\(models\.py:[\d, ]+\)", "(models.py)", text))
        said += [f"# {case.name}", text, ""]
    return "\n".join(said)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[2]))
    (HERE / "programs.txt").write_text(programs())
    (HERE / "explained.txt").write_text(explained())
