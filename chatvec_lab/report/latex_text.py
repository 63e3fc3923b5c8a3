r"""Any text as LaTeX that pdfLaTeX, XeLaTeX and LuaLaTeX set: specials escaped, τ and → as mathematics, other scripts named.

A run of characters that Latin fonts lack becomes `\otherscript{Chinese}{...}`. `definitions` gives the few lines
of TeX which find a font for it (XeLaTeX, LuaLaTeX) or use CJKutf8 (pdfLaTeX); where neither can be had, the name
of the script stands in brackets, with a warning in the log, and the document still compiles.
"""

import re
import unicodedata
from collections.abc import Iterable

from chatvec_lab import secrets

GREEK = {
    "ALPHA": "A", "BETA": "B", "GAMMA": "", "DELTA": "", "EPSILON": "E", "ZETA": "Z", "ETA": "H", "THETA": "", "IOTA": "I",
    "KAPPA": "K", "LAMDA": "", "MU": "M", "NU": "N", "XI": "", "PI": "", "RHO": "P", "SIGMA": "", "TAU": "T", "UPSILON": "",
    "PHI": "", "CHI": "X", "PSI": "", "OMEGA": "",
}  # fmt: skip
_MATH = {
    "−": "-", "±": r"\pm", "×": r"\times", "÷": r"\div", "·": r"\cdot", "→": r"\rightarrow", "←": r"\leftarrow",
    "↑": r"\uparrow", "↓": r"\downarrow", "↔": r"\leftrightarrow", "⇒": r"\Rightarrow", "⇐": r"\Leftarrow", "≤": r"\leq",
    "≥": r"\geq", "≠": r"\neq", "≈": r"\approx", "∼": r"\sim", "≡": r"\equiv", "∞": r"\infty", "√": r"\surd",
    "∑": r"\sum", "∏": r"\prod", "∂": r"\partial", "∇": r"\nabla", "∈": r"\in", "∉": r"\notin", "∩": r"\cap",
    "∪": r"\cup", "⊂": r"\subset", "∀": r"\forall", "∃": r"\exists", "∅": r"\emptyset", "∥": r"\parallel",
    "⋅": r"\cdot", "∘": r"\circ", "°": r"{}^{\circ}", "∝": r"\propto", "⟨": r"\langle", "⟩": r"\rangle",
    "⊕": r"\oplus", "⊗": r"\otimes", "≪": r"\ll", "≫": r"\gg", "¬": r"\neg", "∧": r"\wedge", "∨": r"\vee",
    "ℓ": r"\ell", "µ": r"\mu", "ϵ": r"\epsilon", "<": "<", ">": ">", "|": "|", "∗": "*", "△": r"\triangle",
    "ς": r"\varsigma", "ο": "o", "Ο": "O", "ω": r"\omega",
}  # fmt: skip
_PLAIN = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    '"': r"{\char34}", "`": r"{\char96}", "…": r"\ldots{}", "–": "--", "—": "---", "―": "---", "‐": "-", "‑": "-",
    "‘": "`", "’": "'", "“": "``", "”": "''", "•": r"\textbullet{}", "€": r"\texteuro{}", "™": r"\texttrademark{}",
    "†": r"\dag{}", "‡": r"\ddag{}", "\u00a0": "~", "\u2009": r"\,", "\u202f": r"\,", "\u00ad": r"\-",
    "ß": r"{\ss}", "æ": r"{\ae}", "Æ": r"{\AE}", "œ": r"{\oe}", "Œ": r"{\OE}", "ø": r"{\o}", "Ø": r"{\O}", "ł": r"{\l}",
    "Ł": r"{\L}", "ı": r"{\i}", "¿": r"{?`}", "¡": r"{!`}", "§": r"\S{}", "¶": r"\P{}", "©": r"\textcopyright{}",
    "®": r"\textregistered{}", "£": r"\pounds{}", "′": r"$'$", "″": r"$''$", "ﬁ": "fi", "ﬂ": "fl",
    "«": r"$\ll$", "»": r"$\gg$", "‚": ",", "„": ",,",
} | {sign: f"\\{sign}" for sign in "&%$#_"}  # fmt: skip
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0323": "d", "\u0327": "c", "\u0331": "b",
}  # fmt: skip
_OF_T1 = set("ĄąĘęĐđÐðÞþŊŋ")  # the encoding that pdfLaTeX always has, besides accented letters
_UNSEEN = set("\u200b\u200e\u200f\u2060\ufeff\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

# Fonts that are tried in turn for a script, besides those of its name; for CJK the families of CJKutf8 too.
_NOTO = ("Noto Serif {}", "Noto Sans {}", "FreeSerif")
_CJK = ("Noto Serif CJK {}", "Noto Sans CJK {}", "Source Han Serif", "Source Han Sans", "AR PL UMing TW")
FONTS = {
    "Chinese": [*(font.format("TC") for font in _CJK), "Songti TC", "PMingLiU", "FandolSong"],
    "Simplified Chinese": [*(font.format("SC") for font in _CJK), "Songti SC", "SimSun", "FandolSong"],
    "Japanese": [*(font.format("JP") for font in _CJK), "Hiragino Mincho ProN", "HaranoAjiMincho"],
    "Korean": [*(font.format("KR") for font in _CJK[:4]), "NanumMyeongjo", "AppleMyungjo", "Batang"],
    "Arabic": ["Noto Naskh Arabic", "Noto Sans Arabic", "Amiri", "DejaVu Sans"],
    "emoji": ["Noto Emoji", "Symbola", "Segoe UI Symbol", "DejaVu Sans"],
    "symbols": ["DejaVu Sans", "Noto Sans Symbols 2", "Symbola", "FreeSerif"],
    "Hebrew": ["Noto Serif Hebrew", "Noto Sans Hebrew", "DejaVu Sans"],
    "Armenian": ["Noto Serif Armenian", "Noto Sans Armenian", "DejaVu Sans"],
    "Georgian": ["Noto Serif Georgian", "Noto Sans Georgian", "DejaVu Sans"],
    "Latin Extended": ["Noto Serif", "DejaVu Serif", "FreeSerif"],
    "Greek": ["Noto Serif", "DejaVu Serif", "FreeSerif"],
    "Cyrillic": ["Noto Serif", "DejaVu Serif", "CMU Serif", "FreeSerif"],
}
ENCODINGS = {"Latin": "T1", "Vietnamese": "T5", "Cyrillic": "T2A"}  # of pdfLaTeX; T1 is always there
_IN_THE_FONT = ("Latin", "Vietnamese")  # that XeLaTeX and LuaLaTeX have in the document's own font
FAMILIES = {"Chinese": "bsmi", "Simplified Chinese": "gbsn", "Japanese": "min", "Korean": "nanummj"}
_UNSPACED = ("Chinese", "Simplified Chinese", "Japanese")  # lines may break between any two characters
_RIGHT_TO_LEFT = ("Arabic", "Hebrew", "Syriac", "Thaana", "Nko")
_FALLBACKS = {"CJK": "Chinese", "BOPOMOFO": "Chinese", "FULLWIDTH": "Chinese", "IDEOGRAPHIC": "Chinese", "HANGUL": "Korean",
              "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HALFWIDTH": "Japanese"}  # fmt: skip
LONGEST = 14  # a longer word without a space gets places where its line may break


def escape(text: object) -> str:
    r"""Text as LaTeX, in one line; a cell that begins with [ or * is no argument of the line end before it.

    >>> print(escape("CP + τ → 50 % & more_of"), escape("[0.1, 0.2]"), escape("繁體 “x”"))
    CP + $\tau$ $\rightarrow$ 50 \% \& more\_of {}[0.1, 0.2] \otherscript{Chinese}{繁體} ``x''
    """
    text = secrets.redacted(str(text))  # before it is spelt in ways in which nobody would find it
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    has_kana = any("\u3041" <= c <= "\u30ff" for c in text)
    pieces: list[tuple[str, str]] = []  # (script, text): '' is what every engine sets
    for word in re.split(r"( )", text):
        for script, run in _runs("".join(c for c in word if c not in _UNSEEN)):
            script = "Japanese" if has_kana and script == "Chinese" else script
            is_next = len(pieces) > 1 and pieces[-1] == ("", " ") and pieces[-2][0] == script
            if (
                is_next and script and script not in _UNSPACED
            ):  # words of one run keep their order, right to left too
                pieces[-2:] = [(script, f"{pieces[-2][1]} {run}")]
            elif pieces and script and pieces[-1][0] == script:
                pieces[-1] = (script, pieces[-1][1] + run)
            else:
                pieces.append((script, run if script else _breakable(run)))
    told = "".join(f"\\otherscript{{{script}}}{{{run}}}" if script else run for script, run in pieces)
    return f"{{}}{told}" if told[:1] in ("[", "*") else told


def scripts(latex: str) -> list[str]:
    """Names of the scripts in escaped text that need a font or package of their own."""
    return sorted(set(re.findall(r"\\otherscript\{([^}]*)\}", latex)))


def _runs(word: str) -> Iterable[tuple[str, str]]:
    """Runs of one script in a word; marks and joiners belong to what stands before them."""
    runs: list[list[str]] = []
    for character in word:
        script = _script(character)
        joins = unicodedata.category(character) in ("Mn", "Mc", "Me") or character in "\u200c\u200d\ufe0f"
        if runs and (script == runs[-1][0] or (joins and runs[-1][0])):
            runs[-1][1] += character
        else:
            runs.append([script, character])
    for script, run in runs:
        name = _chinese(run) if script == "Chinese" else script
        yield name, run


def _script(character: str) -> str:
    """The script that needs a font of its own, or '' for what `_one` writes for every engine."""
    if _one(character) is not None:
        return ""
    name = unicodedata.name(character, "")
    first = name.split(" ")[0].split("-")[0]
    if first in _FALLBACKS:
        return _FALLBACKS[first]
    code = ord(character)
    if 0x1F000 <= code <= 0x1FAFF or 0x2600 <= code <= 0x27BF or code == 0xFE0F:
        return "emoji"
    if first == "LATIN" and len(unicodedata.normalize("NFD", character)) > 2:
        return "Vietnamese"
    if first == "LATIN":
        return "Latin" if character in _OF_T1 else "Latin Extended"
    if unicodedata.category(character)[0] in "LM" and first:
        return first.capitalize()
    if unicodedata.category(character)[0] in "NPS" and 0x0590 <= code <= 0x1FFF:
        return first.capitalize()
    if 0x3000 <= code <= 0x33FF or 0xFE30 <= code <= 0xFE4F or 0xFF00 <= code <= 0xFFEF:
        return "Chinese"
    return "symbols" if unicodedata.category(character) in ("So", "Sm", "Sk", "Po", "No") else ""


def _one(character: str) -> str | None:
    """One character as every engine sets it, or None."""
    if character in _PLAIN:
        return _PLAIN[character]
    if character in _MATH:
        return f"${_MATH[character]}$"
    if " " <= character <= "~":
        return character
    if letter := _greek(character):
        return f"${letter}$"
    if accented := _accented(character):
        return accented
    plain = unicodedata.normalize("NFKC", character).replace("\u2044", "/")
    if plain != character and plain.isascii() and plain.strip():
        kind = unicodedata.decomposition(character).split(" ")[0]
        if kind in ("<super>", "<sub>"):
            return f"${'^' if kind == '<super>' else '_'}{{{plain}}}$"
        if kind not in ("<wide>", "<narrow>"):
            return "".join(_one(c) or c for c in plain)
    if unicodedata.category(character) in ("Cc", "Cf", "Co", "Cn", "Cs") or 0x2400 <= ord(character) < 0x2440:
        return rf"\texttt{{U+{ord(character):04X}}}" if character not in "\u200c\u200d" else None
    return rf"\texttt{{U+{ord(character):04X}}}" if character == "\ufffd" else None


def _greek(character: str) -> str:
    found = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", unicodedata.name(character, ""))
    if not found or found[2] not in GREEK:
        return ""
    name = found[2].replace("LAMDA", "LAMBDA")
    if found[1] == "SMALL":
        return f"\\{name.lower()}"
    return f"\\mathrm{{{GREEK[found[2]]}}}" if GREEK[found[2]] else f"\\{name.capitalize()}"


def _accented(character: str) -> str:
    """A Latin letter with accents as TeX's own commands, which the oldest encoding knows too."""
    letter, *marks = unicodedata.normalize("NFD", character)
    if len(marks) != 1 or not (letter.isascii() and letter.isalpha()) or marks[0] not in _ACCENTS:
        return ""
    told = f"\\{letter}" if letter in "ij" and marks[0] not in "\u0323\u0327\u0331" else letter
    return f"\\{_ACCENTS[marks[0]]}{{{told}}}"


def _breakable(word: str) -> str:
    """A word of the Latin script, escaped; a long one may break after its punctuation or after ten characters."""
    told, since, is_long = [], 0, len(word) > LONGEST
    for place, character in enumerate(word):
        told.append(_one(character) or "")
        since += 1
        ends = character in "_/.:=,@+-" and since > 3
        if is_long and (ends or since >= 10) and 3 < place + 1 < len(word) - 2:
            told.append(r"\allowbreak{}")
            since = 0
    return re.sub("-(?=-)", r"-\\kern0pt", "".join(told)) if "--" in word else "".join(told)


def _chinese(run: str) -> str:
    """Which of the fonts of CJKutf8 has all of these characters: a national character set answers."""
    for codec, name in (("big5", "Chinese"), ("gb2312", "Simplified Chinese"), ("euc_jp", "Japanese")):
        try:
            run.encode(codec)
        except UnicodeEncodeError:
            continue
        return name
    return "Chinese"


_COMMANDS = r"""\makeatletter
\ifdefined\otherscript\else % protected: captions are written to files
  \protected\def\otherscript#1#2{\ifdefined\Umathcode\otherscript@font{#1}{#2}\else\otherscript@cjk{#1}{#2}\fi}\fi
\providecommand{\otherscript@lacks}[2]{\@latex@warning{This table has #1, for which #2; its name is set instead}[#1]}
\providecommand{\otherscript@cjk}[2]{%
  \ifcsname otherscript@family@#1\endcsname
    \IfFileExists{CJKutf8.sty}{\ifcsname CJK\endcsname\IfFileExists{c70\csname otherscript@family@#1\endcsname.fd}{%
      \begin{CJK}{UTF8}{\csname otherscript@family@#1\endcsname}#2\end{CJK}}%
      {\otherscript@lacks{#1}{CJKutf8 has no font here}}\else\otherscript@lacks{#1}{CJKutf8 is not loaded}\fi}%
      {\otherscript@lacks{#1}{CJKutf8 is not installed}}%
  \else\ifcsname otherscript@encoding@#1\endcsname
    \ifcsname T@\csname otherscript@encoding@#1\endcsname\endcsname
      {\fontencoding{\csname otherscript@encoding@#1\endcsname}\selectfont#2}%
    \else\otherscript@lacks{#1}{fontenc with \csname otherscript@encoding@#1\endcsname\space is needed}\fi
  \else\otherscript@lacks{#1}{XeLaTeX or LuaLaTeX are needed}\fi\fi}
\providecommand{\otherscript@features}{:\ifdefined\directlua mode=harf\else+kern\fi}
\providecommand{\otherscript@try}[2]{\ifcsname otherscript@name@#1\endcsname\else\ifdefined\Umathcode
  \begingroup\suppressfontnotfounderror=1\font\otherscript@test="#2\otherscript@features" at 10pt
  \ifx\otherscript@test\nullfont\else\expandafter\gdef\csname otherscript@name@#1\endcsname{#2}\fi\endgroup\fi\fi}
\providecommand{\otherscript@font}[2]{%
  \leavevmode
  \ifcsname otherscript@own@#1\endcsname#2\else
  \ifcsname otherscript@name@#1\endcsname
    \ifcsname otherscript@#1@\f@size\endcsname\else
      \expandafter\global\expandafter\font\csname otherscript@#1@\f@size\endcsname=%
        "\csname otherscript@name@#1\endcsname\otherscript@features" at \f@size pt\relax\fi
    {\csname otherscript@#1@\f@size\endcsname
    \ifcsname otherscript@right@#1\endcsname
      \ifdefined\directlua\textdir TRT #2\else\TeXXeTstate=1\beginR #2\endR\fi
    \else\ifcsname otherscript@unspaced@#1\endcsname
      \@tfor\otherscript@one:=#2\do{\otherscript@one\hskip\z@\@plus.05em\relax}\unskip
    \else#2\fi\fi}%
  \else\otherscript@lacks{#1}{no font was found}\fi\fi}"""


def definitions(names: Iterable[str]) -> str:
    """The TeX that `\\otherscript` needs for these scripts; it keeps what the document defines itself."""
    names = list(names)
    if not names:
        return ""
    lines = [_COMMANDS]
    for name in names:
        if name in FAMILIES:
            lines.append(rf"\@namedef{{otherscript@family@{name}}}{{{FAMILIES[name]}}}")
        if name in ENCODINGS:
            lines.append(rf"\@namedef{{otherscript@encoding@{name}}}{{{ENCODINGS[name]}}}")
        if name in _UNSPACED:
            lines.append(rf"\@namedef{{otherscript@unspaced@{name}}}{{}}")
        if name in _IN_THE_FONT:
            lines.append(rf"\@namedef{{otherscript@own@{name}}}{{}}")
            continue
        if name in _RIGHT_TO_LEFT:
            lines.append(rf"\@namedef{{otherscript@right@{name}}}{{}}")
        fonts = FONTS.get(name, [font.format(name) for font in _NOTO])
        lines += [rf"\otherscript@try{{{name}}}{{{font}}}" for font in fonts]
    return "\n".join([*lines, r"\makeatother"]) + "\n"


def needs(names: Iterable[str]) -> list[str]:
    """What a document needs for these scripts, in sentences for the head of a file."""
    names = list(names)
    cjk = [name for name in names if name in FAMILIES]
    others = [name for name in names if name not in FAMILIES and name not in ENCODINGS]
    told = [r"Cyrillic: with pdfLaTeX \usepackage[T2A,T1]{fontenc}."] if "Cyrillic" in names else []
    if cjk:
        told.append(f"{' and '.join(cjk)}: with pdfLaTeX \\usepackage{{CJKutf8}} and its fonts "
                    f"({', '.join(FAMILIES[name] for name in cjk)}); with XeLaTeX and LuaLaTeX a font such as "
                    f"{FONTS[cjk[0]][0]}, found by itself.")  # fmt: skip
    if others:
        font = FONTS.get(others[0], [_NOTO[0].format(others[0])])[0]
        told.append(
            f"{' and '.join(others)}: with XeLaTeX or LuaLaTeX and a font such as {font}; pdfLaTeX sets the script's name."
        )
    return told
