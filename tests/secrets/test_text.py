"""A secret is hidden however the text around it was escaped."""

import base64
import csv
import html
import io
import json
import logging
import sys
import textwrap
import traceback
import warnings
from urllib.parse import quote, quote_plus

import markupsafe
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatvec_lab import secrets
from chatvec_lab.report import latex_text

ODD = ["ab\"cd'ef\\gh", 'x"" ""yz""1', "tail-ends-in\\", '"starts&<b>', "a_b^c~d%e$f#g{h}", "pä ß wörd 日本",
       "s p a c e s", "C:\\u0041\\n\\t1", "%41%42+ab/cd==", "hf_" + "Plain0123" * 3]  # fmt: skip


def writings(token: str) -> dict[str, str]:
    """The token as the writers of this project, Python and the web write it, one inside another too."""
    row = io.StringIO()
    csv.writer(row).writerow([token, "x"])
    once = {
        "plain": token,
        "json": json.dumps(token),
        "json, as it is": json.dumps(token, ensure_ascii=False),
        "json for javascript": json.dumps(token).replace("/", "\\/"),
        "repr": repr(token),
        "bytes": repr(token.encode()),
        "html": html.escape(token),
        "html of jinja": str(markupsafe.escape(token)),
        "csv": row.getvalue(),
        "latex of pandas": pd.DataFrame({"a": [token]}).style.format(escape="latex").to_latex(),
        "address": quote(token, safe=""),
        "query": quote_plus(token),
        "basic": base64.b64encode(token.encode()).decode(),
    }
    twice = {f"{a} in json": json.dumps(text) for a, text in once.items()}
    twice |= {f"{a} in html": html.escape(text) for a, text in once.items()}
    return once | twice | {f"{a} in json": json.dumps(text) for a, text in twice.items()}


def check(token: str) -> None:
    for writing, text in writings(token).items():
        clean = secrets.redacted(f"before {text} after")
        assert text.strip() not in clean, writing
        assert "SOME_TOKEN" in clean, writing
        assert clean.startswith("before ") and clean.endswith(" after"), (writing, clean)


@pytest.mark.parametrize("token", ODD)
def test_odd_tokens_are_hidden_in_every_writing(monkeypatch, token):
    monkeypatch.setenv("SOME_TOKEN", token)
    check(token)


@pytest.mark.parametrize("token", ODD)
def test_a_table_in_latex_never_sees_a_secret(monkeypatch, token):
    monkeypatch.setenv("SOME_TOKEN", token)
    assert latex_text.escape(f"before {token} after") == latex_text.escape("before <SOME_TOKEN> after")


ANY = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FFFF, exclude_categories=["C", "Z"]),
    min_size=8,
    max_size=60,
)
PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=120)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(token=ANY | PRINTABLE)
def test_any_token_is_hidden_in_every_writing(monkeypatch, token):
    if token.isdigit() or token.startswith("/"):
        return
    monkeypatch.setenv("SOME_TOKEN", token)
    check(token)


def test_text_without_the_secret_is_left_as_it_is(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "hf_Plain0123Plain0123")
    for text in ("hf_Plain0123", "", "\\\\\"'<&>", "hf_plain0123plain0123"):
        assert secrets.redacted(text) == text


def test_a_cut_token_is_hidden_too(monkeypatch):
    """pandas shows 50 characters of a cell, servers the beginning of a key that they refuse."""
    token = "sk-proj-" + "aB3_" * 20
    monkeypatch.setenv("SOME_TOKEN", token)
    shown = str(pd.DataFrame({"error": [token]}))
    assert "sk-proj" in shown
    assert "sk-proj" not in secrets.redacted(shown) and "aB3_" not in secrets.redacted(shown)


def test_tables_lose_the_secret_wherever_it_stands(monkeypatch):
    token = 'quote"and\\slash'
    monkeypatch.setenv("SOME_TOKEN", token)
    table = pd.DataFrame(
        {
            f"column {token}": ["a", None],
            "lists": [[token, "b"], []],
            "arrays": [np.array(["x", token]), np.array([1.5])],
            "maps": [{token: {"deep": (token,)}}, None],
            "kinds": pd.Categorical([token, "c"]),
            "text": pd.array(["see " + token, None], dtype="str"),
            "number": [1.0, float("nan")],
        }
    )
    clean = secrets.redacted_table(table)
    assert token not in clean.to_json() and "quote" not in clean.to_csv()
    assert clean.text[0] == "see <SOME_TOKEN>" and clean.text.isna()[1]
    assert clean["column <SOME_TOKEN>"].tolist()[0] == "a" and clean.number.equals(table.number)
    assert token in table.text[0], "the caller's table is as it was"
    assert secrets.redacted_table(table[["number"]]) is not None
    unharmed = pd.DataFrame({"text": ["a"], "array": [np.array([1, 2])]})
    assert secrets.redacted_table(unharmed) is unharmed


def test_nothing_printed_shows_it(monkeypatch, capsys):
    token = "hf_abcdefghijklmnop"
    monkeypatch.setenv("SOME_TOKEN", token)
    with secrets.hidden_in_output():
        print("a", token)
        sys.stderr.write(warnings.formatwarning(UserWarning(token), UserWarning, "file", 1))
        handler = logging.StreamHandler()
        handler.emit(logging.makeLogRecord({"msg": token}))
        try:
            raise ValueError(token)
        except ValueError:
            traceback.print_exc()
        sys.stdout.writelines([token, "\n"])
    said = "".join(capsys.readouterr())
    assert said.count("<SOME_TOKEN>") == 5 and token not in said


@pytest.mark.parametrize("user", ["", "a", "me", "api", "user@example.org"])
def test_a_password_behind_its_user_is_hidden_as_http_sends_it(monkeypatch, user):
    token = "hf_AbCdEf/123+xyz?~"
    monkeypatch.setenv("SOME_TOKEN", token)
    pair = f"{user}:{token}:tail".encode()
    for code in (base64.b64encode(pair).decode(), base64.urlsafe_b64encode(pair).decode()):
        clean = secrets.redacted(f"Authorization: Basic {code}")
        assert clean.startswith("Authorization: Basic ") and clean.endswith("<SOME_TOKEN>")
        kept = clean.removeprefix("Authorization: Basic ").removesuffix("<SOME_TOKEN>")
        assert len(kept) * 6 // 8 <= len(user) + 2, "no character of it but a bit of the first is left"


@pytest.mark.parametrize("width", [7, 12, 20])
def test_a_token_that_is_broken_over_lines_is_hidden(monkeypatch, width):
    token = "hf_Plain0123AbCdEf-456ghijKLMN"
    monkeypatch.setenv("SOME_TOKEN", token)
    lines = textwrap.wrap(f"refused {token}", width)
    for text in (
        "\n".join(lines),
        "\r\n    ".join(lines),
        "".join(f"│ {line.ljust(width)} │\n" for line in lines),
        " \\\n".join(lines),
    ):
        clean = secrets.redacted(text)
        assert "<SOME_TOKEN>" in clean and not [
            line for line in lines if line[-5:] in clean and "hf_" in line
        ], clean
    assert secrets.redacted("hf_Plain0123\nAbCd") == "hf_Plain0123\nAbCd"


def test_notes_and_causes_of_an_error_are_hidden(monkeypatch, capsys):
    token = "hf_abcdefghijklmnop"
    monkeypatch.setenv("SOME_TOKEN", token)
    with secrets.hidden_in_output():
        try:
            try:
                raise KeyError(token)
            except KeyError as error:
                error.add_note(f"asked with {token}")
                raise ExceptionGroup("several", [ValueError(token), OSError(token)]) from error
        except ExceptionGroup:
            traceback.print_exc()
    said = "".join(capsys.readouterr())
    assert said.count("<SOME_TOKEN>") >= 4 and token not in said
