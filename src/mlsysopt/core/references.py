"""Where a method comes from: every target, sampler and estimator carries its references."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Reference"]


@dataclass(frozen=True, slots=True)
class Reference:
    """One cited work.

    >>> print(Reference("alabed2021", "inproceedings", "High-Dimensional Bayesian Optimization",
    ...                 "S. Alabed and E. Yoneki", 2021, {"booktitle": "EuroMLSys"}).bibtex())
    @inproceedings{alabed2021,
      author = {S. Alabed and E. Yoneki},
      title = {High-Dimensional Bayesian Optimization},
      year = {2021},
      booktitle = {EuroMLSys},
    }
    """

    key: str
    kind: str
    title: str
    authors: str
    year: int
    fields: dict[str, str]

    def bibtex(self) -> str:
        """Return the entry as BibTeX."""
        rows = {"author": self.authors, "title": self.title, "year": str(self.year), **self.fields}
        body = "".join(f"  {name} = {{{value}}},\n" for name, value in rows.items())
        return f"@{self.kind}{{{self.key},\n{body}}}"

    def text(self) -> str:
        """Return the entry as one line of plain text."""
        venue = self.fields.get("booktitle") or self.fields.get("journal") or self.fields.get("publisher") or ""
        parts = [self.authors, re.sub(r"[{}]", "", self.title), venue, str(self.year)]
        return ", ".join(part for part in parts if part)
