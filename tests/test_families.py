"""Families by name, folder and YAML file."""

import pytest

from chatvec_lab import Checkpoint
from chatvec_lab.families import family_names, load_family
from chatvec_lab.paths import DATA


def test_the_nano_family_has_its_members():
    nano = load_family("nano")
    assert nano.languages == ("zh", "ko")
    assert isinstance(nano.cp["zh"], Checkpoint)
    assert nano["cp_zh"] is nano.cp["zh"] and nano["chat"] is nano.chat
    assert "chat_sft" in nano.members and "nano" in family_names()
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
        f"base: {home}/base\nchat: {{source: {home}/chat}}\n{cp}\nothers: {{sft: {home}/chat_sft}}\n"
    )
    family = load_family(file)
    assert (family.name, family.languages) == ("mine", ("zh",))
    assert family["sft"].names == family.base.names


def test_errors_say_what_there_is(tmp_path):
    with pytest.raises(KeyError, match="did you mean 'nano'"):
        load_family("nanoo")
    with pytest.raises(FileNotFoundError, match="--seeds 99"):
        load_family("nano", seed=99)
    with pytest.raises(KeyError, match="cp_zh"):
        load_family("nano")["cp_xx"]
    (tmp_path / "broken.yaml").write_text("base: x\n")
    with pytest.raises(ValueError, match="lacks chat, cp"):
        load_family(tmp_path / "broken.yaml")
