"""Tokens that stand in no variable are known by their looks; digests, revisions, names and placeholders are left alone."""

import base64
import hashlib
import json
import re
import uuid

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chatvec_lab import secrets
from chatvec_lab.report import latex_text
from chatvec_lab.secrets.files import redact_files, secrets_in
from chatvec_lab.secrets.shapes import SHAPES

WORD = r"[A-Za-z0-9]"
# how each service writes its tokens, as its own documents and scanners of repositories have it
FORMS = {
    "Hugging Face token": r"hf_[A-Za-z]{34}|hf_[A-Za-z0-9]{24}",
    "Hugging Face token of an organisation": r"api_org_[A-Za-z]{34}",
    "OpenAI key": rf"sk-{WORD}{{20}}T3BlbkFJ{WORD}{{20}}|sk-proj-[\w-]{{100,156}}|sk-svcacct-[\w-]{{80}}|"
    rf"sk-or-v1-[0-9a-f]{{64}}|sk-ant-api03-[\w-]{{90}}AA|sk-[0-9a-f]{{32}}|sk-{WORD}{{24}}",
    "GitHub token": rf"gh[pousr]_{WORD}{{36}}|github_pat_{WORD}{{22}}_{WORD}{{59}}",
    "GitLab token": r"glpat-[\w-]{20}",
    "AWS key": r"(AKIA|ASIA)[A-Z2-7]{16}",
    "Google key": r"AIza[\w-]{35}|ya29\.[\w-]{60}",
    "Slack token": rf"xox[bp]-[0-9]{{11,13}}-[0-9]{{11,13}}-{WORD}{{24}}|xapp-1-A[0-9A-Z]{{10}}-[0-9]{{13}}-[0-9a-f]{{64}}",
    "Groq key": rf"gsk_{WORD}{{52}}",
    "xAI key": rf"xai-{WORD}{{80}}",
    "NVIDIA key": r"nvapi-[\w-]{64}",
    "Databricks token": r"dapi[0-9a-f]{32}",
    "Together key": rf"tgp_v1_{WORD}{{43}}",
    "Perplexity key": rf"pplx-{WORD}{{48}}",
    "Fireworks key": rf"fw_{WORD}{{24}}",
    "Replicate token": rf"r8_{WORD}{{37}}",
    "Stripe key": rf"[rs]k_(live|test)_{WORD}{{24,99}}",
    "PyPI token": r"pypi-AgEIcHlwaS5vcmc[\w-]{50,100}",
    "npm token": rf"npm_{WORD}{{36}}",
    "JSON web token": r"eyJhbGciOi[\w-]{20,60}\.eyJ[\w-]{20,90}\.[\w-]{43}",
    "private key": r"-----BEGIN (RSA |EC |OPENSSH |)PRIVATE KEY-----\n([A-Za-z0-9+/]{64}\n){2,5}[A-Za-z0-9+/]{20}=\n"
    r"-----END PRIVATE KEY-----",
}
TOKENS = {
    name: st.from_regex(re.compile(form, re.ASCII), fullmatch=True).filter(
        lambda token: re.search("[A-Z0-9]", re.sub(r"^\w+?[_-]", "", token))
    )
    for name, form in FORMS.items()
}


def hidden(text: str, secret: str, name: str) -> str:
    clean = secrets.redacted(text)
    assert secret not in clean and f"<{name}>" in clean, (text, clean)
    return clean


@pytest.mark.parametrize("name", FORMS)
def test_tokens_of_well_known_services_are_hidden_by_their_looks(name):
    @settings(max_examples=25, deadline=None)
    @given(token=TOKENS[name])
    def check(token):
        assert hidden(f"401: {token} was refused", token, name) == f"401: <{name}> was refused"
        hidden(json.dumps({"error": [f"key={token}"]}), token, name)
        hidden(repr(RuntimeError(f"({token!r}, 3)")), token.strip(), name)
        assert secrets.secrets_of(f"a\n{token}\nb") == [name]

    check()


def test_every_looks_is_tried():
    by_place = {"webhook", "bearer token", "key in a header", "key in an address", "password in an address"}
    assert set(FORMS) | by_place == set(SHAPES)


@pytest.mark.parametrize("place", ["hooks.slack.com/services/T0A/B0B/", "discord.com/api/webhooks/12345678/"])
def test_the_end_of_a_webhook_is_hidden(place):
    shown = secrets.redacted(f"posting to https://{place}abcDEF123ghiJKL456 failed")
    assert (
        "abcDEF123" not in shown
        and "<webhook> failed" in shown
        and "https://hooks" in shown.replace("discord", "hooks")
    )


def test_a_signature_with_signs_of_an_address_is_hidden():
    assert (
        secrets.redacted("https://h/c?sig=abc%2BDEF123ghiJKL456%3D&x=1")
        == "https://h/c?sig=<key in an address>&x=1"
    )


VALUES = st.from_regex(re.compile(rf"{WORD}{{8}}[a-z][0-9]{WORD}{{8,60}}", re.ASCII), fullmatch=True)


@settings(max_examples=40, deadline=None)
@given(value=VALUES)
@example(hashlib.sha1(b"a key of 40 hexadecimal digits").hexdigest())
def test_what_stands_in_headers_and_addresses_is_hidden_and_the_rest_stays(value):
    for text, clean in (
        (f"Authorization: Bearer {value}\r\n", "Authorization: Bearer <bearer token>\r\n"),
        (f"headers={{'authorization': 'Bearer {value}'}}", "headers={'authorization': 'Bearer <bearer token>'}"),
        (f"[(b'x-api-key', b'{value}')]", "[(b'x-api-key', b'<key in a header>')]"),
        (f'{{"api_key": "{value}"}}', '{"api_key": "<key in a header>"}'),
        (json.dumps(json.dumps({"apiKey": value})), json.dumps(json.dumps({"apiKey": "<key in a header>"}))),
        (f"aws_secret_access_key = {value}\n", "aws_secret_access_key = <key in a header>\n"),
        (f"OPENAI_API_KEY={value}", "OPENAI_API_KEY=<key in a header>"),
        (f'"X-API-KEY":"{value}"', '"X-API-KEY":"<key in a header>"'),
        (f"authorization: Basic {value}==", "authorization: Basic <key in a header>"),
        (f"GET https://h/v1?key={value}&n=3", "GET https://h/v1?key=<key in an address>&n=3"),
        (f"https://h/a?X-Amz-Signature={value}", "https://h/a?X-Amz-Signature=<key in an address>"),
        (f"postgres://me:{value}@db:5432/x", "postgres://me:<password in an address>@db:5432/x"),
        ("https://me:p%40ss@h/", "https://me:<password in an address>@h/"),
    ):  # fmt: skip
        assert secrets.redacted(text) == clean
        assert secrets.redacted(clean) == clean, "once is enough"


HARMLESS = [
    "https://h:8000/v1?key=short and user@host", "http://[::1]:80/@x", "ssh://git@github.com/a/b", "a Bearer of bad news",
    "Bearer 這是第1本很長很長的書abc而且後面還有很多很多字",
    "Authorization: Bearer YOUR_TOKEN_HERE", "Authorization: Bearer <HF_TOKEN>", "https://me:<HTTPS_PROXY>@host/",
    "https://me:&lt;HTTPS_PROXY&gt;@host/", "hf_hub_download", "hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "export HF_TOKEN=hf_...",
    "sk-toggleable__content-arrow", "sk-estimator-doc-link fitted", "risk-Assessment2024AndBeyondAllOfIt", "sk-SK",
    "api_key = os.environ['OPENAI_API_KEY']", "api_key=OPENAI_API_KEY_FOR_2026_X", "key_env: JUDGE_KEY_FOR_2026_AND_LATER",
    "task_type=CAUSAL_LM", "ghp_short", "AKIA", "WAKIAABCDEFGHIJKLMNOP2", "eyJust.like.this", "-----BEGIN CERTIFICATE-----",
]  # fmt: skip


@pytest.mark.parametrize(
    "text", HARMLESS, ids=map(str, range(len(HARMLESS)))
)  # pytest's own variable would hold the text
def test_names_placeholders_and_plain_words_are_left_alone(text):
    assert secrets.redacted(text) == text and not secrets.secrets_of(text)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(min_size=1, max_size=64))
def test_digests_revisions_and_identifiers_are_left_alone(content):
    sha1, sha256 = hashlib.sha1(content).hexdigest(), hashlib.sha256(content).hexdigest()
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    for text in (
        sha1, f"revision: {sha1}", f"org/model@{sha1[:12]}", f'{{"revision": "{sha1}", "sha256": "{sha256}"}}',
        f"https://huggingface.co/o/m/resolve/{sha1}/model.safetensors", f"/cache/models--o--m/snapshots/{sha1}/config.json",
        f"key: {sha1[:12]}", str(uuid.UUID(bytes=hashlib.md5(content).digest())), f"sha256-{digest}", sha1.upper(),
        f"cells/made/{sha1[:12]}/tables", f"etag: W/\"{sha256}\"", f"tokens {sha1} token {sha256}",
    ):  # fmt: skip
        assert secrets.redacted(text) == text


def test_a_variable_that_holds_it_gives_its_name(monkeypatch):
    token = "hf_" + "aB3dE" * 7
    assert secrets.redacted(f"Bearer {token}") == "Bearer <Hugging Face token>"
    monkeypatch.setenv("MY_TOKEN", token)
    assert secrets.redacted(f"Bearer {token}") == "Bearer <MY_TOKEN>"


def test_tables_latex_and_cut_cells(tmp_path):
    token = "ghp_" + "aB3dE" * 8
    table = pd.DataFrame({"error": [f"refused {token}", None], token: [1, 2]})
    clean = secrets.redacted_table(table)
    assert list(clean.columns) == ["error", "<GitHub token>"] and clean.error[0] == "refused <GitHub token>"
    harmless = pd.DataFrame({"a": ["x"]})
    assert secrets.redacted_table(harmless) is harmless
    assert token.replace("_", r"\_") not in latex_text.escape(token)
    long = pd.DataFrame({"error": ["x" * 20 + " sk-proj-" + "aB_3" * 20]})
    assert "sk-proj" in str(long) and "sk-proj" not in secrets.redacted(str(long))


def test_files_of_every_kind_lose_it_and_weights_keep_their_length(tmp_path):
    token, other = "hf_" + "aB3dE" * 7, "AKIAIOSFODNN7ABCDEFG"
    text = f"Bearer {token}, {other}"
    (tmp_path / "run.log").write_text(text)
    (tmp_path / "page.html").write_text(f"<p>{text}</p>")
    (tmp_path / "table.tex").write_text(text.replace("_", r"\_"))
    (tmp_path / "run.json").write_text(json.dumps({"error": {"value": json.dumps(text)}}))
    pd.DataFrame({"error": [text]}).to_parquet(tmp_path / "table.parquet")
    (tmp_path / "w.safetensors").write_bytes(b"\0" * 8 + text.encode() + b"\1" * 64)
    (tmp_path / f"{token}.txt").write_text("named so")
    weights = (tmp_path / "w.safetensors").stat().st_size
    assert secrets_in(tmp_path / "run.log") == ["AWS key", "Hugging Face token"]
    assert redact_files(tmp_path) == ["AWS key", "Hugging Face token"]
    for file in tmp_path.iterdir():
        assert token not in file.name and token.encode() not in file.read_bytes(), file
        assert other.encode() not in file.read_bytes() and b"aB3dE" not in file.read_bytes(), file
    assert (tmp_path / "w.safetensors").stat().st_size == weights
    assert "&lt;AWS key&gt;" in (tmp_path / "page.html").read_text()
    assert json.loads(json.loads((tmp_path / "run.json").read_text())["error"]["value"]).endswith("<AWS key>")
    assert pd.read_parquet(tmp_path / "table.parquet").error[0] == "Bearer <Hugging Face token>, <AWS key>"
