"""How a tokenizer cuts text, compared: a saved one with the live one, the CP's with the chat model's.

Two tokenizers with one vocabulary can cut a prompt into other pieces (a space before the text behind a special token,
say), and the chat model was tuned on its own. transformers takes seconds to import, so what files show is compared
first; the tokenizers themselves are asked where the files differ.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from chatvec_lab import sandbox
from chatvec_lab.reading import brief
from chatvec_lab.weights.sources.files import read_json

if TYPE_CHECKING:
    from chatvec_lab.weights.checkpoint import Checkpoint
    from chatvec_lab.weights.merged import MergedCheckpoint

TALKS = (
    ({"role": "user", "content": "Hi there! What is 12 + 7?"},),
    (
        {"role": "user", "content": "How are you?"},
        {"role": "assistant", "content": "Fine, thanks."},
        {"role": "user", "content": "Tell me more."},
    ),
    ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}),
)
PROBES = (
    "Hello world",
    " leading space",
    "two  spaces",
    "line\n\nbreak",
    "数字 123 안녕",
    "naïve café",
    "x = f(1);\n\treturn x",
)
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
# settings of tokenizer_config.json that change how text is cut
SETTINGS = (
    "tokenizer_class",
    "legacy",
    "add_prefix_space",
    "add_bos_token",
    "add_eos_token",
    "do_lower_case",
)
_ONE_CLASS = {"LlamaTokenizerFast": "LlamaTokenizer", "PreTrainedTokenizerFast": "TokenizersBackend"}


def rules_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """How the tokenizer of a folder cuts text, as far as its files tell: two with equal rules cut words alike.

    The vocabulary itself is left out. "json" is None without a tokenizer.json, whose rules only transformers knows.
    """
    config, file = checkpoint.tokenizer_config, checkpoint.folder / "tokenizer.json"
    rules: dict[str, Any] = {key: config.get(key) for key in SETTINGS}
    if not isinstance(rules["tokenizer_class"], str | None):
        raise ValueError(
            f"{checkpoint.folder / 'tokenizer_config.json'}: tokenizer_class is {brief(rules['tokenizer_class'])}, and "
            "there should be text. Download or copy it again."
        )
    rules["tokenizer_class"] = _ONE_CLASS.get(rules["tokenizer_class"], rules["tokenizer_class"])
    rules["json"] = None
    if file.is_file():
        stored = read_json(file)
        model = {k: v for k, v in (stored.get("model") or {}).items() if k not in ("vocab", "merges")}
        steps = [model, *(stored.get(k) for k in ("normalizer", "pre_tokenizer"))]
        rules["json"] = xxhash.xxh3_64_hexdigest(json.dumps(steps, sort_keys=True).encode())
        flags = ("single_word", "lstrip", "rstrip", "normalized")
        rules["added"] = {
            t["content"]: [bool(t.get(f)) for f in flags] for t in stored.get("added_tokens") or []
        }
    return rules


def other_rules(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """The rules in which two tokenizers differ (or that files do not show); empty where both must cut words alike."""
    lines = [
        f"{key}: {ours.get(key)!r}, chat {theirs.get(key)!r}"
        for key in SETTINGS
        if ours.get(key) != theirs.get(key)
    ]
    if None in (ours.get("json"), theirs.get("json")):
        lines.append("no tokenizer.json on both sides")
    elif ours["json"] != theirs["json"]:
        lines.append("tokenizer.json: normaliser or pre-tokeniser")
    both = ours.get("added", {}).keys() & theirs.get("added", {}).keys()
    lines += [
        f"flags of {token!r}" for token in sorted(both) if ours["added"][token] != theirs["added"][token]
    ]
    return lines


def prompts_of(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Short talks as the chat template writes them: dicts of talk (number in `TALKS`), text and pieces.

    Talks that the template refuses (a system message, often) are left out.
    """
    return _prompts(checkpoint.tokenizer)


def _prompts(tokenizer) -> list[dict[str, Any]]:
    from jinja2 import TemplateError

    result = []
    for number, talk in enumerate(TALKS):
        try:
            text = sandbox.render(tokenizer, list(talk), add_generation_prompt=True)
        except TemplateError:  # the template's own refusal
            continue
        result.append({"talk": number, "text": text, "pieces": _pieces(tokenizer, text)})
    return result


def _pieces(tokenizer, text: str) -> list[str]:
    try:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # of the libraries below, of no type of its own
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path} cannot cut {text[:40]!r}: {error}"
        ) from error
    return tokenizer.convert_ids_to_tokens(ids)


def compare_prompts(merged: MergedCheckpoint) -> tuple[int, list[str]]:
    """How many chat prompts were compared, and one line for each that the merged model cuts (or writes) unlike chat."""
    theirs = {prompt["talk"]: prompt for prompt in merged.chat_side.prompts()}
    lines = []
    for ours in _prompts(merged.tokenizer):
        wanted = theirs.get(ours["talk"])
        if wanted is None:
            continue
        if ours["text"] != wanted["text"]:
            at = _first_other(ours["text"], wanted["text"])
            around = slice(max(0, at - 12), at + 12)
            lines.append(f"the template writes {ours['text'][around]!r}, for chat {wanted['text'][around]!r}")
        elif ours["pieces"] != wanted["pieces"]:
            at, count = _first_other(ours["pieces"], wanted["pieces"]), len(wanted["pieces"])
            here, there = (" ".join(p["pieces"][max(0, at - 1) : at + 3]) for p in (ours, wanted))
            lines.append(f"piece {at + 1} of {count}: {here}, chat {there}")
    return len(theirs), lines


def mending(merged: MergedCheckpoint) -> str | None:
    """The settings of tokenizer_config.json with which the CP's tokenizer cuts prompts as chat's does, by trying."""
    from chatvec_lab.weights.checkpoint import Checkpoint

    theirs = merged.chat_side.rules()
    changes = {
        key: theirs.get(key) for key in SETTINGS if merged.tokenizer_config.get(key) != theirs.get(key)
    }
    tries = [{key: value} for key, value in changes.items() if value is not None]
    if len(tries) > 1:
        tries.append({key: value for key, value in changes.items() if value is not None})
    wanted = {prompt["talk"]: prompt["pieces"] for prompt in merged.chat_side.prompts()}
    for change in tries:
        with tempfile.TemporaryDirectory(prefix="chatvec_lab-tokenizer-") as temporary:
            folder = Path(temporary)
            for file in _tokenizer_files(merged.folder):
                shutil.copyfile(file, folder / file.name)
            config = merged.tokenizer_config | change
            (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
            (folder / "chat_template.jinja").write_text(merged.chat_template, "utf-8")
            try:
                found = {
                    prompt["talk"]: prompt["pieces"] for prompt in _prompts(Checkpoint(folder).tokenizer)
                }
            except (ValueError, OSError, KeyError, TypeError):  # no tokenizer with these settings
                continue
        if found == wanted:
            return ", ".join(f'"{key}": {json.dumps(value)}' for key, value in change.items())
    return None


def compare_saved(live, folder: Path) -> list[str]:
    """In what the tokenizer of a saved folder, as transformers opens it, differs from the live one."""
    from chatvec_lab.weights.checkpoint import Checkpoint

    saved, lines = Checkpoint(folder).tokenizer, []
    for key in SPECIAL:
        ours, theirs = getattr(saved, key, None), getattr(live, key, None)
        if ours != theirs:
            lines.append(f"{key}: saved {ours!r}, live {theirs!r}")
    if (ours := saved.get_vocab()) != (theirs := live.get_vocab()):
        unlike = sorted(token for token, _ in ours.items() ^ theirs.items())
        lines.append(f"{len(set(unlike))} tokens have other ids or are missing, such as {unlike[0]!r}")
    if set(saved.all_special_tokens) != set(live.all_special_tokens):
        unlike = sorted(set(saved.all_special_tokens) ^ set(live.all_special_tokens))
        lines.append(f"special in one of the two only: {', '.join(unlike[:8])}")
    marks = [token for token in live.all_special_tokens if token]
    texts = [*PROBES, *(f"Hello{mark}world {mark} again" for mark in marks)]
    for text in texts:
        ours, theirs = (_pieces(tokenizer, text) for tokenizer in (saved, live))
        if ours != theirs:
            lines.append(f"{text!r} is cut as {' '.join(ours)}, live {' '.join(theirs)}")
        elif saved.decode(saved(text)["input_ids"]) != live.decode(live(text)["input_ids"]):
            lines.append(f"{text!r} comes back as {saved.decode(saved(text)['input_ids'])!r}")
    if saved.chat_template != live.chat_template:
        lines.append("the chat template is another one")
    elif live.chat_template and _prompts(saved) != _prompts(live):
        lines.append("a talk is written or cut another way by the chat template")
    return lines


def _first_other(ours, theirs) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )


def _tokenizer_files(folder: Path) -> list[Path]:
    from chatvec_lab.weights.sources.beside import sort_companions

    return [
        path
        for path in sort_companions(folder)[0]
        if path.is_file() and path.name not in ("tokenizer_config.json", "chat_template.jinja")
    ]
