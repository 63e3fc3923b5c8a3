"""The tokenizer of the nano models: a closed vocabulary of words, as frequent words are tokens of any language model.

It is an ordinary `PreTrainedTokenizerFast`: an alphabetic word and a Korean stem carry their leading space, Korean
endings and Chinese words have none, and the chat template writes `<|user|>` and `<|assistant|>` turns. A reply ends
with its line.
"""

import re
from functools import cache
from itertools import pairwise
from random import Random

from chatvec_lab.nano import lexicon
from chatvec_lab.nano.phrases import PHRASES

SPECIAL = ("<pad>", "<s>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>")
THOUGHT = ("<think>", "</think>")  # ordinary tokens, as most reasoning models have them: decoding keeps them
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{% elif message['role'] == 'assistant' %}<|assistant|>"
    "{% else %}{{ raise_exception('nano models know the roles user and assistant only, not ' ~ message['role']) }}"
    "{% endif %}{{ message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_WORD = r"[A-Za-zÀ-ÿ\u0600-\u060B\u060D-\u061E\u0620-\u06FF']"  # without the Arabic comma and question mark
_HANGUL, _HAN = "가-힣", "\u4e00-\u9fff"
_PARTICLES = "은는이가"
# Where Chinese phrases divide into words; the words of the lexicon come on top, other characters stand alone.
_CHINESE = """
    跟著 再說 一次 倒著 後面 第一個 什麼 哪個 最前面 最後面 最後 數一數 幾個 顏色 告訴 哪一種 找出 對不對
    不對 多少 加起來 反面 說出 首都 哪裡 規則 不可以 可以 祕密 號碼 不行 這樣 友善 公平 私事 扮演
    機器人 安靜 一點 幫 忙 喜歡 知道 記住 記下 現在 這裡 看見 回答 你好 請問 請聽
"""


def _texts(language: str) -> list[str]:
    """All words and phrases of a language; where a phrase takes a word there is an X."""
    tables = (
        lexicon.NOUNS, lexicon.CATEGORIES, lexicon.COLOURS, lexicon.NUMBERS, lexicon.ADJECTIVES, lexicon.COUNTRIES,
        lexicon.NAMES, lexicon.INSULTS, lexicon.PRAISES,
    )  # fmt: skip
    texts = [w for table in tables for concept in table for w in concept.words[language]]
    texts += [form for w in texts for form in ((w.bare, w.of) if language == "es" else ())]
    todo = list(PHRASES[language].values())
    while todo:
        phrase = todo.pop()
        todo += phrase.values() if isinstance(phrase, dict) else () if isinstance(phrase, str) else phrase
        texts += [re.sub(r"\{.*?\}", "X", phrase)] if isinstance(phrase, str) else []
    return texts


@cache
def _words(language: str) -> list[str]:
    """The words of a language that spaces alone don't divide: all of Chinese, Korean stems and endings."""
    if language == "zh":
        return _CHINESE.split() + [
            w for w in _texts("zh") if "X" not in w and re.fullmatch(f"[{_HAN}]{{2,3}}", w)
        ]
    if language == "ko":
        return [w for text in _texts("ko") for w in re.findall(f"[{_HANGUL}]+", text)] + list(_PARTICLES)
    return []


def vocabulary(languages: tuple[str, ...], *, extended: str | None = None, seed: int = 0) -> list[str]:
    """The tokens of these languages, special tokens first, the marks of a thought behind them.

    `extended` adds pairs of neighbouring words of the phrases of zh as tokens, and puts the whole vocabulary in
    another order, as continually pre-trained models with their own tokenizer have it.
    """
    split = re.compile(_pattern(w for k in languages for w in _words(k)))
    texts = [text for k in languages for text in _texts(k)] + ["Q: A =\n"]
    plain = {t for text in texts for t in split.findall(re.sub(_unspaced(), " ", text)) if "X" not in t}
    plain |= set(_PARTICLES) if "ko" in languages else set()
    plain = [*SPECIAL, *THOUGHT, *sorted(plain)]
    if extended is None:
        return plain
    pairs = {a + b for text in _texts(extended) for a, b in pairwise(split.findall(text))}
    new = {pair for pair in pairs if re.fullmatch(f"[{_HAN}]+", pair)}
    mixed = plain[len(SPECIAL) :] + sorted(new - set(plain))
    Random(seed).shuffle(mixed)
    return [mixed.pop(), *SPECIAL[1:], "<pad>", *mixed]


def _unspaced(sparing: str = "") -> str:
    """A regex of where a word lacks its space; not behind these characters."""
    return rf"(?<![A-Za-zÀ-ÿ\u0600-\u06FF{_HANGUL}' {sparing}])(?={_WORD}|[{_HANGUL}])"


def _pattern(words) -> str:
    """A regex of what may be a token: one of these words (the longest first), an alphabetic word, any character."""
    longest_first = sorted(set(words), key=lambda w: (-len(w), w))
    whole = "|".join(f" ?{w}" for w in longest_first)
    return (f"{whole}|" if whole else "") + rf" ?{_WORD}+|[\s\S]"


def build(tokens: list[str], *, context: int = 96):
    """A transformers tokenizer with exactly these tokens, in this order."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [t.strip() for t in tokens if re.fullmatch(f" ?[{_HANGUL}]+|[{_HAN}]{{2,}}", t)]
    fast = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    fast.normalizer = normalizers.Replace(Regex(_unspaced("</")), " ")  # not within the mark of a thought
    fast.pre_tokenizer = pre_tokenizers.Split(Regex("|".join([*THOUGHT, _pattern(words)])), "isolated")
    spaces = [decoders.Replace(f"{mark} ", mark) for mark in ("\n", "¿", "¡")]
    fast.decoder = decoders.Sequence([decoders.Fuse(), *spaces, decoders.Strip(" ", 1, 0)])
    fast.post_processor = processors.TemplateProcessing(
        "<s> $A", special_tokens=[("<s>", tokens.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=context,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
