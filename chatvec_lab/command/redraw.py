"""`redraw`: the figures of a finished study for another venue, from the tables that they were drawn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NAMES = ("acl", "icml", "neurips", "iclr", "slides", "poster")


def add(verbs) -> None:
    """The verb and its arguments."""
    parser = verbs.add_parser(
        "redraw",
        help="draw a study's figures again, for a paper, slides or a poster",
        description="Draw the figures of a finished study (or of one notebook's folder) again, at the widths, letters and "
        "line weights of a venue. Reads the tables kept beside each figure; no notebook runs.",
    )
    parser.add_argument("folder", metavar="DIR", help="where the study was run to")
    parser.add_argument("--venue", required=True, choices=NAMES)
    parser.add_argument("--out", metavar="DIR2", help="where the figures go (unless told, DIR/figures-VENUE)")
    parser.add_argument(
        "--width", help="column, text or inches, for all of them (unless told, as in the notebook)"
    )
    parser.add_argument("--font", help="a font family that is installed, in place of the venue's")
    parser.set_defaults(run=run)


def run(options) -> int:
    from chatvec_lab import figures

    folder, width = Path(options.folder), _width(options.width)
    found = _figures(folder)
    out = Path(options.out) if options.out else folder / f"figures-{options.venue}"
    left: list[str] = []
    count = 0
    with figures.venue(options.venue, font=options.font) as venue:
        for name, stem in found:
            if told := _draw(stem, out / name, width):
                left.append(f"  {name}: {told}")
            count += not told
    print(
        f"{count} of {len(found)} figures drawn for {venue.name} ({venue.column:.2f} or {venue.text:.2f} inches wide) in {out}"
    )
    if left:
        print("\n".join(["not drawn again:", *left]))
    return 0 if count else 1


def _figures(folder: Path) -> list[tuple[str, Path]]:
    """(name, file without its ending) of each figure of a study's done cells, or of one notebook's folder."""
    from chatvec_lab.study.results import MANIFEST, is_done, read_manifest

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there; expected the folder that a study was run into.")
    if not (folder / MANIFEST).is_file():
        found = [(file.stem, file.with_suffix("")) for file in sorted((folder / "figures").glob("*.json"))]
    else:
        found = []
        for cell in read_manifest(folder)["cells"]:
            home = folder / "cells" / cell["notebook"] / cell["key"]
            if is_done(home):
                of = _slug(cell["varying"]) or ""
                files = sorted((home / "figures").glob("*.json"))
                found += [
                    ("-".join(filter(None, [cell["notebook"], f.stem, of])), f.with_suffix("")) for f in files
                ]
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no figures: no study was run into it, or no cell of it is done."
        )
    names = [name for name, _ in found]
    return [(n if names.count(n) == 1 else f"{n}-{s.parent.parent.name}", s) for n, s in found]


def _slug(varying: dict[str, Any]) -> str:
    """A cell's parameters in a file's name, lists left out: "language-ko-seed-0"."""
    short = {name: value for name, value in varying.items() if isinstance(value, str | int | float)}
    text = "-".join(f"{name}-{value}" for name, value in short.items()).lower()
    return "".join(c if c.isascii() and (c.isalnum() or c in ".-_") else "-" for c in text).strip("-.")[:80]


def _draw(stem: Path, target: Path, width: str | float | None) -> str:
    """Draw one figure; the reason where that cannot be done, '' where it was."""
    import matplotlib.pyplot as plt
    import pandas

    from chatvec_lab import figures
    from chatvec_lab.figures.style import write
    from chatvec_lab.reading import read_json

    about = read_json(stem.with_suffix(".json"), {})
    recipe = about.get("drawn")
    if not recipe:
        return "it was drawn by hand, not by functions of chatvec_lab.figures on figures.subplots, or by an older version"
    if not recipe["whole"]:
        return "something was drawn by hand on it besides, which is not kept"
    files = [stem.with_name(f"{stem.name}.{place}.parquet") for place in range(len(recipe["calls"]))]
    lacking = [file.name for file in files if not file.is_file()]
    if lacking:
        return f"its tables are not there: {', '.join(lacking)}"
    figure = figures.redraw(recipe, [pandas.read_parquet(file) for file in files], width=width)
    write(figure, target, dpi=200)
    plt.close(figure)
    return ""


def _width(text: str | None) -> str | float | None:
    from chatvec_lab.figures.venues import inches

    try:
        width = float(text) if text is not None else None
    except ValueError:
        width = text
    if width is not None:
        inches(width)
    return width
