"""Every table compiles with pdfLaTeX, XeLaTeX and LuaLaTeX, and none is wider than its column, in one column or two."""

import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from chatvec_lab.report import latex

ENGINES = ["pdflatex", "xelatex", "lualatex"]
CLASSES = {
    "article": r"\documentclass{article}",
    "acl": r"\documentclass[twocolumn,11pt]{article}\usepackage[textwidth=16cm,columnsep=0.6cm]{geometry}",
    "neurips": r"\documentclass{article}\usepackage[textwidth=5.5in]{geometry}",
}
HOSTILE = [
    "\\input{x}",
    "50 % & #1 $x_2$ {",
    "a^b~c",
    "[1] *",
    "-- ``x'' <>|",
    'say "no"',
    "␈ \x08 \ufffd",
    "1\\\\2",
]
WORLD = ["繁體中文與標點。", "简体汉字", "日本語のひらがな", "한국어 문장", "العربية مرحبا", "שלום", "देवनागरी", "ไทย",
         "Кириллица", "Tiếng Việt", "ok 😀 ✓", "ąđŋ é ñ ß", "τ → FT − 1 ± 2 × 3 ≤ ∞"]  # fmt: skip


def tables() -> dict[str, tuple[pd.DataFrame, dict]]:
    rng = np.random.default_rng(0)
    models = ["CP", "CP + τ", "CP + random", "CP → FT", "chat → CP → FT", "vision-language model + τ"]
    measures = [
        "right replies",
        "toxic replies to hostile prompts",
        "in_language",
        "polite",
        "a_long_name",
        "p",
        "q",
    ]
    keys = [(x, s, m, k) for x in ("ko", "zh") for s in range(3) for m in models for k in measures]
    rows = [(*key, *np.sort(rng.random(3))[[1, 0, 2]]) for key in keys]
    wide = pd.DataFrame(
        rows, columns=["language", "seed", "model", "metric", "estimate", "low", "high"]
    ).assign(n=200)
    numbers = pd.DataFrame({f"column_{i}": rng.random(4) * 10.0 ** (i - 4) for i in range(14)}).assign(
        model=models[:4]
    )
    shares = pd.DataFrame({"model": ["consensus of 4 chat vectors", "τ off the CP vector", "τ"] * 2, "n": 200,
                           "metric": ["right replies"] * 3 + ["replies in zh"] * 3,
                           "estimate": [0.9, 0.88, 0.72, 1, 0.99, 0.93], "low": [0.84, 0.83, 0.65, 0.98, 0.96, 0.88],
                           "high": [0.94, 0.92, 0.78, 1, 1, 0.96]})  # fmt: skip
    return {
        "arrows": (shares, {name: {"better": "higher"} for name in set(shares.metric)}),
        "hostile": (pd.DataFrame({"text": HOSTILE, "n": range(len(HOSTILE))}), {}),
        "world": (pd.DataFrame({"prompt": WORLD, "right reply": [" ".join([w] * 6) for w in WORLD]}), {}),
        "wide": (wide, {"right replies": {"better": "higher"}}),
        "few": (wide[wide.metric.isin(measures[:2]) & (wide.language == "ko")], {"right replies": {"better": "higher"}}),
        "numbers": (numbers, {}),
        "long": (pd.DataFrame({"tensor": [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(120)],
                               "l2": rng.random(120), "digest": ["0123456789abcdef" * 4] * 120}), {}),
        "empty": (pd.DataFrame(columns=["model", "estimate"]), {}),
        "words": (pd.DataFrame({"question": ["what should be compared, and why? " * 8] * 3, "n": [1, 2, 3]}), {}),
    }  # fmt: skip


def compiled(engine: str, preamble: str, files: list, folder) -> str:
    """The log of a document that inputs all files, compiled in batch mode; it must end without an error."""
    heads = [file.read_text("utf-8") for file in files]
    packages = sorted({line for head in heads for line in re.findall(r"^%\s+(\\usepackage.*)$", head, re.M)})
    body = [rf"\typeout{{FILE {file.stem}}}\input{{{file.as_posix()}}}\clearpage" for file in files]
    text = "\n".join([preamble, *packages, r"\begin{document}", *body, r"\end{document}"])
    (folder / "all.tex").write_text(text, "utf-8")
    here = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "max_print_line": "1000"}
    command = [engine, "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    run = subprocess.run(command, cwd=folder, capture_output=True, timeout=500, env=here)
    log = run.stdout.decode("utf-8", "replace")
    assert run.returncode == 0, f"{engine}: {log[-3000:]}"
    return log


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_every_table_compiles_and_none_is_too_wide(engine, tmp_path):
    if not shutil.which(engine):
        pytest.skip(
            f"no {engine} here: Debian's texlive-latex-recommended, -xetex, -luatex and latex-cjk-common have it"
        )
    files = [latex.write(data, tmp_path / name, caption=f"{name}: 100 % of τ, 繁體. {HOSTILE[1]}", measures=measures)
             for name, (data, measures) in tables().items()]  # fmt: skip
    for kind, preamble in CLASSES.items():
        log = compiled(engine, preamble, files, tmp_path)
        wide = re.findall(r"Overfull \\hbox.*|.*Float too large.*", log)
        assert not wide, f"{engine}, {kind}: {wide}"


@pytest.mark.slow
def test_without_its_packages_a_table_names_the_script_it_cannot_set(tmp_path):
    if not shutil.which("pdflatex"):
        pytest.skip("no pdflatex here: Debian's texlive-latex-recommended has it")
    file = latex.write(pd.DataFrame({"prompt": WORLD}), tmp_path / "world", caption="Prompts.")
    bare = file.with_name("bare.tex")
    bare.write_text(file.read_text("utf-8").replace(r"%   \usepackage{CJKutf8}", "%"), "utf-8")
    log = compiled("pdflatex", CLASSES["article"], [bare], tmp_path)
    assert "This table has Chinese, for which CJKutf8 is not loaded" in log
    assert "This table has Arabic, for which XeLaTeX or LuaLaTeX are needed" in log
