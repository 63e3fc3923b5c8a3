"""Text as LaTeX: nothing of it is a command, one line, and scripts that Latin fonts lack are named."""

import re

import pytest

from chatvec_lab.report.latex_text import definitions, escape, needs, scripts

SPECIAL = r"\{}$&#%^_~<>|`" + '"'


@pytest.mark.parametrize(
    "text, latex",
    [
        ("50 % & more_of #1", r"50 \% \& more\_of \#1"),
        (r"\input{x} ^~", r"\textbackslash{}input\{x\} \textasciicircum{}\textasciitilde{}"),
        ("[0.1, 0.2]", "{}[0.1, 0.2]"),
        ("*", "{}*"),
        ("CP + τ → FT − 1 ± 2", r"CP + $\tau$ $\rightarrow$ FT $-$ 1 $\pm$ 2"),
        ("p < 0.05 | q > 1", r"p $<$ 0.05 $|$ q $>$ 1"),
        ("a--b", r"a-\kern0pt-b"),
        ("“é” Straße", r"``\'{e}'' Stra{\ss}e"),
        ("two\nlines\n\n\tmore", "two lines more"),
        ("x² Δ", r"x$^{2}$ $\Delta$"),
        ("", ""),
    ],
)
def test_signs_are_written_as_they_look(text, latex):
    assert escape(text) == latex


@pytest.mark.parametrize(
    "text, found",
    [
        ("繁體中文", ["Chinese"]),
        ("简体汉字", ["Simplified Chinese"]),
        ("日本語ひらがな", ["Japanese"]),
        ("한국어", ["Korean"]),
        ("العربية", ["Arabic"]),
        ("שלום", ["Hebrew"]),
        ("देवनागरी", ["Devanagari"]),
        ("ไทย", ["Thai"]),
        ("Кириллица", ["Cyrillic"]),
        ("Tiếng Việt", ["Vietnamese"]),
        ("ok 😀", ["emoji"]),
        ("ąđŋ", ["Latin"]),
        ("café", []),
        ("τ αβ", []),
    ],
)
def test_scripts_are_named_with_what_they_need(text, found):
    latex = escape(text)
    assert scripts(latex) == found
    assert all(run in text for run in re.findall(r"\\otherscript\{[^}]*\}\{([^}]*)\}", latex))
    assert definitions(found).count(r"\protected\def\otherscript#1#2") == len(found)
    if set(found) & {"Chinese", "Simplified Chinese", "Japanese", "Korean"}:
        assert r"\usepackage{CJKutf8}" in needs(found)[0]


def test_words_of_a_script_from_right_to_left_stay_in_one_run():
    assert escape("مرحبا بالعالم 1") == r"\otherscript{Arabic}{مرحبا بالعالم} 1"


def test_a_mark_stays_with_its_letter():
    assert escape("क्‍ष") == r"\otherscript{Devanagari}{क्‍ष}"


def test_every_character_becomes_something_that_tex_reads_as_text():
    """All of the first planes: what is left of ASCII's specials is only what we wrote."""
    for code in [*range(1, 0x3000), *range(0xD7F0, 0xE010), *range(0xFE00, 0x10000), 0x1F600, 0x10FFFF]:
        latex = escape(f"a{chr(code)}b")
        plain = re.sub(r"\\otherscript\{[^}]*\}\{[^}]*\}", "", latex)
        assert plain.isascii(), (hex(code), latex)
        bare = re.sub(
            r"\$[^$]*\$|\\[a-zA-Z]+(\{[^{}]*\})*|\\[^a-zA-Z](\{\\?[a-z]*\})?|\{\S?[^{}]*\}", "", plain
        )
        assert not set(bare) & set(SPECIAL) - {"~", "`"}, (hex(code), latex)


def test_a_long_word_may_break():
    latex = escape("model.layers.0.self_attn.q_proj.weight")
    assert latex.replace(r"\allowbreak{}", "") == r"model.layers.0.self\_attn.q\_proj.weight"
    assert latex.count(r"\allowbreak{}") > 3 and r"\allowbreak" not in escape("short_word")
