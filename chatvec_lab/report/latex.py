r"""Tables as LaTeX files that any document can \input: booktabs, one caption, made to fit a column, or the text.

Each file opens with what it needs in the preamble. Widths are estimated from Computer Modern, the widest of the
usual text fonts: what fits an ACL column (the narrowest) is a `table`, what is wider a `table*`, what is longer than
a page a `longtable`. All three engines compile them (tests do).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chatvec_lab.report import latex_text, tables
from chatvec_lab.report.latex_text import escape
from chatvec_lab.report.pivot import Cell, Head, Measures, Table, pivoted

if TYPE_CHECKING:
    import pandas

COLUMN, TEXT = (
    219.0,
    345.0,
)  # points: an ACL column, and the text of LaTeX's own article, the narrowest of all texts
# font sizes in points, tried in turn, with their width against ten points: small letters are wider for their size
SIZES = {9: 0.93, 8: 0.86, 7: 0.81}
LONGEST = 45  # lines of text; a longer table breaks over pages
GAP = 3.5  # points on each side of a column


def write(data: pandas.DataFrame, file: Path, *, caption: str, measures: Measures | None = None) -> Path:
    """Write the table `file`.tex, pivoted for a paper (`report.pivot`); all numbers are in the CSV beside it."""
    file = file.with_name(f"{file.name}.tex")
    file.write_text(document(pivoted(data, measures), caption=caption, name=file.stem), "utf-8")
    return file


def document(table: Table, *, caption: str, name: str) -> str:
    """The file's text: a head of comments that says what the preamble needs, and the table."""
    notes = "; ".join(table.notes)
    whole = " ".join(filter(None, [_sentence(caption), _sentence(notes[:1].upper() + notes[1:])]))
    if table.heads and not table.rows:
        table.rows.append("nothing to show")
    layout = _Layout(table)
    body = (
        layout.long(escape(whole), f"tab:{name}")
        if layout.is_long
        else layout.short(escape(whole), f"tab:{name}")
    )
    scripts = latex_text.scripts(body)
    packages = ["booktabs", *(["array"] if layout.wraps else []), *(["longtable"] if layout.is_long else [])]
    packages += ["graphicx"] if layout.is_shrunk else []
    packages += ["CJKutf8"] if set(scripts) & latex_text.FAMILIES.keys() else []
    head = [f"% {name}: written by chatvec_lab; the numbers in full are in {name}.csv. In the preamble:"]
    head += [rf"%   \usepackage{{{package}}}" for package in packages]
    head += [f"% {line}" for line in latex_text.needs(scripts)]
    if layout.is_long:
        head.append(
            "% A long table stands on pages of one column: where there are two, it begins a page and ends one."
        )
    return "\n".join(head) + "\n" + latex_text.definitions(scripts) + body


def _sentence(text: str) -> str:
    text = text.strip()
    return f"{text}." if text and text[-1] not in ".!?。！？" else text


class _Layout:
    """How a table is set: its font size, which text columns wrap and how wide, and whether it takes the whole text."""

    def __init__(self, table: Table):
        self.table = table
        self._choose(is_long=len(table.rows) > LONGEST)
        if not self.is_long and self._height() > LONGEST:
            self._choose(is_long=True)

    def _choose(self, *, is_long: bool) -> None:
        table, self.is_long = self.table, is_long
        natural = [self._width(place) for place in range(len(table.heads))]
        narrowest = [self._width(place, is_wrapped=True) for place in range(len(table.heads))]
        rooms = ([] if self.is_long else [COLUMN]) + [TEXT]
        tried = [(room, size) for room in rooms for size in SIZES]
        fits = [(room, size) for room, size in tried if self._sum(narrowest, size) <= room]
        # text that need not wrap is worth a smaller letter, but not the smallest
        whole = [
            (room, size) for room, size in tried if self._sum(natural, size) <= room and size > min(SIZES)
        ]
        whole = [(room, size) for room, size in whole if not fits or room <= fits[0][0]]
        room, size = (whole or fits or [tried[-1]])[0]
        self.is_wide, self.size, self.is_shrunk = room == TEXT, size, not fits
        self.columns = self._columns(natural, narrowest, room)
        self.wraps = any("p{" in column for column in self.columns)

    def _sum(self, widths: Sequence[float], size: int) -> float:
        return sum(widths) * SIZES[size] + 2 * GAP * max(len(widths) - 1, 0) + 1

    def _height(self) -> int:
        """Lines, those of cells that wrap counted."""
        lines = len(self._heading())
        for row in self.table.rows:
            of_row = [1]
            for cell, width in zip(
                [] if isinstance(row, str) else row, self.widths, strict=isinstance(row, str) is False
            ):
                of_row += [math.ceil(1.1 * _points(_plain(cell)) / width)] if width else []
            lines += max(of_row)
        return lines

    def _width(self, place: int, *, is_wrapped: bool = False) -> float:
        """Points at 10 points: the widest cell, or, where the column may wrap, the widest word (at most)."""
        head = self.table.heads[place]
        cells = [row[place] for row in self.table.rows if not isinstance(row, str)]
        texts = [_plain(cell) for cell in cells]
        *above, last = map(_points, _lines(head))
        heading = max([*above, last + (_points(" ↑") if head.better in ("higher", "lower") else 0)])
        if not is_wrapped or not head.is_text:
            return max([heading, *map(_points, texts)])
        words = [word for text in [*texts, head.text] for word in text.split()]
        longest = max((min(_points(word), 75) for word in words), default=0)
        typical = sorted(map(_points, texts))[-1] if texts else 0
        return max(longest, min(typical, 60))

    def _columns(self, natural: list[float], narrowest: list[float], room: float) -> list[str]:
        """`l`, `r`, or `p` with a share of the line: what is left over goes to the columns that wrap, by their text."""
        free = room - self._sum(narrowest, self.size)
        wants = [n - w for n, w in zip(natural, narrowest, strict=True)]
        self.widths: list[float] = [0] * len(natural)  # at ten points; 0 where nothing wraps
        if self.is_shrunk or self._sum(natural, self.size) <= room:
            return ["l" if head.is_text else "r" for head in self.table.heads]
        found: list[str] = []
        for head, least, want in zip(self.table.heads, narrowest, wants, strict=True):
            if not head.is_text or want <= 0:
                found.append("l" if head.is_text else "r")
                continue
            width = least * SIZES[self.size] + free * want / sum(wants)
            share, self.widths[len(found)] = width / room, width / SIZES[self.size]
            found.append(
                rf">{{\raggedright\arraybackslash}}p{{{math.floor(share * 1000) / 1000:.3f}\linewidth}}"
            )
        return found

    def _rows(self) -> list[str]:
        width, lines = len(self.table.heads), []
        for row in self.table.rows:
            if isinstance(row, str):
                lines += [r"\addlinespace"] if lines else []
                lines.append(rf"\multicolumn{{{width}}}{{@{{}}l@{{}}}}{{\emph{{{escape(row)}}}}} \\")
            else:
                lines.append(" & ".join(map(_cell, row)) + r" \\")
        return lines

    def _heading(self) -> list[str]:
        stacked = [_lines(head) for head in self.table.heads]
        deep, rows = max(map(len, stacked), default=1), []
        for level in range(deep):
            cells = []
            for head, lines, column in zip(self.table.heads, stacked, self.columns, strict=True):
                at = level - (deep - len(lines))
                text = escape(lines[at]) if at >= 0 else ""
                if at == len(lines) - 1 and head.better in ("higher", "lower"):
                    text += r" $\uparrow$" if head.better == "higher" else r" $\downarrow$"
                cells.append(text if head.is_text or "p{" in column else rf"\multicolumn{{1}}{{r}}{{{text}}}")
            cells = [
                text.replace("{1}{r}", "{1}{r@{}}") if i == len(cells) - 1 else text
                for i, text in enumerate(cells)
            ]
            rows.append(" & ".join(cells) + r" \\")
        return rows

    def _font(self) -> str:
        return (
            rf"\fontsize{{{self.size}}}{{{self.size * 1.2:g}}}\selectfont\setlength{{\tabcolsep}}{{{GAP}pt}}"
        )

    def short(self, caption: str, label: str) -> str:
        float_ = "table*" if self.is_wide else "table"
        lines = [
            rf"\begin{{tabular}}{{@{{}}{''.join(self.columns)}@{{}}}}",
            r"\toprule",
            *self._heading(),
            r"\midrule",
        ]
        lines += [*self._rows(), r"\bottomrule", r"\end{tabular}"]
        if self.is_shrunk:
            lines = [r"\resizebox{\linewidth}{!}{%", *lines[:-1], lines[-1] + "}"]
        head = [
            rf"\begin{{{float_}}}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{{label}}}\smallskip",
            self._font(),
        ]
        return "\n".join([*head, *lines, rf"\end{{{float_}}}"]) + "\n"

    def long(self, caption: str, label: str) -> str:
        heading = [r"\toprule", *self._heading(), r"\midrule"]
        lines = [
            r"\makeatletter\if@twocolumn\onecolumn\let\afterlongtable\twocolumn\else\let\afterlongtable\relax\fi\makeatother",
            r"\begingroup", self._font(), r"\setlength{\LTcapwidth}{\linewidth}",
            rf"\begin{{longtable}}{{@{{}}{''.join(self.columns)}@{{}}}}",
            rf"\caption{{{caption}}}\label{{{label}}} \\", *heading, r"\endfirsthead", *heading, r"\endhead",
            r"\bottomrule", r"\endfoot", *self._rows(), r"\end{longtable}", r"\endgroup", r"\afterlongtable",
        ]  # fmt: skip
        return "\n".join(lines) + "\n"


def _cell(cell: Cell) -> str:
    r"""A cell as LaTeX: `$0.87 \pm 0.05$`, or `$0.87^{+0.04}_{-0.06}$` where the interval is wider to one side.

    >>> _cell(Cell(0.5, 0.4, 0.6, 2)), _cell(Cell(0.02, 0.0, 0.1, 2, is_best=True)), _cell(Cell(None))
    ('$0.50 \\pm 0.10$', '$\\mathbf{0.02}^{+0.08}_{-0.02}$', '--')
    """
    if cell.value is None or tables._is_missing(cell.value):
        return "--"
    if not cell.is_number:
        return escape(
            {True: "yes", False: "no"}.get(cell.value, cell.value)
            if isinstance(cell.value, bool)
            else cell.value
        )
    power = _power(cell)
    mean = _number(cell.value / 10**power, cell.decimals if not power else 1)
    mean = rf"\mathbf{{{mean}}}" if cell.is_best else mean
    if cell.low is not None and cell.high is not None:
        below, above = _ends(cell)
        mean = rf"{mean} \pm {above}" if below == above else f"{mean}^{{+{above}}}_{{-{below}}}"
        mean = f"({mean})" if power else mean
    return rf"${mean} \times 10^{{{power}}}$" if power else f"${mean}$"


def _power(cell: Cell) -> int:
    """The power of ten of a number that is too small to be written with a few decimals; else 0."""
    is_small = isinstance(cell.value, float) and 0 < abs(cell.value) < 0.0005
    return math.floor(math.log10(abs(cell.value))) if is_small else 0


def _ends(cell: Cell) -> tuple[str, str]:
    assert cell.low is not None and cell.high is not None
    unit, decimals = 10.0 ** _power(cell), 1 if _power(cell) else cell.decimals
    below, above = (cell.value - cell.low) / unit, (cell.high - cell.value) / unit
    return _fixed(below, decimals), _fixed(above, decimals)


def _fixed(value: float, decimals: int | None) -> str:
    return f"{value:,.{2 if decimals is None else decimals}f}".replace(",", "{,}")


def _number(value: float, decimals: int | None) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return r"\infty" if value > 0 else r"-\infty"
    if isinstance(value, float) and 0 < abs(value) < 0.0005:
        return _fixed(value, decimals)
    return tables.number(value, decimals).replace(",", "{,}")


def _plain(cell: Cell) -> str:
    """The cell as characters of about its width."""
    if not cell.is_number:
        return "" if cell.value is None else str(cell.value)
    text = _number(cell.value / 10 ** _power(cell), cell.decimals) + ("." if cell.is_best else "")
    text += "×1000" if _power(cell) else ""
    if cell.low is None or cell.high is None:
        return text
    below, above = _ends(cell)
    if below == above:
        return f"{text}±0{above}"
    return text + "+" + "0" * math.ceil(0.8 * max(len(above), len(below)))


def _lines(head: Head) -> list[str]:
    """A heading of numbers in lines of some thirteen characters, so that it is not wider than they are."""
    import textwrap

    if head.is_text:
        return [head.text]
    return textwrap.wrap(head.text, 13, break_long_words=False) or [""]


def _points(text: str) -> float:
    """Width in Computer Modern at ten points, a little more than it is.

    >>> round(_points("0.87")), round(_points("right replies")), round(_points("繁體"))
    (19, 58, 20)
    """
    width = 0.0
    for c in text:
        if ord(c) > 0x2E7F:
            width += 10
        elif c in "iljtfI.,:;'!|()[] ":
            width += 3.4
        elif c in "mwMWQ%@—±×→←↑↓+=−":
            width += 8.4
        else:
            width += 7.4 if c.isupper() else 5.1
    return width
