"""Drawings that live inside a page: unique ids, the page's own colours, nothing that runs or fetches."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from mlsysopt.core.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Drawing", "from_figure", "from_text"]

# What matplotlib draws in black, white and its greys follows the page, which may be light or dark.
_THEME = {
    "#000000": "currentColor",
    "#ffffff": "var(--surface, #fff)",
    "#cccccc": "var(--rule, #ccc)",
    "#b0b0b0": "var(--rule, #b0b0b0)",
}
_COLOUR = re.compile("|".join(_THEME), re.IGNORECASE)
_REFUSED = {"script", "style", "foreignObject", "iframe", "a", "animate", "set"}
_JOINS = "stroke-linejoin: round; stroke-linecap: butt"


@dataclass(frozen=True, slots=True)
class Drawing:
    """One SVG drawing whose ids begin with its name.

    Attributes:
        markup: The `<svg>` element without a namespace declaration.
    """

    markup: str

    def inline(self) -> str:
        """Return the element as it stands in an HTML page."""
        return self.markup

    def standalone(self) -> str:
        """Return the same drawing as a file of its own."""
        return '<?xml version="1.0" encoding="utf-8"?>\n' + self.markup.replace(
            "<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1
        )


def from_figure(figure: Figure, *, name: str, alt: str) -> Drawing:
    """Draw a matplotlib figure; the same figure gives the same text."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return from_text(buffer.getvalue(), name=name, alt=alt)


def from_text(text: str, *, name: str, alt: str) -> Drawing:
    """Check and adapt SVG text.

    Args:
        text: A document whose root is `<svg>`.
        name: Prefix of every id in it, unique within the page.
        alt: What the drawing says to those who cannot see it.

    Raises:
        UsageError: not SVG, or it would run or fetch something.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UsageError(f"figure {name}: not SVG: {error}") from None
    if _local(root.tag) != "svg":
        raise UsageError(f"figure {name}: the root must be <svg>, got <{_local(root.tag)}>")
    for parent in list(root.iter()):
        for child in [child for child in parent if _droppable(child)]:
            parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        if element.tag in _REFUSED:
            raise UsageError(f"figure {name}: <{element.tag}> is not allowed in a drawing")
        element.attrib = {
            _local(key): _adapt(_local(key), value, name) for key, value in element.attrib.items() if _keep(key)
        }
    _scale(root)
    title = ElementTree.Element("title", {"id": f"f{name}-title"})
    title.text = alt
    root.insert(0, title)
    root.attrib |= {"role": "img", "aria-labelledby": f"f{name}-title", "fill": "currentColor"}
    return Drawing(ElementTree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _droppable(element: ElementTree.Element) -> bool:
    # matplotlib's one style rule would apply to the whole page; the root carries the same as inherited properties.
    if _local(element.tag) == "style":
        return re.sub(r"\s", "", element.text or "") == "*{" + re.sub(r"\s", "", _JOINS) + "}"
    return _local(element.tag) in ("metadata", "title")


def _keep(key: str) -> bool:
    return not _local(key).lower().startswith("on")


def _adapt(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"f{name}-{value}"
    if key == "href":
        if value.startswith("data:image/png;base64,"):
            return value
        if not value.startswith("#"):
            raise UsageError(f"figure {name}: href {value!r} leads outside the drawing")
        return f"#f{name}-{value[1:]}"
    if re.search(r"url\((?!\s*#)", value):
        raise UsageError(f"figure {name}: {value!r} leads outside the drawing")
    value = re.sub(r"url\(\s*#", f"url(#f{name}-", value)
    return _COLOUR.sub(lambda hit: _THEME[hit.group().lower()], value)


def _scale(root: ElementTree.Element) -> None:
    # The page decides the width; the drawing keeps its shape and never grows past its own size.
    width = root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    limit = f"width: 100%; max-width: {width}; height: auto; " if width and "viewBox" in root.attrib else ""
    root.set("style", limit + _JOINS)
