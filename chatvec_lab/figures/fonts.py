"""A font for every script that a label holds: found among those installed, or named in a warning with what to install.

matplotlib 3.11 shapes Arabic, Devanagari and Thai and sets Arabic and Hebrew from right to left; an older one does not.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# families that have Chinese, Japanese and Korean together, the commonest first; then those that have most
_CJK_FAMILIES = [
    "Noto Serif CJK TC", "Noto Serif CJK JP", "Noto Sans CJK TC", "Noto Sans CJK SC", "Noto Sans CJK JP",
    "Noto Sans CJK KR", "Source Han Sans TC", "Source Han Sans", "WenQuanYi Micro Hei", "Arial Unicode MS",
    "PingFang TC", "PingFang SC", "Hiragino Sans", "Microsoft JhengHei", "Microsoft YaHei", "Yu Gothic",
    "Malgun Gothic", "Apple SD Gothic Neo",
]  # fmt: skip
_CJK_FILES = re.compile(r"Noto(Sans|Serif)CJK.*Regular|SourceHanSans.*Regular|wqy-microhei", re.IGNORECASE)
_CJK = ("CJK", "HANGUL", "HIRAGANA", "KATAKANA", "BOPOMOFO", "FULLWIDTH", "IDEOGRAPHIC")
SHAPED = {
    "arabic",
    "hebrew",
    "devanagari",
    "bengali",
    "tamil",
    "telugu",
    "thai",
    "khmer",
    "myanmar",
    "sinhala",
}
SHAPING = (3, 11)  # the matplotlib that shapes text
# Debian's package, which other systems name alike
PACKAGES = {"emoji": "fonts-symbola", "symbols": "fonts-symbola"}


@cache
def cjk_family() -> str | None:
    """A font family with Chinese, Japanese and Korean glyphs: an installed one, that of the extra `cjk`, or None."""
    from matplotlib import font_manager

    if found := _known_cjk_family():
        return found
    # matplotlib keeps a list of fonts and misses those that were installed later
    paths = [p for p in font_manager.findSystemFonts() if _CJK_FILES.search(Path(p).stem)]
    try:
        from noto_cjk_sans_otc import FONT_PATH

        paths.append(str(FONT_PATH))
    except ImportError:
        pass
    for path in sorted(paths):
        font_manager.fontManager.addfont(path)
    return _known_cjk_family()


def _known_cjk_family() -> str | None:
    from matplotlib import font_manager

    known = {font.name for font in font_manager.fontManager.ttflist}
    return next((family for family in _CJK_FAMILIES if family in known), None)


def lay_out(figure: Figure) -> None:
    """Let matplotlib place everything, silently: what is lacking is told by `tell`, after a font has been looked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure.draw_without_rendering()


def cover(figure: Figure) -> None:
    """Give each text of a figure whose fonts lack some of its characters a further font that has them, if there is one."""
    import matplotlib.text

    lay_out(figure)  # only then do tick labels have their texts
    for text in figure.findobj(matplotlib.text.Text):
        families = list(text.get_fontfamily())
        lacking = {c for c in text.get_text() if ord(c) > 0x7F and not _is_unseen(c)}
        for family in families:
            lacking -= _characters_of(family)
        while lacking and (found := _family_with(frozenset(lacking))):
            families.append(found)
            lacking -= _characters_of(found)
            text.set_fontfamily(families)


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Zs") or character in "\ufe0e\ufe0f"


@cache
def _characters_of(family: str) -> frozenset[str]:
    from matplotlib import font_manager

    try:
        path = font_manager.findfont(font_manager.FontProperties(family=family), fallback_to_default=False)
    except ValueError:
        return frozenset()
    return _characters_in(str(path))


@cache
def _characters_in(path: str) -> frozenset[str]:
    """What a font file has; nothing where matplotlib cannot draw it (bitmaps, such as coloured emoji)."""
    from matplotlib import ft2font

    try:
        font = ft2font.FT2Font(path)
    except (RuntimeError, OSError, ValueError, TypeError):
        return frozenset()
    if font.family_name == "Last Resort" or not font.scalable:
        return frozenset()
    return frozenset(map(chr, font.get_charmap()))


@cache
def _family_with(characters: frozenset[str]) -> str | None:
    """The installed family that has most of these, one of the script's own name before others; None: none has any."""
    from matplotlib import font_manager

    _learn_new_fonts()
    scripts = {script(c).capitalize() for c in characters}

    def rank(family: str) -> tuple[int, bool, bool, str]:
        has = len(characters & _characters_of(family))
        return (-has, not any(name in family for name in scripts), not family.startswith("Noto"), family)

    fonts = font_manager.fontManager.ttflist
    regular = {f.name for f in fonts if f.style == "normal" and str(f.weight) in ("400", "normal", "regular")}
    families = sorted(name for name in regular if not name.startswith("Last"))
    best = min(families, key=rank, default=None)
    return best if best is not None and characters & _characters_of(best) else None


@cache
def _learn_new_fonts() -> None:
    """matplotlib's list of fonts misses those that were installed after it was made."""
    from matplotlib import font_manager

    known = {str(font.fname) for font in font_manager.fontManager.ttflist}
    for path in sorted(set(font_manager.findSystemFonts()) - known):
        try:
            font_manager.fontManager.addfont(path)
        except (RuntimeError, OSError, ValueError):
            continue  # a file that is no font that FreeType reads has nothing to add


def script(character: str) -> str:
    """The script of a character, as a word.

    >>> [script(c) for c in "عगท体😀"]
    ['arabic', 'devanagari', 'thai', 'chinese, japanese or korean', 'emoji']
    """
    if _is_cjk(character):
        return "chinese, japanese or korean"
    if 0x1F000 <= ord(character) <= 0x1FAFF or 0x2600 <= ord(character) <= 0x27BF:
        return "emoji"
    return unicodedata.name(character, "a sign of no name").split()[0].lower()


def _is_cjk(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_CJK)


def tell(caught: Iterable[warnings.WarningMessage], *, level: int = 3) -> None:
    """Pass on what matplotlib warned of, its many lines about glyphs as one that names scripts and the cure."""
    lacking = set()
    for warning in caught:
        found = re.match(r"Glyph (\d+) .*missing from", str(warning.message))
        if found:
            lacking.add(chr(int(found[1])))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    lacking -= {c for c in lacking if _is_unseen(c)}
    if not lacking:
        return
    cures = (
        ["pip install 'chatvec_lab[cjk]' (or the system's Noto CJK fonts)"]
        if any(map(_is_cjk, lacking))
        else []
    )
    others = sorted({script(c) for c in lacking if not _is_cjk(c)})
    if others:
        packages = sorted({PACKAGES.get(name, "fonts-noto-core") for name in others})
        cures.append(f"for {', '.join(others)} the system's Noto fonts (Debian: {', '.join(packages)})")
    warnings.warn(
        f"no font here has {''.join(sorted(lacking)[:12])}; boxes are drawn instead. Install one: "
        f"{'; '.join(cures)}, then restart Python.",
        UserWarning, stacklevel=level,
    )  # fmt: skip


def unshaped(figure: Figure) -> list[str]:
    """Scripts among the figure's texts that this matplotlib does not shape; none since 3.11."""
    import matplotlib
    import matplotlib.text

    if tuple(map(int, matplotlib.__version__.split(".")[:2])) >= SHAPING:
        return []
    texts = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
    return sorted({script(c) for text in texts for c in text if ord(c) > 0x7F and c.isalpha()} & SHAPED)
