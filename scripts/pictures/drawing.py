"""A small SVG writer: boxes, arrows and texts on a page that suits light and dark screens.

Coordinates are in pixels, y downward. A picture is narrow (`WIDTH`), so that its texts stay readable on a phone, and has a
background of its own, so that it can be read wherever it is shown. The same calls give the same bytes.
"""

import html
from collections.abc import Sequence
from typing import Literal, NamedTuple

WIDTH = 420
"""Width of every picture: the texts keep four fifths of their size on a screen of 390 pixels."""
SIZES = {"title": 15.0, "strong": 13.5, "plain": 12.5, "small": 11.5}
"""Font sizes of the styles of text."""

Style = Literal["title", "strong", "plain", "small"]
Kind = Literal["plain", "rate", "attention", "feedforward", "convolution", "bypass"]
Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]

_OPERATOR_RADIUS = 9.0
_CORNER = 5.0
_LINE_HEIGHT = 1.28
# Widths of letters relative to the font size, of DejaVu Sans, which is wider than the other fonts of the style sheet.
_NARROW, _WIDE = "fijlrtI.,:;'|()[] /-·", "mwMW%—÷×+=→≤"
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', Arial, sans-serif"
_LIGHT = {
    "page": ("#fcfcfd", "#d5dae1"),
    "plain": ("#eef1f5", "#7d8998"),
    "rate": ("#dfeafa", "#3f74b8"),
    "attention": ("#fde9d4", "#b96d21"),
    "feedforward": ("#ebe5fa", "#7659b8"),
    "convolution": ("#dcf1e3", "#36845a"),
    "bypass": ("#fbf3c4", "#94800f"),
}
_DARK = {
    "page": ("#151a21", "#333c48"),
    "plain": ("#252c36", "#8a96a6"),
    "rate": ("#1d3350", "#78a8e4"),
    "attention": ("#472f17", "#e2a566"),
    "feedforward": ("#332952", "#ab93ea"),
    "convolution": ("#1a3d2b", "#6cc196"),
    "bypass": ("#3f390f", "#d6c04a"),
}
_INK = {"light": ("#1c232c", "#566271", "#4a5563"), "dark": ("#e8edf3", "#a7b2bf", "#aab5c2")}


class Box(NamedTuple):
    """A rectangle on the page."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """x of its right edge."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """y of its lower edge."""
        return self.top + self.height

    @property
    def middle(self) -> float:
        """x of its center."""
        return self.left + self.width / 2

    @property
    def center(self) -> float:
        """y of its center."""
        return self.top + self.height / 2


def text_width(text: str, style: Style) -> float:
    """Width of a text in a wide font, so that what fits by this measure fits in the other fonts as well."""
    ems = sum(0.38 if letter in _NARROW else 0.95 if letter in _WIDE else 0.62 for letter in text)
    return ems * SIZES[style] * (1.09 if style in ("title", "strong") else 1.0)


class Drawing:
    """A picture in progress; `svg` returns it."""

    def __init__(self, title: str, description: str) -> None:
        self.title, self.description = title, description
        self.height = 0.0
        """Height of the page; whoever draws sets it at the end."""
        self.texts: list[tuple[Box, str]] = []
        """The place and the content of every text."""
        self._elements: list[str] = []

    def box(self, place: Box, lines: Sequence[str], kind: Kind = "plain", *, styles: Sequence[Style] = ()) -> Box:
        """Draw a box with centered lines of text: the first strong and the others plain, unless `styles` says otherwise.

        Raises:
            ValueError: the text is too large for the box.
        """
        styles = styles or ("strong", *["plain"] * (len(lines) - 1))
        self._add(f'<rect class="{kind}" {_place(place)} rx="{_CORNER:g}"/>')
        heights = [SIZES[style] * _LINE_HEIGHT for style in styles]
        top = place.center - sum(heights) / 2
        if sum(heights) > place.height or max(map(text_width, lines, styles)) > place.width - 6:
            raise ValueError(f"the text must fit in its box, but {lines} is larger than {place}; shorten it")
        for line, style, height in zip(lines, styles, heights, strict=True):
            self.text((place.middle, top + height * 0.78), line, style, anchor="middle")
            top += height
        return place

    def frame(self, place: Box, heading: str) -> Box:
        """Draw an empty box with a heading in its upper left corner."""
        self._add(f'<rect class="frame" {_place(place)} rx="{_CORNER + 3:g}"/>')
        self.text((place.left + 12, place.top + 22), heading, "title")
        return place

    def text(self, at: Point, text: str, style: Style = "plain", *, anchor: Anchor = "start", is_soft: bool = False) -> None:
        """Write one line of text; `at` is the start, the middle or the end of its baseline.

        Raises:
            ValueError: the text leaves the page.
        """
        width = text_width(text, style)
        left = at[0] - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        if left < 0 or left + width > WIDTH:
            raise ValueError(
                f"a text must be on the page, but {text!r} reaches from {left:.0f} to {left + width:.0f}; shorten it"
            )
        self.texts.append((Box(left, at[1] - SIZES[style] * 0.8, width, SIZES[style]), text))
        classes = f"{style} soft" if is_soft else style
        where = f'x="{at[0]:g}" y="{at[1]:g}"' + ("" if anchor == "start" else f' text-anchor="{anchor}"')
        self._add(f'<text class="{classes}" {where}>{html.escape(text, quote=False)}</text>')

    def line(self, *points: Point) -> None:
        """Draw a line through points."""
        self._add(f'<path class="line" d="{_through(points)}"/>')

    def arrow(self, *points: Point) -> None:
        """Draw a line through points that ends in an arrowhead exactly at the last one."""
        self._add(f'<path class="line" d="{_through(points)}" marker-end="url(#head)"/>')

    def operator(self, at: Point, sign: Literal["+", "×"]) -> Box:
        """Draw a circle with a plus or a times sign."""
        (x, y), reach = at, 4.5 if sign == "+" else 3.4
        arms = f"M{x - reach:g} {y:g}H{x + reach:g}M{x:g} {y - reach:g}V{y + reach:g}"
        if sign == "×":
            arms = f"M{x - reach:g} {y - reach:g}l{2 * reach:g} {2 * reach:g}m0 {-2 * reach:g}l{-2 * reach:g} {2 * reach:g}"
        self._add(f'<circle class="plain" cx="{x:g}" cy="{y:g}" r="{_OPERATOR_RADIUS:g}"/><path class="line" d="{arms}"/>')
        return Box(x - _OPERATOR_RADIUS, y - _OPERATOR_RADIUS, 2 * _OPERATOR_RADIUS, 2 * _OPERATOR_RADIUS)

    def dot(self, at: Point) -> None:
        """Draw a small disc, where lines branch."""
        self._add(f'<circle class="dot" cx="{at[0]:g}" cy="{at[1]:g}" r="3"/>')

    def path(self, *points: Point) -> None:
        """Draw a line that stands out through points."""
        self._add(f'<path class="path" d="{_through(points)}"/>')

    def stop(self, at: Point) -> None:
        """Draw a stop on a `path`."""
        self._add(f'<circle class="stop" cx="{at[0]:g}" cy="{at[1]:g}" r="4.5"/>')

    def shade(self, place: Box, kind: Kind) -> None:
        """Draw a box without text, for what is written over it."""
        self._add(f'<rect class="{kind}" {_place(place)} rx="{_CORNER:g}"/>')

    def svg(self) -> str:
        """The picture as the content of an SVG file."""
        size = f'width="{WIDTH}" height="{self.height:g}" viewBox="0 0 {WIDTH} {self.height:g}"'
        page = Box(0.5, 0.5, WIDTH - 1, self.height - 1)
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title desc">',
                f'<title id="title">{html.escape(self.title, quote=False)}</title>',
                f'<desc id="desc">{html.escape(self.description, quote=False)}</desc>',
                f"<style>\n{_style_sheet()}\n</style>",
                '<marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto" '
                'markerUnits="userSpaceOnUse"><path class="head" d="M0 0.5L7.5 4L0 7.5z"/></marker>',
                f'<rect class="page" {_place(page)} rx="8"/>',
                *self._elements,
                "</svg>\n",
            ]
        )

    def _add(self, element: str) -> None:
        self._elements.append(element)


def _place(box: Box) -> str:
    return f'x="{box.left:g}" y="{box.top:g}" width="{box.width:g}" height="{box.height:g}"'


def _through(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def _style_sheet() -> str:
    """Fonts, and the colors of both kinds of screen."""
    sizes = [f".{style}{{font-size:{size:g}px}}" for style, size in SIZES.items()]
    return "\n".join(
        [
            f"text{{font-family:{_FONTS}}}",
            *sizes,
            ".title,.strong{font-weight:600}",
            "rect,circle{stroke-width:1.2}",
            ".line{fill:none;stroke-width:1.4;stroke-linejoin:round}",
            *_colors(_LIGHT, *_INK["light"]),
            "@media (prefers-color-scheme:dark){",
            *_colors(_DARK, *_INK["dark"]),
            "}",
        ]
    )


def _colors(palette: dict[str, tuple[str, str]], ink: str, soft: str, line: str) -> list[str]:
    return [
        *(f".{name}{{fill:{fill};stroke:{edge}}}" for name, (fill, edge) in palette.items()),
        f".stop{{fill:{palette['page'][0]};stroke:{palette['rate'][1]};stroke-width:2.4}}",
        f".path{{fill:none;stroke:{palette['rate'][1]};stroke-width:2.4}}",
        f".frame{{fill:none;stroke:{palette['page'][1]}}}",
        f"text,.title,.strong,.small{{fill:{ink};stroke:none}}",
        f"text.plain{{fill:{ink};stroke:none}}",
        f"text.soft{{fill:{soft}}}",
        f".line{{stroke:{line}}}",
        f".head,.dot{{fill:{line};stroke:none}}",
    ]
