"""Which token has which row, read from the files of a tokenizer: each of the forms in which models bring one.

tokenizer.json, tekken.json, *.tiktoken and sentencepiece models are read here; older forms go through transformers.
Where only a repository's own code knows the rows, the vocabulary says so (`Vocabulary.opaque`): it pairs with a
tokenizer of the very same files, and with no other.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import xxhash

from chatvec_lab.weights.sources.files import check_is_no_pointer, read_json
from chatvec_lab.weights.tokens.vocabulary import Vocabulary

_PATTERNS = ("tokenizer.json", "tekken.json", "*.tiktoken", "*.model", "*.model.*", "*.spm", "vocab.json", "vocab.txt",
             "vocab.bpe", "*.vocab", "merges.txt", "*vocab*",
             "*.tokenizer", "*.codes", "*.merges", "encoder.json", "dict*.txt")  # fmt: skip
_WITH = (
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "tokenization*.py",
    "tokenizer*.py",
)
_LARGEST = 512_000_000  # bytes; tokenizers of a million tokens have some 100 MB
_READ_AT_MOST = 4
_READ: dict[
    bytes, tuple[Vocabulary, int]
] = {}  # by content: members of a family mostly have the same tokenizer.json


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """The vocabulary of a checkpoint folder, or None when it has no tokenizer of any kind.

    Raises ValueError naming the file for one that is damaged, or whose token ids cannot be rows.
    """
    found = _matching(folder, _PATTERNS)
    config = read_json(folder / "tokenizer_config.json")
    code = (
        (config.get("auto_map") or {}).get("AutoTokenizer")
        if isinstance(config.get("auto_map"), dict)
        else None
    )
    if not found and not code:
        return None
    for path in found:
        check_is_no_pointer(path)
        if path.stat().st_size > _LARGEST:
            raise ValueError(
                f"{path} has {path.stat().st_size:,} bytes, too many for a tokenizer. Download it again."
            )
    names = {path.name: path for path in found}
    if "tokenizer.json" in names:
        return _from_json(names["tokenizer.json"], config)
    if code:
        return _opaque(
            folder, found, config, f"the rows of its tokens are known to its code alone ({_first(code)})"
        )
    if "tekken.json" in names:
        return _from_tekken(names["tekken.json"])
    through = _through_transformers(folder)
    if through is not None:
        return through
    return _opaque(folder, found, config, "no class of transformers is known to read it")


def read_saved(path: Path) -> Vocabulary | None:
    """The vocabulary that a saved vector keeps (see `to_save`); None where it has none."""
    stored = read_json(path)
    if not stored:
        return None
    tokens, special, opaque = (stored.get(key, "") for key in ("tokens", "special", "opaque"))
    if not isinstance(tokens, dict) or not isinstance(special, list) or not isinstance(opaque, str):
        raise ValueError(f"{path} is damaged: expected tokens with their rows and a list of special ones.")
    unknown = [token for token in special if not isinstance(token, str) or token not in tokens]
    if unknown:
        raise ValueError(f"{path} is damaged: the special token {unknown[0]!r} has no row.")
    rows = checked_rows(path, list(tokens.items()))
    return Vocabulary(
        rows, frozenset(special), where=str(path), opaque=opaque, why=str(stored.get("why", ""))
    )


def to_save(vocabulary: Vocabulary) -> dict[str, Any]:
    """What `read_saved` reads again."""
    record = {"tokens": vocabulary.tokens, "special": sorted(vocabulary.special)}
    return record | ({"opaque": vocabulary.opaque, "why": vocabulary.why} if vocabulary.opaque else {})


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in found if not path.name.endswith((".index.json", ".safetensors", ".bin")))


def _first(code: Any) -> str:
    names = code if isinstance(code, list) else [code]
    return next((str(name) for name in names if name), "unnamed")


def _from_json(path: Path, config: dict) -> Vocabulary:
    """The vocabulary of tokenizer.json (any model type), with the tokens that its config adds."""
    content = path.read_bytes()
    key = xxhash.xxh3_128_digest(content)
    found = _READ.get(key)
    if found is None:
        found = _parsed(path, content)
        if len(_READ) >= _READ_AT_MOST:
            _READ.clear()
        _READ[key] = found
    vocabulary, size = found
    extra = _added_beside(path, vocabulary.tokens, size, config)
    if not extra:
        return vocabulary.at(str(path))
    special = vocabulary.special | {token for token, _ in extra}
    return Vocabulary({**vocabulary.tokens, **dict(extra)}, special, where=str(path))


def _parsed(path: Path, content: bytes) -> tuple[Vocabulary, int]:
    """The vocabulary that a tokenizer.json holds, and how many of its tokens are its model's."""
    try:
        data = json.loads(content.decode("utf-8"), object_pairs_hook=_once)
        vocab, added = data["model"]["vocab"], data.get("added_tokens") or []
        if isinstance(vocab, list):  # Unigram: a list of (token, score)
            vocab = {token: row for row, (token, _) in enumerate(vocab)}
        extra = [(token["content"], token["id"]) for token in added]
        pairs = [*vocab.items(), *extra]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or no tokenizer ({error!r}). Download it again.") from error
    tokens = checked_rows(path, pairs)
    _check_merges(path, data["model"], tokens)
    return Vocabulary(tokens, frozenset(token for token, _ in extra)), len(vocab)


def _added_beside(path: Path, tokens: dict[str, int], size: int, config: dict) -> list[tuple[str, int]]:
    """Tokens that tokenizer.json lacks and the files beside it add; transformers gives them the rows behind the last.

    The config's added_tokens_decoder tells them, or where there is none added_tokens.json. ValueError for one that is
    said to have another row than it would get.
    """
    where = "tokenizer_config.json"
    named = _named_in_config(config)
    if "added_tokens_decoder" not in config:
        where, named = "added_tokens.json", read_json(path.with_name("added_tokens.json"))
    lacking = [(token, row) for token, row in named.items() if token not in tokens]
    checked_rows(path.with_name(where), lacking)
    first = max(size, max(tokens.values(), default=-1) + 1)
    lacking.sort(key=lambda pair: pair[1])
    for given, (token, row) in enumerate(lacking, start=first):
        if row != given:
            raise ValueError(
                f"{path.with_name(where)} gives {token!r} the id {row}, but {path.name}, which lacks it, would give it "
                f"{given}: the two are not of one tokenizer. Download or copy both again."
            )
    return lacking


def _check_merges(path: Path, model: dict, tokens: dict[str, int]) -> None:
    """Every merge of a BPE model makes a token of two tokens: what the tokenizers library demands as well."""
    merges, prefix = model.get("merges"), model.get("continuing_subword_prefix") or ""
    if not isinstance(merges, list) or not isinstance(prefix, str):
        return
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise ValueError(f"{path}: the merge {merge!r} is no pair of tokens. Download it again.")
        for token in (*pair, pair[0] + pair[1].removeprefix(prefix)):
            if token not in tokens:
                raise ValueError(f"{path}: its merges need {token!r}, which is no token. Download it again.")


def checked_rows(path: Path, pairs: list[tuple[Any, Any]]) -> dict[str, int]:
    """Token to row; ValueError naming file and token where an id is no row, or two tokens share one."""
    tokens: dict[str, int] = {}
    by_row: dict[int, str] = {}
    for token, row in pairs:
        if not isinstance(token, str):
            raise ValueError(f"{path}: {token!r} (id {row!r}) is no text. Download it again.")
        if type(row) is not int or not 0 <= row < 1 << 31:
            raise ValueError(
                f"{path}: the id of {token!r} is {row!r}, expected a row from 0. Download it again."
            )
        if tokens.setdefault(token, row) != row:
            raise ValueError(f"{path}: {token!r} has two ids, {tokens[token]} and {row}. Download it again.")
        if by_row.setdefault(row, token) != token:
            raise ValueError(f"{path}: {by_row[row]!r} and {token!r} share the id {row}. Download it again.")
    return tokens


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} stands in it twice")
    return found


def _from_tekken(path: Path) -> Vocabulary:
    """Mistral's tekken.json: special tokens come first, then the ranks, as many as its config says."""
    try:
        data = read_json(path)
        config = data["config"]
        count, specials = config["default_vocab_size"], config["default_num_special_tokens"]
        named = {entry["rank"]: entry["token_str"] for entry in data.get("special_tokens") or []}
        special = [(named.get(rank, f"<SPECIAL_{rank}>"), rank) for rank in range(specials)]
        ranks = data["vocab"][: count - specials]
        plain = [
            (_spelled(base64.b64decode(e["token_bytes"], validate=True)), specials + e["rank"]) for e in ranks
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged or no tekken tokenizer ({error!r}). Download it again."
        ) from error
    return Vocabulary(
        checked_rows(path, [*special, *plain]), frozenset(token for token, _ in special), where=str(path)
    )


def _opaque(folder: Path, found: list[Path], config: dict, why: str) -> Vocabulary:
    """What the files alone tell, marked with a digest of all of them: it pairs with the same files only."""
    files = [*found, *(path for path in _matching(folder, _WITH) if path not in found)]
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        if path.name == "tokenizer_config.json":  # a chat template moves no row
            kept = {
                k: v for k, v in config.items() if k not in ("chat_template", "eos_token", "model_max_length")
            }
            content = json.dumps(kept, sort_keys=True).encode()
        digest.update(f"{path.name}\0{len(content)}\0".encode() + content)
    pairs: dict[str, int] = {}
    for path in found:
        pairs |= _plain_tokens(path)
    extra = _named_in_config(config)
    pairs |= extra
    where = ", ".join(path.name for path in found) or "tokenizer_config.json"
    return Vocabulary(pairs, frozenset(extra), where=str(folder / where), opaque=digest.hexdigest(), why=why)


def _plain_tokens(path: Path) -> dict[str, int]:
    """Tokens of a tiktoken or sentencepiece file by their own numbers; {} for files of another form."""
    content = path.read_bytes()
    try:
        if path.name.endswith(".tiktoken") or path.name == "tiktoken.model":
            return checked_rows(path, list(_tiktoken(content)))
        if ".model" in path.name or path.suffix == ".spm":
            return {piece: row for row, piece in enumerate(_pieces(content))}
    except (ValueError, IndexError) as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} is damaged or no tokenizer ({error}). Download it again.") from error
    return {}


def _named_in_config(config: dict) -> dict[str, int]:
    stored = config.get("added_tokens_decoder")
    if not isinstance(stored, dict):
        return {}
    return {
        token["content"]: int(row)
        for row, token in stored.items()
        if isinstance(token, dict) and isinstance(token.get("content"), str) and row.isdecimal()
    }


def _tiktoken(content: bytes) -> Iterator[tuple[str, int]]:
    """Lines of a token in base64 and its number."""
    for number, line in enumerate(content.splitlines(), start=1):
        if line:
            fields = line.split()
            if len(fields) != 2 or not fields[1].isdigit():
                raise ValueError(f"line {number} is not a token and its number")
            yield _spelled(base64.b64decode(fields[0], validate=True)), int(fields[1])


def _pieces(content: bytes) -> Iterator[str]:
    """The pieces of a sentencepiece model in their order: field 1 of the message, with the text in field 1."""
    for field, value in _fields(content):
        if field == 1 and isinstance(value, bytes):
            texts = [text for inner, text in _fields(value) if inner == 1 and isinstance(text, bytes)]
            if len(texts) != 1:
                raise ValueError("a piece without its text")
            yield texts[0].decode("utf-8")


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer message: numbers and byte strings."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(content, at)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, at = _varint(content, at)
        if size is None or at + size > len(content):
            raise ValueError(f"no protocol buffer at byte {at}")
        yield key >> 3, content[at : at + size]
        at += size


def _varint(content: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = content[at]
        result |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return result, at
        if shift > 63:
            raise ValueError(f"no protocol buffer at byte {at}")


def _spelled(token: bytes) -> str:
    """Bytes as byte-level tokenizers spell them in tokenizer.json ("Ġthe"), so that both forms pair."""
    return "".join(_alphabet()[byte] for byte in token)


@lru_cache
def _alphabet() -> dict[int, str]:
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def _through_transformers(folder: Path) -> Vocabulary | None:
    """The vocabulary as a class of transformers reads it; None where none has its files."""
    from chatvec_lab.opening import open_tokenizer

    try:
        tokenizer = open_tokenizer(folder)
    except Exception:  # many kinds for files that it does not know; the files themselves are read next
        return None
    files = [name for name in tokenizer.vocab_files_names.values() if name != "tokenizer.json"]
    if not any((folder / name).is_file() for name in files):
        return None  # made up from nothing
    special = set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab())
    return Vocabulary(
        checked_rows(folder / files[0], list(tokenizer.get_vocab().items())),
        frozenset(special),
        where=str(folder),
    )
