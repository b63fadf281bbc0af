"""Matplotlib figures as inline SVG: colours from the page, text that stays text, user strings that cannot do harm."""

from __future__ import annotations

import io
import itertools
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# Stand-ins that matplotlib can draw with; the page's CSS variables take their place, so that dark mode can change them.
INK, MUTED, ACCENT, CONTRAST, FAINT = "#010101", "#020202", "#030303", "#040404", "#050505"
VARIABLES = {
    INK: "var(--ink)", MUTED: "var(--muted)", ACCENT: "var(--accent)", CONTRAST: "var(--contrast)",
    FAINT: "var(--line)",
}  # fmt: skip
WIDTH = 4.3  # inches; at 72 units an inch about the width of a phone, so that text keeps its size there
TOKEN = "zq{}qz"  # stands for a user's string while matplotlib draws, which never sees the string
LARGEST = 1.5  # times its size, up to which a figure grows on a wide screen
LONGEST = 28  # characters of a label in a figure
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "bayeshlm", "text.parse_math": False, "font.size": 9.5,
    "font.family": "sans-serif", "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED,
    "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.linewidth": 0.6, "xtick.major.width": 0.6,
    "ytick.major.width": 0.6, "xtick.major.size": 3.0, "ytick.major.size": 0.0, "axes.unicode_minus": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.formatter.useoffset": False, "axes.labelsize": 9.5,
}  # fmt: skip


def shown(text: object) -> str:
    """A string made safe to show: control characters, also those that turn the direction of text, become visible."""
    return "".join(_visible(character) for character in str(text))


def shortened(text: object, longest: int = LONGEST) -> str:
    """At most `longest` characters, the middle left out: both ends of a label tell groups apart."""
    line = " ".join(shown(text).split()) or "(blank)"
    if len(line) <= longest:
        return line
    tail = (longest - 1) // 2
    return f"{line[: longest - 1 - tail]}\N{HORIZONTAL ELLIPSIS}{line[-tail:]}"


class Canvas:
    """One figure under way. User strings are given to `text`, which returns what matplotlib may see of them."""

    def __init__(self, height: float, width: float = WIDTH) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(width, height))
        self.width, self.height = width, height
        self.strings: dict[str, str] = {}

    def axes(self, left: float, right: float, top: float, bottom: float) -> Axes:
        """The axes, with margins in inches (nothing is measured: no font has to know the user's characters)."""
        box = (left / self.width, bottom / self.height)
        size = (1 - (left + right) / self.width, 1 - (top + bottom) / self.height)
        axes = self.figure.add_axes((*box, *size))
        axes.patch.set_visible(False)
        return axes

    def text(self, string: object, longest: int = LONGEST) -> str:
        token = TOKEN.format(len(self.strings))
        self.strings[token] = shortened(string, longest)
        return token

    def svg(self, alt: str, key: str) -> str:
        """The figure as an SVG element; `key` makes its ids its own on the page."""
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        stream = io.StringIO()
        self.figure.patch.set_visible(False)
        self.figure.set_canvas(FigureCanvasSVG(self.figure))
        self.figure.savefig(stream, format="svg", metadata={"Date": None})
        root = ElementTree.fromstring(stream.getvalue())
        _clean(root, key, self.strings)
        root.set("role", "img")
        root.set("aria-label", shown(alt))
        root.set("style", f"max-width:{self.width * 72 * LARGEST:.0f}px")
        for name in ("width", "height", "version"):
            root.attrib.pop(name, None)
        return ElementTree.tostring(root, encoding="unicode")


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's settings for the report, whatever the user's are."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def _clean(root: ElementTree.Element, key: str, strings: dict[str, str]) -> None:
    for parent in root.iter():
        for child in [child for child in parent if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style")]:
            parent.remove(child)
    used = set(re.findall(r"#([\w-]+)", " ".join(_references(root))))
    for element in root.iter():
        element.tag = str(element.tag).removeprefix(f"{{{SVG}}}")  # inline in HTML it needs no namespace
        element.attrib = dict(_attributes(element.attrib, key, used))
        if element.text in strings:
            element.text = strings[element.text]
        elif element.text and not element.text.strip():
            element.text = None
        element.tail = None


def _references(root: ElementTree.Element) -> Iterator[str]:
    values = itertools.chain.from_iterable(element.attrib.values() for element in root.iter())
    return (value for value in values if "#" in value)


def _attributes(given: dict[str, str], key: str, used: set[str]) -> Iterator[tuple[str, str]]:
    for name, value in given.items():
        if name == f"{{{XLINK}}}href":
            yield "href", value.replace("#", f"#{key}-", 1)
        elif name == "id":
            if value in used:
                yield name, f"{key}-{value}"
        elif name == "style":
            yield name, re.sub(r" font-family:[^;]*;|url\(#|#\d{6}", lambda found: _styled(found[0], key), value)
        elif name != "transform" or not value.startswith("rotate(-0 "):
            yield name, value.replace("url(#", f"url(#{key}-")


def _styled(part: str, key: str) -> str:
    if part.startswith(" font-family"):
        return ""  # the page's font
    return f"url(#{key}-" if part.startswith("url") else VARIABLES.get(part, part)


def _visible(character: str) -> str:
    if character in "\n\r\t":
        return " "
    kind = unicodedata.category(character)
    return "\N{REPLACEMENT CHARACTER}" if kind in ("Cc", "Cf", "Cs") and character not in "\u200d\u00ad" else character


def label_width(labels: list[Any]) -> float:
    """Inches that the longest of these labels needs, roughly."""
    return 0.14 + 0.078 * max((sum(map(_columns, shortened(label))) for label in labels), default=0)


def _columns(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
