"""Nothing of a repository's code runs and nothing asks, by whatever way a model, config or tokenizer is opened."""

import ast
import json
import sys
from pathlib import Path

import pytest
from pico import save_model

from chatvec_lab import opening

PACKAGE = Path(opening.__file__).parent


@pytest.fixture
def coded(tmp_path, monkeypatch):
    """A folder whose config, model and tokenizer are code of its own, which leaves a trace when it runs."""
    folder = save_model(tmp_path / "model")
    code = f"open({str(tmp_path / 'ran')!r}, 'w').write('x')\nclass Config: pass\nclass Model: pass\nclass Tokenizer: pass\n"
    (folder / "own.py").write_text(code)
    names = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "baichuan", "auto_map": names}))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.Tokenizer", None]}}
        )
    )
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    monkeypatch.setattr(sys, "stdin", None)
    yield folder
    assert not (tmp_path / "ran").exists(), "code of the repository ran"


@pytest.mark.parametrize("open_", [opening.open_config, opening.open_model, opening.open_tokenizer])
def test_code_of_a_repository_is_refused_in_our_words(coded, open_):
    with pytest.raises(ValueError, match=r"brings code of its own \(own\.py\).*not run") as caught:
        open_(coded)
    assert "trust_remote_code" not in str(caught.value)


def test_code_of_another_repository_is_refused(coded):
    config = json.loads((coded / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "someone/else--own.Config"}
    (coded / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="brings code of its own"):
        opening.open_config(coded)


def test_a_model_that_transformers_has_itself_needs_no_code(coded):
    config = json.loads((coded / "config.json").read_text())
    (coded / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    assert type(opening.open_model(coded)).__name__ == "LlamaForCausalLM"


def test_a_kernel_of_the_hub_is_refused(coded):
    config = json.loads((coded / "config.json").read_text())
    config |= {"model_type": "llama", "_attn_implementation": "someone/kernel"}
    (coded / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="someone/kernel"):
        opening.open_model(coded)


def test_the_package_opens_in_one_place():
    """Every `from_pretrained` of the package is here, but for an adapter on a model that was opened here."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if is_call and node.func.attr == "from_pretrained":
                found.setdefault(file.relative_to(PACKAGE).as_posix(), []).append(
                    ast.unparse(node.func.value)
                )
    assert found == {"opening.py": ["kind"], "interop/peft.py": ["PeftModel"]}
