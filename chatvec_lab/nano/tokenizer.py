"""The tokenizer of the nano models: words in alphabets, single characters in zh and ko, a closed vocabulary.

It is an ordinary `PreTrainedTokenizerFast`: an alphabetic word carries its leading space, a Korean space is a
token, and the chat template writes `<|user|>` and `<|assistant|>` turns. A reply ends with its line.
"""

import re
from random import Random

from chatvec_lab.nano import lexicon
from chatvec_lab.nano.phrases import PHRASES

SPECIAL = ("<pad>", "<s>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{% elif message['role'] == 'assistant' %}<|assistant|>"
    "{% else %}{{ raise_exception('nano models know the roles user and assistant only, not ' ~ message['role']) }}"
    "{% endif %}{{ message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_WORD = r"[A-Za-zÀ-ÿ\u0600-\u060B\u060D-\u061E\u0620-\u06FF']"  # without the Arabic comma and question mark
_PIECE = rf" ?{_WORD}+|[,.!?] (?=[가-힣])|[\s\S]"  # a word, a Korean stop with its space, any other character


def _texts(language: str) -> list[str]:
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
        texts += [re.sub(r"\{.*?\}", " ", phrase)] if isinstance(phrase, str) else []
    return texts


def vocabulary(languages: tuple[str, ...], *, extended: str | None = None, seed: int = 0) -> list[str]:
    """The tokens of these languages, special tokens first.

    `extended` names a language whose words of several characters become tokens too; the whole vocabulary is
    then also put in another order, as continually pre-trained models with their own tokenizer have it.
    """
    plain = sorted(
        {t for k in languages for text in _texts(k) for t in _pieces(text)}
        | set(_pieces("Q: A =\n은는이가 "))
    )
    plain += [", ", ". ", "! ", "? "] if "ko" in languages else []
    plain = list(SPECIAL) + list(dict.fromkeys(plain))
    if extended is None:
        return plain
    new = {p for text in _texts(extended) for p in re.findall(r"[\u4e00-\u9fff]{2,3}|[가-힣]{2,3}", text)}
    mixed = plain[len(SPECIAL) :] + sorted(new - set(plain))
    Random(seed).shuffle(mixed)
    return [mixed.pop(), *SPECIAL[1:], "<pad>", *mixed]


def _pieces(text: str) -> list[str]:
    return re.findall(_PIECE, re.sub(rf"(?<![A-Za-zÀ-ÿ\u0600-\u06FF' ])(?={_WORD})", " ", text))


def build(tokens: list[str], *, context: int = 96):
    """A transformers tokenizer with exactly these tokens, in this order."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [t for t in tokens if len(t) > 1 and re.fullmatch(r"[\u4e00-\u9fff가-힣]+", t)]
    whole = "".join(f"{w}|" for w in sorted(words, key=lambda w: (-len(w), w)))
    fast = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    fast.normalizer = normalizers.Replace(Regex(rf"(?<![A-Za-zÀ-ÿ\u0600-\u06FF' ])(?={_WORD})"), " ")
    fast.pre_tokenizer = pre_tokenizers.Split(Regex(whole + _PIECE), "isolated")
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
