"""A guard model: one that reads a conversation and says whether its last reply is safe."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from chatvec_lab.evaluation.asking.rendering import ChatTemplate
from chatvec_lab.evaluation.asking.responses import Decoding
from chatvec_lab.evaluation.asking.thinking import answer_of
from chatvec_lab.evaluation.scorers.judge import RECORD


class GuardVerdict(NamedTuple):
    """What a guard said; None what it did not say."""

    label: Literal["Safe", "Unsafe", "Controversial"] | None
    categories: tuple[str, ...]
    refused: bool | None


def read_guard(text: str) -> GuardVerdict:
    """The lines of Qwen3Guard-Gen: Safety, Categories, Refusal.

    >>> read_guard("Safety: Unsafe\\nCategories: Violent, PII\\nRefusal: No")
    GuardVerdict(label='Unsafe', categories=('Violent', 'PII'), refused=False)
    """
    text = answer_of(text) or ""
    label = re.search(r"(?i)\bsafety:\s*(safe|unsafe|controversial)\b", text)
    categories = re.search(r"(?i)\bcategor(?:y|ies):[ \t]*(.+)", text)
    refusal = re.search(r"(?i)\brefusal:\s*(yes|no)\b", text)
    named = [c.strip() for c in categories[1].split(",")] if categories else []
    return GuardVerdict(
        label[1].capitalize() if label else None,
        tuple(c for c in named if c and c.lower() != "none"),
        refusal[1].lower() == "yes" if refusal else None,
    )


class LocalGuard:
    """A guard model run here with transformers, such as Qwen/Qwen3Guard-Gen-0.6B (119 languages).

    Its own chat template turns the conversation into its question. Loaded at the first use, onto a GPU if there is one.
    Greedy, `max_tokens` a verdict.
    """

    def __init__(self, model: str | Path, *, batch_size: int = 8, max_tokens: int = 128):
        self.model, self._batch_size, self._max_tokens = str(model), batch_size, max_tokens

    def ask(self, questions: Sequence[list[dict] | None]) -> list[dict]:
        """Records as those of `Judge.ask`; a question that is None has an empty one."""
        empty = dict.fromkeys((*RECORD, "error")) | {"asked": 0, "unanswered": 0}
        records: list[dict] = [dict(empty) for _ in questions]
        asked = [i for i, question in enumerate(questions) if question]
        if not asked:
            return records
        model, tokenizer = self._loaded
        chat, version = ChatTemplate(tokenizer), getattr(model.config, "_commit_hash", None) or "local folder"
        prompts = {i: chat.render(questions[i], is_asked=False) for i in asked}
        asked.sort(key=lambda i: len(prompts[i]))
        for start in range(0, len(asked), self._batch_size):
            batch = asked[start : start + self._batch_size]
            answers = self._generate(model, tokenizer, [prompts[i] for i in batch])
            for i, answer in zip(batch, answers, strict=True):
                records[i] |= answer | {"asked": 1, "served_model": version}
        return records

    def _generate(self, model, tokenizer, prompts: list[str]) -> list[dict]:
        from chatvec_lab.evaluation.asking.decoding import decode
        from chatvec_lab.evaluation.asking.generation import end_ids

        ids, most = tokenizer(prompts, add_special_tokens=False)["input_ids"], self._max_tokens
        ends = end_ids(model, tokenizer, "chat")
        replies = decode(model, ids, Decoding(most), limits=[most] * len(ids), end_ids=ends)
        return [
            {"text": tokenizer.decode(reply.ids, skip_special_tokens=True), "finish_reason": reply.finish_reason,
             "prompt_tokens": len(prompt), "completion_tokens": len(reply.ids)}
            for prompt, reply in zip(ids, replies, strict=True)
        ]  # fmt: skip

    @functools.cached_property
    def _loaded(self) -> tuple:
        import torch

        from chatvec_lab.opening import open_model, open_tokenizer

        model = open_model(self.model, dtype="auto").eval()
        return model.to("cuda" if torch.cuda.is_available() else "cpu"), open_tokenizer(self.model)
