"""Tokenizers in each of the files that models bring: the right row for every token, or a refusal."""

import base64
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pico import CP_TOKENS, SPECIAL, TOKENS, save_family, save_tokenizer
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from chatvec_lab import Checkpoint
from chatvec_lab.weights.sources.tokenizer_files import read_saved, read_vocabulary, to_save
from chatvec_lab.weights.tokens.vocabulary import Vocabulary

TEXT = "\n".join(" ".join(f"wort{i * j % 97} katze hund" for i in range(20)) for j in range(200))


@pytest.fixture
def sentencepiece_model(tmp_path):
    """A trained sentencepiece model, and its pieces by the library itself."""
    spm = pytest.importorskip("sentencepiece")
    (tmp_path / "text").write_text(TEXT)
    options = dict(vocab_size=120, model_type="bpe", minloglevel=2)
    spm.SentencePieceTrainer.train(input=str(tmp_path / "text"), model_prefix=str(tmp_path / "sp"), **options)
    read = spm.SentencePieceProcessor(str(tmp_path / "sp.model"))
    return tmp_path / "sp.model", {read.id_to_piece(i): i for i in range(len(read))}


def test_a_sentencepiece_model_alone_gives_tokens_and_tokenizer(sentencepiece_model, tmp_path):
    file, pieces = sentencepiece_model
    folder = tmp_path / "llama"
    folder.mkdir()
    shutil.copy(file, folder / "tokenizer.model")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    found = read_vocabulary(folder)
    assert not found.opaque and found.tokens == pieces and {"<s>", "</s>", "<unk>"} <= found.special
    tokenizer = Checkpoint(folder).tokenizer
    import sentencepiece

    wanted = sentencepiece.SentencePieceProcessor(str(file)).encode("katze hund wort3")
    assert tokenizer("katze hund wort3", add_special_tokens=False).input_ids == wanted


def test_a_sentencepiece_file_of_another_name_pairs_with_itself_alone(sentencepiece_model, tmp_path):
    file, pieces = sentencepiece_model
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        shutil.copy(file, tmp_path / name / "sentencepiece.bpe.model")
    other = (tmp_path / "c/sentencepiece.bpe.model").read_bytes().replace(b"katze", b"kazte")
    (tmp_path / "c/sentencepiece.bpe.model").write_bytes(other)
    a, b, c = (read_vocabulary(tmp_path / name) for name in ("a", "b", "c"))
    assert a.tokens == pieces  # our reader of the format agrees with the library
    assert a.has_the_rows_of(b) and np.array_equal(a.rows_in(b, 130), np.arange(130))
    with pytest.raises(
        ValueError, match=r"sentencepiece\.bpe\.model.*cannot be read by token.*tokenizer\.json"
    ):
        a.rows_in(c, 130)


def tiktoken(words):
    return "".join(f"{base64.b64encode(w.encode()).decode()} {i}\n" for i, w in enumerate(words)).encode()


@pytest.mark.parametrize("file", ["qwen.tiktoken", "tiktoken.model"])
def test_a_tiktoken_file_pairs_with_itself_alone(tmp_path, file):
    for name, words in (("a", TOKENS), ("b", TOKENS), ("c", TOKENS[::-1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(tiktoken(words))
    a, b, c = (read_vocabulary(tmp_path / name) for name in ("a", "b", "c"))
    assert a.tokens == {word: i for i, word in enumerate(TOKENS)} and a.has_the_rows_of(b)
    assert np.array_equal(a.rows_in(b, 70), np.arange(70))  # rows that only its code names pair as well
    with pytest.raises(ValueError, match=file):
        a.rows_in(c, 70)


def test_a_merge_of_unreadable_tokenizers_is_by_index_or_refused(tmp_path):
    folders = save_family(tmp_path)
    for folder in folders:
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
        (folder / "qwen.tiktoken").write_bytes(tiktoken(SPECIAL + TOKENS))
        (folder / "tokenization_qwen.py").write_text("raise SystemExit('code of the repository ran')")
    base, chat, cp = map(Checkpoint, folders)
    name = "lm_head.weight"
    expected = (cp.read(name).double() + chat.read(name).double() - base.read(name).double()).bfloat16()
    assert (cp + (chat - base)).read(name).equal(expected)
    (folders[2] / "qwen.tiktoken").write_bytes(tiktoken(SPECIAL + TOKENS[::-1]))
    with pytest.raises(ValueError, match=r"cp/qwen\.tiktoken"):
        (Checkpoint(folders[2]) + (chat - base)).save(tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_tekken_has_the_rows_of_the_tokenizer_json_made_of_it(tmp_path):
    words = ["a", " b", "é", "\n", "xyz"]
    vocab = [
        {"rank": i, "token_bytes": base64.b64encode(w.encode()).decode(), "token_str": w}
        for i, w in enumerate(words)
    ]
    special = [
        {"rank": 0, "token_str": "<unk>", "is_control": True},
        {"rank": 1, "token_str": "<s>", "is_control": True},
    ]
    config = {
        "default_vocab_size": 3 + 4,
        "default_num_special_tokens": 3,
        "pattern": ".",
        "num_vocab_tokens": 5,
    }
    (tmp_path / "tekken.json").write_text(
        json.dumps({"config": config, "vocab": vocab, "special_tokens": special})
    )
    found = read_vocabulary(tmp_path)
    # the last rank is beyond the vocabulary's size; bytes are spelled as in tokenizer.json
    assert found.tokens == {"<unk>": 0, "<s>": 1, "<SPECIAL_2>": 2, "a": 3, "Ġb": 4, "Ã©": 5, "Ċ": 6}
    assert found.special == {"<unk>", "<s>", "<SPECIAL_2>"} and not found.opaque
    (tmp_path / "tekken.json").write_text(
        json.dumps({"config": config, "vocab": [vocab[0], vocab[1] | {"rank": 0}]})
    )
    with pytest.raises(ValueError, match=r"tekken\.json: .*share the id 3"):
        read_vocabulary(tmp_path)
    (tmp_path / "tekken.json").write_text(json.dumps({"vocab": vocab}))
    with pytest.raises(ValueError, match=r"tekken\.json is damaged"):
        read_vocabulary(tmp_path)


def test_a_tokenizer_of_code_alone_is_opaque_and_no_tokenizer_is_none(tmp_path):
    assert read_vocabulary(tmp_path) is None
    auto = {"auto_map": {"AutoTokenizer": ["tokenization_own.Own", None]}, "chat_template": "x"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(auto))
    (tmp_path / "tokenization_own.py").write_text("a = 1")
    first = read_vocabulary(tmp_path)
    assert first.opaque and "tokenization_own" in first.why
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(auto | {"chat_template": "y"}))
    assert read_vocabulary(tmp_path).has_the_rows_of(first)  # a template moves no row
    (tmp_path / "tokenization_own.py").write_text("a = 2")
    assert not read_vocabulary(tmp_path).has_the_rows_of(first)


@pytest.mark.parametrize(
    ("row", "said"),
    [(-1, "the id of 'w13' is -1"), (5, "'w2' and 'w13' share the id 5"), (True, "the id of 'w13' is True"),
     (1.0, "the id of 'w13' is 1.0"), (1 << 40, "the id of 'w13'"), ("7", "the id of 'w13' is '7'"), (None, "is None")],
)  # fmt: skip
def test_an_id_that_is_no_row_is_named(tmp_path, row, said):
    save_tokenizer(tmp_path, SPECIAL + TOKENS)
    made = json.loads((tmp_path / "tokenizer.json").read_text())
    made["model"]["vocab"]["w13"] = row
    (tmp_path / "tokenizer.json").write_text(json.dumps(made))
    with pytest.raises(ValueError, match=rf"tokenizer\.json: .*{said}"):
        read_vocabulary(tmp_path)


def test_two_ids_of_a_token_and_a_name_given_twice_are_named(tmp_path):
    save_tokenizer(tmp_path, SPECIAL + TOKENS)
    file = tmp_path / "tokenizer.json"
    text = file.read_text()
    made = json.loads(text)
    made["added_tokens"][1]["id"] = 40
    file.write_text(json.dumps(made))
    with pytest.raises(ValueError, match=r"tokenizer\.json: '<s>' has two ids, 1 and 40"):
        read_vocabulary(tmp_path)
    file.write_text(text.replace('"w12":', '"w13":', 1))
    with pytest.raises(ValueError, match=r"tokenizer\.json is damaged.*'w13' stands in it twice"):
        read_vocabulary(tmp_path)


def test_a_merge_rule_without_its_tokens_is_named_as_the_library_does(tmp_path):
    from tokenizers import models, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=90, special_tokens=["<unk>"], show_progress=False)
    )
    file = tmp_path / "tokenizer.json"
    tokenizer.save(str(file))
    assert read_vocabulary(tmp_path).tokens == tokenizer.get_vocab()
    text = file.read_text()
    token = max(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    file.write_text(text.replace(json.dumps(token) + ":", json.dumps(token + "x") + ":", 1))
    with pytest.raises(Exception, match="out of vocabulary"):
        Tokenizer.from_file(str(file))
    with pytest.raises(ValueError, match=rf"tokenizer\.json: its merges need '{token}'"):
        read_vocabulary(tmp_path)


def test_rows_and_ids_that_do_not_fit_are_refused_when_rows_are_paired():
    whole, other = Vocabulary({"a": 0, "b": 1, "c": 2}), Vocabulary({"c": 0, "b": 1, "a": 2})
    assert whole.rows_in(other, 4).tolist() == [2, 1, 0, -1]
    with pytest.raises(ValueError, match="'c' has the id 2, but the model has 2 rows"):
        whole.rows_in(other, 2)
    with pytest.raises(ValueError, match="no token has the id 1"):
        Vocabulary({"a": 0, "c": 2}).rows_in(other, 3)
    with pytest.raises(ValueError, match="no token has the id 1"):
        whole.rows_in(Vocabulary({"a": 0, "c": 2}), 3)
    padded = Vocabulary(
        {"a": 0, "b": 1, "<pad>": 9}, frozenset(["<pad>"])
    )  # added without a row: no token's row moves
    assert padded.rows_in(other, 3).tolist() == [2, 1, -1]


def test_a_saved_vocabulary_is_read_checked(tmp_path):
    file = tmp_path / "vocabulary.json"
    for vocabulary in (
        Vocabulary({"a": 0, "b": 1}, frozenset("b")),
        Vocabulary({"a": 0}, opaque="12", why="code"),
    ):
        file.write_text(json.dumps(to_save(vocabulary)))
        assert read_saved(file) == vocabulary and read_saved(file).why == vocabulary.why
    for wrong in ({"tokens": {"a": -1}, "special": []}, {"tokens": {"a": 0, "b": 0}, "special": []},
                  {"tokens": {"a": 0}, "special": ["b"]}, {"tokens": [], "special": []}, {"tokens": {"a": 0}}):  # fmt: skip
        file.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"vocabulary\.json"):
            read_saved(file)
    assert read_saved(tmp_path / "none.json") is None


def test_a_stored_vector_whose_files_changed_is_refused(tmp_path):
    from chatvec_lab import WeightVector

    base, chat, cp = (Checkpoint(folder) for folder in save_family(tmp_path, cp_tokens=CP_TOKENS))
    (chat - base).save(tmp_path / "tau", progress=False)
    merged = (cp + WeightVector.load(tmp_path / "tau")).raw("lm_head.weight")
    assert np.array_equal(merged, (cp + (chat - base)).raw("lm_head.weight"))
    manifest = json.loads((tmp_path / "tau/manifest.json").read_text())
    name = next(iter(manifest["coefficients"]))
    changes = {
        "manifest.json": json.dumps(manifest | {"coefficients": manifest["coefficients"] | {name: [2.0]}}),
        "vocabulary.json": (tmp_path / "tau/vocabulary.json").read_text().replace('"w13"', '"w_13"'),
        "chat.json": (tmp_path / "tau/chat.json").read_text().replace("<s>", "<t>"),
    }
    for file, text in changes.items():
        kept = (tmp_path / "tau" / file).read_text()
        assert text != kept
        (tmp_path / "tau" / file).write_text(text)
        with pytest.raises(ValueError, match=rf"tau/{file} is damaged: it is not what was saved"):
            WeightVector.load(tmp_path / "tau")
        (tmp_path / "tau" / file).write_text(kept)
    (tmp_path / "tau/special_rows.safetensors").unlink()
    with pytest.raises(ValueError, match=r"special_rows\.safetensors is missing"):
        WeightVector.load(tmp_path / "tau")


@pytest.mark.parametrize("file", ["tokenizer_config.json", "added_tokens.json"])
def test_tokens_added_beside_tokenizer_json_have_their_rows(tmp_path, file):
    save_tokenizer(tmp_path, SPECIAL + TOKENS)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())

    def added(rows: dict) -> None:
        if file == "added_tokens.json":
            (tmp_path / file).write_text(json.dumps(rows))
            return
        told = {str(row): {"content": token, "special": True} for token, row in rows.items()}
        (tmp_path / file).write_text(json.dumps(config | {"added_tokens_decoder": told}))

    added({"<|im_end|>": 64, "<|im_start|>": 63, "w1": 4})
    found = Vocabulary.from_folder(tmp_path)
    assert found.tokens == AutoTokenizer.from_pretrained(tmp_path).get_vocab()
    assert (found.tokens["<|im_start|>"], found.tokens["<|im_end|>"]) == (63, 64)
    assert {"<|im_start|>", "<|im_end|>"} <= found.special
    added({"<|im_start|>": 70})
    with pytest.raises(ValueError, match=rf"{file} gives '<\|im_start\|>' the id 70.*would give it 63"):
        Vocabulary.from_folder(tmp_path)


@pytest.mark.parametrize(
    "file", ["rwkv_vocab_v20230424.txt", "prophetnet.tokenizer", "encoder.json", "dict.txt", "vocab.tsv"]
)
def test_a_tokenizer_of_another_form_is_seen(tmp_path, file):
    (tmp_path / file).write_text("{}")
    found = Vocabulary.from_folder(tmp_path)
    assert found is not None and found.opaque and file in found.where


def test_members_with_one_tokenizer_json_read_it_once_and_keep_their_own_files(tmp_path):
    for name in ("base", "chat", "cp", "damaged"):
        (tmp_path / name).mkdir()
        save_tokenizer(tmp_path / name, TOKENS)
    row = len(read_vocabulary(tmp_path / "base").tokens)
    added = {str(row): {"content": "<more>", "special": True}}
    config = json.loads((tmp_path / "cp/tokenizer_config.json").read_text())
    (tmp_path / "cp/tokenizer_config.json").write_text(json.dumps(config | {"added_tokens_decoder": added}))
    file = tmp_path / "damaged/tokenizer.json"
    file.write_text(file.read_text()[:-9])
    base, chat, cp = (read_vocabulary(tmp_path / name) for name in ("base", "chat", "cp"))
    assert base.tokens is chat.tokens and base.has_the_rows_of(chat) and base.digest == chat.digest
    assert [Path(v.where).parent.name for v in (base, chat, cp)] == ["base", "chat", "cp"]
    assert "<more>" not in base.tokens and cp.tokens == base.tokens | {"<more>": row}
    assert cp.digest != base.digest and not cp.has_the_rows_of(base) and "<more>" in cp.special
    with pytest.raises(ValueError, match=r"damaged.tokenizer\.json is damaged"):
        read_vocabulary(tmp_path / "damaged")
