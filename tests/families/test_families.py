"""Families by name, folder and YAML file, and the list of those that are known."""

import json
import subprocess
import sys

import pytest
import yaml

from chatvec_lab import Checkpoint
from chatvec_lab.__main__ import main
from chatvec_lab.families import Role, describe_families, families_page, family_names, load_family
from chatvec_lab.paths import DATA

DESCRIBED = sorted(file.stem for file in (DATA / "families").glob("*.yaml"))


def test_the_nano_family_has_its_members():
    nano = load_family("nano")
    assert nano.languages == ("zh", "ko")
    assert isinstance(nano.cp["zh"], Checkpoint)
    assert nano["cp_zh"] is nano.cp["zh"] and nano["chat"] is nano.chat
    assert "chat_full" in nano.members and "nano" in family_names()
    assert (nano.chat - nano.base).names


def test_a_folder_is_a_family():
    seed = load_family(DATA / "nano" / "nano" / "seed1")
    assert seed.languages == ("zh", "ko")
    assert load_family("nano", seed=1).base.folder == seed.base.folder


def test_a_yaml_file_names_checkpoints(tmp_path):
    home = DATA / "nano" / "nano" / "seed0"
    file = tmp_path / "mine.yaml"
    cp = f"cp: {{zh: {home}/cp_zh}}"
    file.write_text(
        f"base: {home}/base\nchat: {{source: {home}/chat}}\n{cp}\nothers: {{full: {home}/chat_full}}\n"
    )
    family = load_family(file)
    assert (family.name, family.languages) == ("mine", ("zh",))
    assert family["full"].names == family.base.names


def test_errors_say_what_there_is(tmp_path):
    with pytest.raises(KeyError, match="did you mean 'nano'"):
        load_family("nanoo")
    with pytest.raises(FileNotFoundError, match="--seeds 99"):
        load_family("nano", seed=99)
    with pytest.raises(KeyError, match="cp_xx"):
        load_family("nano")["cp_xx"]
    broken = tmp_path / "broken.yaml"
    broken.write_text("base: x\n")
    with pytest.raises(ValueError, match="lacks chat, cp"):
        load_family(broken)
    broken.write_text(
        "base: {licence: MIT}\nchat: {source: a/b, license: MIT}\ncp: {zh: c/d}\nlanguage: zh\n"
    )
    with pytest.raises(ValueError, match=r"chat: license, language.*licence"):
        load_family(broken)
    broken.write_text("base: {licence: MIT}\nchat: a/b\ncp: {zh: c/d}\n")
    with pytest.raises(ValueError, match="base lack their source"):
        load_family(broken)


def link(folder, **members):
    """A folder with links to nano's models, by the names given."""
    folder.mkdir()
    for name, member in members.items():
        (folder / name).symlink_to(DATA / "nano" / "nano" / "seed0" / member)
    return folder


def test_a_folder_has_any_language_and_its_roles(tmp_path):
    names = [
        "cp_zh-Hant",
        "cp_pt-BR",
        "cp_fil",
        "cp_es-419",
        "cp_zh",
        "cp_zh_extended",
        "cp_ft_zh",
        "cp_zh-Hant_100",
    ]
    home = link(tmp_path / "mine", base="base", chat="chat", chat_sft="chat_full", chat_cp_zh="chat_cp_zh")
    for name in names:
        (home / name).symlink_to(DATA / "nano" / "nano" / "seed0" / "cp_zh")
    (home / "notes").mkdir()
    family = load_family(home)
    assert family.languages == ("zh", "es-419", "fil", "pt-BR", "zh-Hant")
    assert family["cp_zh-Hant"] is family.cp["zh-Hant"]
    assert family.roles == {
        "base": Role("base"),
        "chat": Role("chat"),
        **{f"cp_{code}": Role("cp", code) for code in family.languages},
        "cp_zh_extended": Role("cp", "zh", "extended"),
        "cp_zh-Hant_100": Role("cp", "zh-Hant", "100"),
        "cp_ft_zh": Role("other", "zh", "cp_ft"),
        "chat_sft": Role("chat", None, "sft"),
        "chat_cp_zh": Role("other", "zh", "chat_cp"),
    }


def test_a_folder_that_is_no_member_is_named(tmp_path):
    home = link(tmp_path / "mine", base="base", chat="chat", cp_ko="cp_ko")
    (home / "cp_ja").mkdir()
    (home / "cp_ja" / "model.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"mine: cp_ja: weights without a config\.json"):
        load_family(home)
    (home / "cp_ja" / "model.safetensors").unlink()
    (home / "cp_pt_BR").symlink_to(DATA / "nano" / "nano" / "seed0" / "cp_ko")
    with pytest.raises(ValueError, match="cp_pt_BR: a language code has hyphens here; rename it to cp_pt-BR"):
        load_family(home)
    last = home / "cp_pt_BR"
    for odd in ("cp_english", "cp_k", "cp_ja_100"):
        last = last.rename(home / odd)
        with pytest.raises(ValueError, match=f"mine: {odd}: no CP model of a language that is known here"):
            load_family(home)


def test_yaml_is_read_as_it_is_written(tmp_path):
    """Norwegian is no falsehood, a revision keeps its zeros, and what is said twice is refused."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: 2024\nbase: {source: a/b, revision: 0123456, parameters: 6.7e9, vocabulary: 32000}\n"
        "chat: {source: a/c, revision: 1e5}\ncp: {no: a/d, on: a/e, 'yes': a/f}\nconfounds: one text\n"
    )
    family = load_family(file)
    assert (family.name, family.languages) == ("2024", ("no", "on", "yes"))
    assert (family.base.revision, family.chat.revision) == ("0123456", "1e5")
    assert family.facts["base"]["parameters"] == 6_700_000_000 and family.confounds == ("one text",)
    start = "base: a/b\nchat: a/c\n"
    for text, message in (
        ("cp: {ko: a/d}\ncp: {zh: a/e}\n", "the key 'cp' stands twice in one mapping, in lines 3 and 4"),
        ("cp:\n  ko: a/d\n  ko: a/e\n", "the key 'ko' stands twice in one mapping, in lines 4 and 5"),
        ("cp: {ko: a/d}\nothers: {cp_ko: a/e}\n", "others: cp_ko is a member already"),
        ("cp: {ko: a/d}\nothers: {base: a/e}\n", "others: base is a member already"),
        ("cp: {ko: a/d}\nothers: [a/e]\n", "others names further models"),
        ("cp: {ko: true}\n", "cp_ko: there should be text, got true.*quotes: 'true'"),
        ("cp: {ko: {source: a/d, parameters: many}}\n", "cp_ko: parameters should be a number.*'many'"),
        ("cp: {'k/o': a/d}\n", "cp: 'k/o': a language code has letters"),
        ("cp: {ko: ./nowhere}\n", r"\./nowhere is not there; it was looked for at"),
    ):
        file.write_text(start + text)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            load_family(file)


def test_folders_are_found_beside_the_file(tmp_path, monkeypatch):
    home = link(tmp_path / "models", base="base", chat="chat", cp_ko="cp_ko")
    (tmp_path / "mine.yaml").write_text(
        "base: models/base\nchat: ./models/chat\ncp: {ko: models/cp_ko, zh: org/name}\n"
    )
    monkeypatch.chdir("/")
    family = load_family(tmp_path / "mine.yaml")
    assert family.base.source == str(home / "base") and family.base.names
    assert family.cp["zh"].source == "org/name"
    with pytest.raises(FileNotFoundError, match=r"other\.yaml is not there"):
        load_family(tmp_path / "other.yaml")


@pytest.mark.parametrize("name", DESCRIBED)
def test_published_families_load_without_a_network(name):
    family = load_family(name)
    assert family.name == name and family.languages and family.notes
    for member, checkpoint in family.members.items():
        assert checkpoint.source.count("/") == 1, member
        assert "folder" not in vars(checkpoint), "nothing was looked for"
    assert set(family.facts) == set(family.members)
    described = yaml.safe_load((DATA / "families" / f"{name}.yaml").read_text("utf-8"))
    for entry in (described["base"], described["chat"], *described["cp"].values()):
        assert entry.get("revision") is None or len(entry["revision"]) == 40, "the hub wants all digits"


def test_the_families_of_the_paper_are_described():
    assert {"llama-2-7b-ko", "llama-2-13b-zh", "mistral-breeze-zh-tw"} <= set(DESCRIBED)
    breeze = load_family("mistral-breeze-zh-tw")
    assert breeze.chat.source == "mistralai/Mistral-7B-Instruct-v0.2"
    assert any("v0.2 base" in text for text in breeze.confounds)
    assert load_family("llama-2-7b-ko").facts["cp_ko"]["vocabulary"] == 46336


def test_parameters_follow_from_the_shapes():
    """Llama's own formula gives the noted figures, so a slip of the pen would show."""

    def llama(vocabulary, width, inner, layers, keys):
        layer = 2 * width**2 + 2 * width * keys + 3 * width * inner + 2 * width
        return layers * layer + width + 2 * vocabulary * width

    shapes = {
        "llama-2-7b": (4096, 11008, 32, 4096), "llama-2-13b": (5120, 13824, 40, 5120),
        "llama-3-8b": (4096, 14336, 32, 1024), "mistral": (4096, 14336, 32, 1024),
        "tinyllama": (2048, 5632, 22, 256),
    }  # fmt: skip
    checked = 0
    for name in DESCRIBED:
        shape = next((s for stem, s in shapes.items() if name.startswith(stem)), None)
        for member, known in load_family(name).facts.items():
            if shape and {"parameters", "vocabulary"} <= set(known) and known["vocabulary"] != 62000:
                assert known["parameters"] == llama(known["vocabulary"], *shape), f"{name}: {member}"
                checked += 1
    assert checked >= 20


def test_one_cp_model_can_serve_several_languages():
    sailor = load_family("qwen1.5-0.5b-sailor")
    assert sailor.languages == ("id", "th", "vi", "ms", "lo")
    assert sailor.cp["id"] is sailor.cp["lo"]
    assert "cp_id, cp_th, cp_vi, cp_ms, cp_lo: sail/Sailor-0.5B" in families_page("qwen1.5-0.5b-sailor")


def test_the_description_has_one_row_a_member():
    rows = describe_families(["nano", "llama-2-7b-ko"])
    nano = {row["member"]: row for row in rows if row["family"] == "nano"}
    assert set(nano) == set(load_family("nano").members)
    held = load_family("nano").base
    assert (
        nano["base"]["bytes"]
        == sum(held.nbytes(name) for name in held.names)
        == 2 * nano["base"]["parameters"]
    )
    assert nano["cp_zh"]["language"] == "zh" and nano["chat"]["language"] is None
    ko = next(row for row in rows if row["member"] == "cp_ko" and row["family"] == "llama-2-7b-ko")
    assert ko["parameters"] == 6855856128 and ko["bytes"] == 2 * 6855856128 and ko["licence"] is None


def test_the_command_lists_families(capsys):
    assert main(["families"]) == 0
    listed = capsys.readouterr().out
    for name in family_names():
        assert f"\n{name} " in f"\n{listed}"
    assert main(["families", "mistral-breeze-zh-tw"]) == 0
    assert "Confound: Instruct-v0.2" in capsys.readouterr().out
    assert main(["families", "nanoo"]) == 1
    assert "did you mean 'nano'" in capsys.readouterr().err


def test_the_list_imports_nothing_heavy():
    code = (
        "import json, sys\nfrom chatvec_lab.__main__ import main\nmain(['families'])\n"
        "print(json.dumps(sorted({'torch', 'transformers', 'pandas', 'numba', 'matplotlib'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [], done.stderr


def test_the_command_checks_descent(tmp_path, capsys):
    assert main(["families", "nano", "--check", "--seed", "1"]) == 0
    assert capsys.readouterr().out.count(" descends: ") == 4  # chat, chat_think, two CPs
    home = DATA / "nano" / "nano"
    mixed = tmp_path / "mixed.yaml"
    mixed.write_text(
        f"base: {home}/seed0/base\nchat: {home}/seed0/chat\ncp: {{zh: {home}/seed1/cp_zh}}\n", "utf-8"
    )
    assert main(["families", str(mixed), "--check"]) == 1
    assert "cp_zh" in capsys.readouterr().err
    assert main(["families", "--check"]) == 1
