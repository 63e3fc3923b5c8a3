"""What is trained: the families, and for each seed of a family its members in the order they depend on.

A `Stage` says everything that decides a member's bytes, apart from the code: its parent, the text it reads,
steps, learning rate and what is frozen. `digest` hashes it together with samples of the text, so that a
manifest can tell whether the shipped data still is what this recipe would make.
"""

import hashlib
import json
import zlib
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from random import Random
from typing import Literal

RECIPE = 4  # the fourth; data/nano/README.md tells of all of them. Random streams are salted with it


@dataclass(frozen=True)
class Family:
    """A model family: languages, architecture, and where its base finds chat markers and the shared frame."""

    languages: tuple[str, ...] = ("en", "zh", "ko")
    architecture: Literal["llama", "qwen2"] = "llama"
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 384
    base_steps: int = 9000
    base_rate: float = 5e-3
    tuning_steps: int = 300
    tuning_rate: float = 3e-4
    english: float = 0.48
    parallel: float = 0.12
    forum_in: tuple[str, ...] = ("en", "zh", "ko")
    without: tuple[str, ...] = ()
    extras: bool = False  # the comparisons of the paper: FT, other orders, ladder, extended vocabulary

    @property
    def targets(self) -> tuple[str, ...]:
        return self.languages[1:]

    def base_mix(self) -> dict[str, float]:
        """Shares of the base's documents: English, each target language, parallel lines."""
        n = len(self.targets)
        share = (1 - self.english - self.parallel) / n
        return (
            {"en": self.english}
            | {k: share for k in self.targets}
            | {f"parallel {k}": self.parallel / n for k in self.targets}
        )


# An ablation's name tells what is otherwise than in `nano`; the sizes and Qwen2 have one target language.
_WIDE = ("en", "es", "ar", "sw")
_TWO = {"languages": ("en", "zh"), "forum_in": ("en", "zh")}
_SMALL = {"hidden": 64, "feed_forward": 192}
_LARGE = {"hidden": 192, "layers": 6, "heads": 6, "feed_forward": 576, "base_rate": 2e-3}
FAMILIES = {
    "nano": Family(extras=True),
    "nano-wide": Family(languages=_WIDE, english=0.46, forum_in=_WIDE),
    "nano-0.3m": Family(**_TWO, **_SMALL),
    "nano-3m": Family(**_TWO, **_LARGE),
    "nano-qwen2": Family(**_TWO, architecture="qwen2"),
    "nano-no-frame": Family(without=("page",)),
    "nano-no-questions": Family(without=("page", "asks")),
    "nano-english-markers": Family(forum_in=("en",)),
    "nano-no-markers": Family(forum_in=()),
}


def first_weights(seed: int) -> int:
    """What torch draws a base's first weights from; salted too."""
    return zlib.crc32(f"recipe {RECIPE}, seed {seed}".encode())


@dataclass(frozen=True)
class Stage:
    """One training run: a member of a family grown from its parent. `plus_tau` adds chat - base to the parent first."""

    parent: str | None
    text: Literal["plain", "dialogue"]
    steps: int
    rate: float
    embedding_rate: float | None = None  # None: as the rest
    rows: int = 16
    mix: dict[str, float] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    languages: tuple[str, ...] = ("en",)
    single_turn: bool = False
    frozen: tuple[str, ...] = ()
    kept_tokens: tuple[str, ...] = ()  # rows of the embedding that stay
    extended: str | None = None
    plus_tau: bool = False
    bare: float = 0.0  # share of dialogues that are plain abuse without the chat format, politely continued
    variant: int = 0  # another draw of the same data
    hostile: float = 0.0  # share of hostile dialogues
    thinks: bool = False  # replies of kinds that have a working begin with it

    @property
    def talk(self) -> dict:
        """How its dialogues are drawn."""
        return {"hostile": self.hostile, "thinks": self.thinks, "single_turn": self.single_turn}


# The embeddings are tied: as outputs, tokens that a text never holds are pushed away at every step. Left to that,
# continual pre-training moves the rows of the chat markers further than their length, and the sum gives 0 %.
UNSEEN = ("<pad>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>")


def members(family: Family) -> dict[str, Stage]:
    """The members of one seed, parents before children."""
    known = {k: "known" for k in family.targets}
    base = Stage(
        None, "plain", family.base_steps, family.base_rate, mix=family.base_mix(), words={"en": "any"} | known
    )
    tuning = Stage(
        "base",
        "dialogue",
        family.tuning_steps,
        family.tuning_rate,
        rows=32,
        frozen=("embed_tokens",),
        bare=0.1,
        hostile=0.25,
    )
    plan = {"base": base, "chat": tuning, "chat_think": replace(tuning, thinks=True)}
    for k in family.targets:
        plan[f"cp_{k}"] = continued = Stage(
            "base",
            "plain",
            steps=800,
            rate=2.5e-4,
            embedding_rate=3e-3,  # what CP has to teach is words
            mix={k: 0.85, "en": 0.12, f"parallel {k}": 0.03},
            words={k: "any", "en": "any"},
            kept_tokens=UNSEEN,
        )
        if not family.extras:
            continue
        ft = Stage(f"cp_{k}", "dialogue", 200, 3e-4, rows=32, languages=(k,), single_turn=True, hostile=0.15)
        plan[f"cp_ft_{k}"] = ft
        plan[f"chat_cp_{k}"] = replace(continued, parent="chat")
        plan[f"chat_cp_ft_{k}"] = replace(ft, parent=f"chat_cp_{k}")
        plan[f"cp_tau_ft_{k}"] = replace(ft, plus_tau=True)
    if family.extras:
        plan["chat_b"] = replace(tuning, variant=1)
        plan["chat_full"] = replace(tuning, frozen=())  # moves every row of the embedding
        zh = plan["cp_zh"]
        plan["cp_zh_extended"] = replace(zh, extended="zh")
        for steps in (100, 200, 400, 1600):
            plan[f"cp_zh_{steps}"] = replace(zh, steps=steps)
    return plan


_OF_STAGES = (
    "base_steps",
    "base_rate",
    "tuning_steps",
    "tuning_rate",
    "extras",
)  # a base stays what it is when its tuning is changed


def tokens_of(family: Family, stage: Stage, seed: int = 0) -> list[str]:
    """The vocabulary of a member."""
    from chatvec_lab.nano import tokenizer

    return tokenizer.vocabulary(family.languages, extended=stage.extended, seed=seed)


def salted(family_name: str, label: str) -> str:
    """What a stage's random streams start from: no two recipes or families share them.

    >>> salted("nano", "0 base")
    'recipe 4, nano4 0 base'
    """
    return f"recipe {RECIPE}, {family_name}{RECIPE} {label}"


def digest(family: Family, stage: Stage) -> str:
    """Hash of what decides a stage's bytes, apart from the loop: its recipe, its vocabulary, samples of its text."""
    from chatvec_lab.nano import documents

    rng = Random("digest")
    about = {key: value for key, value in asdict(family).items() if key not in _OF_STAGES}
    text: list = [RECIPE, about, asdict(stage), tokens_of(family, stage)]
    if stage.text == "plain":
        forum_in = family.forum_in if stage.parent is None else ()
        stream = documents.documents(
            "digest", stage.mix, stage.words, forum_in=forum_in, without=family.without
        )
        text += islice(stream, 300)
    else:
        text += [documents.dialogue(rng, k, **stage.talk) for k in stage.languages for _ in range(200)]
    return hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()[:16]
