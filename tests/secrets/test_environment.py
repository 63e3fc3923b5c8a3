"""Which values are secrets, and how a key is read."""

import base64

import pytest

from chatvec_lab import secrets


@pytest.fixture(autouse=True)
def clean_memory(monkeypatch):
    monkeypatch.setattr(secrets.environment, "_named", set())
    monkeypatch.setattr(secrets.environment, "_read", {})
    monkeypatch.setattr(secrets.environment, "_told", {})


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "JUDGE_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "OPENAI_API_KEY", "githubToken", "apikey",
     "DB_PASSWORD", "MYSQL_PWD", "KEY_2", "SENTRY_DSN", "GITHUB_PAT", "SLACK_WEBHOOK_URL", "HTTP_AUTH", "WANDB_KEY3"],
)  # fmt: skip
def test_names_that_look_like_secrets(name):
    assert secrets.looks_secret(name)


@pytest.mark.parametrize(
    "name", ["PATH", "PWD", "OLDPWD", "TOKENIZERS_PARALLELISM", "HF_TOKEN_PATH", "SSH_AUTH_SOCK", "MONKEY", "KEYBOARD",
             "MAX_TOKENS_LIMIT", "AUTHOR", "PASSAGE_LENGTH", "COMPASS"]
)  # fmt: skip
def test_names_that_do_not(name):
    assert not secrets.looks_secret(name)


def test_a_variable_that_key_env_names_is_a_secret(monkeypatch):
    monkeypatch.setenv("MY_JUDGE", "sesame-open-1")
    assert secrets.redacted("sesame-open-1") == "sesame-open-1"
    assert secrets.key("MY_JUDGE") == "sesame-open-1"
    assert secrets.redacted("said sesame-open-1") == "said <MY_JUDGE>"
    monkeypatch.delenv("MY_JUDGE")  # what was read once stays hidden
    assert secrets.redacted("said sesame-open-1") == "said <MY_JUDGE>"


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        ("DATABASE_URL", "postgres://lab:p%40ss-word1@db.host/x", ["p%40ss-word1", "p@ss-word1", "lab:p%40ss-word1@"]),
        ("HTTPS_PROXY", "http://me:pw@proxy:3128", ["me:pw@"]),
        ("PIP_INDEX_URL", "https://abcdef012345@index.host/simple", ["abcdef012345"]),
        ("STORE", "Endpoint=x;AccountKey=Zm9vYmFyYmF6;Timeout=3", ["Zm9vYmFyYmF6"]),
        ("BLOB", "https://host/c?sv=1&sig=q1w2e3r4t5", ["q1w2e3r4t5"]),
        ("SETTINGS", '{"api_key": "zz-998877-abc", "model": "m"}', ["zz-998877-abc"]),
        ("ENDPOINT", "https://host/v1?api-key=q9w8e7r6t5", ["q9w8e7r6t5"]),
        ("DEPLOY_KEY", "-----BEGIN KEY-----\nMIIEvQIBADAN\nBgkqhkiG9w0B\n-----END KEY-----\n",
         ["MIIEvQIBADAN", "BgkqhkiG9w0B"]),
    ],
)  # fmt: skip
def test_passwords_in_addresses_and_settings(monkeypatch, name, value, hidden):
    monkeypatch.setenv(name, value)
    for text in hidden:
        assert text not in secrets.redacted(f"failed at {text}host: {value}"), text
    assert "<" + name + ">" in secrets.redacted(value)


def test_a_login_of_the_hub_is_a_secret(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "token").write_text("hf_abcdefghijklmnop\n")
    (tmp_path / "stored_tokens").write_text("[work]\nhf_token = hf_ponmlkjihgfedcba\n")
    assert (
        secrets.redacted("Bearer hf_abcdefghijklmnop, hf_ponmlkjihgfedcba") == "Bearer <HF_TOKEN>, <HF_TOKEN>"
    )


def test_words_and_numbers_that_occur_by_chance_stay(monkeypatch, tmp_path):
    monkeypatch.setenv("AUTH", "none")
    monkeypatch.setenv("MAX_TOKENS", "4096")
    monkeypatch.setenv("GOOGLE_CREDENTIALS", str(tmp_path))
    text = f"none of 4096 in {tmp_path}"
    assert secrets.redacted(text) == text


def test_keys_are_stripped_and_odd_ones_refused(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "\thf_abcdefghijkl\r\n")
    assert secrets.key("HF_TOKEN") == "hf_abcdefghijkl"
    monkeypatch.setenv("HF_TOKEN", "hf_abcd\nefghijkl")
    with pytest.raises(PermissionError, match="HF_TOKEN holds characters") as caught:
        secrets.key("HF_TOKEN")
    assert "efgh" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", " \n")
    assert secrets.key("HF_TOKEN") is None


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("ftp://me:secret@host:21/v1?key=secret#secret", "ftp://host:21/v1"),
        ("https://tok-secret@host/v1", "https://host/v1"),
        ("http://me:se@cret@host/", "http://host/"),
        ("me:secret@host:80/x", "host:80/x"),
        ("http://me:se/cret@host/x", "http://host/x"),
        ("https://host:443/npm/pkg@1.0/x.json", "https://host:443/npm/pkg@1.0/x.json"),
        ("host/v1", "host/v1"),
        ("", ""),
        ("http://me:secret@[::1", "http://[::1"),
    ],
)
def test_addresses_are_shown_without_user_and_password(address, shown):
    assert secrets.shown_address(address) == shown


def test_passwords_of_a_netrc_file_are_secrets(monkeypatch, tmp_path):
    file = tmp_path / "netrc"
    file.write_text(
        "machine api.host\n login me\n password open-sesame-7\ndefault login a password zyxw-9876-v\n"
    )
    monkeypatch.setenv("NETRC", str(file))
    sent = base64.b64encode(b"me:open-sesame-7").decode()
    assert secrets.redacted(f"Basic {sent} open-sesame-7") == "Basic <NETRC> <NETRC>"
    assert secrets.redacted("zyxw-9876-v") == "<NETRC>"
    file.write_text(
        "machine api.host login me password changed-3-times oops\n"
    )  # no netrc that can be parsed
    assert secrets.redacted("changed-3-times") == "<NETRC>"


def test_a_netrc_at_home_is_read(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine h login me password at-home-12\n")
    (tmp_path / ".netrc").chmod(0o644)  # which Python's own reader refuses
    assert secrets.redacted("at-home-12") == "<NETRC>"


def test_what_a_variable_points_to_is_a_secret(monkeypatch, tmp_path):
    (tmp_path / "judge").write_text("mounted-key-77\n")
    monkeypatch.setenv("JUDGE_KEY_FILE", str(tmp_path / "judge"))
    monkeypatch.setenv("DATA_FILE", str(tmp_path / "judge"))
    assert secrets.redacted("mounted-key-77") == "<JUDGE_KEY>"
    monkeypatch.setenv("JUDGE_KEY_FILE", str(tmp_path))  # a folder has no text
    assert secrets.redacted("mounted-key-77") == "mounted-key-77"
