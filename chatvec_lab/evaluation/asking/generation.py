"""Replies of a model in memory: prompts in, the responses table out.

Batches are cut from the list of prompts alone, so a run that was killed goes on with the same batches; each
finished batch is a file. Replies are kept raw: what is measured on them is computed from this table.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
from tqdm import tqdm

from chatvec_lab.evaluation.asking import responses as table
from chatvec_lab.evaluation.asking.rendering import ChatTemplate
from chatvec_lab.evaluation.asking.responses import Conversation, Decoding, Parts, digest, some
from chatvec_lab.evaluation.asking.thinking import marks_kept, split


def respond(
    model,
    tokenizer,
    prompts: pd.DataFrame | Sequence,
    *,
    template: Literal["chat", "plain"] = "chat",
    system: str | None = None,
    template_arguments: Mapping | None = None,
    template_date: str | None = None,
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    repetition_penalty: float = 1.0,
    stop: Sequence[str] = (),
    samples: int = 1,
    seed: int = 0,
    context: int | None = None,
    batch_size: int = 64,
    out: str | Path | None = None,
    progress: bool = True,
    token_ids: bool = False,
) -> pd.DataFrame:
    """The responses table: one row a reply, in the order of the prompts, then sample, then turn.

    Columns: prompt_id, set, language, turn (from 1), sample (from 0), prompt (what the user said in this
    turn), response, tokens (of the response, the one that ends it not counted), finish_reason ("stop",
    "length", or "context" when earlier turns left no room: the response is then empty), seed (missing
    when greedy), thinking_format (what `thinking.split` takes the response apart by), template_date (what the
    chat template was given as today, if it writes a date). The response is raw: thoughts stay in it.

    prompts: see `conversations`. In later turns the model sees its own earlier answers, without their thoughts.
    template: "chat" renders the tokenizer's chat template, with `system` as its system prompt; "plain" lets
      the model continue the bare text (CP models, RealToxicityPrompts); later turns then follow on new lines.
      A template that drops a message is a ValueError.
    template_arguments: for the chat template, such as {"enable_thinking": False}.
    template_date: the day ("2026-11-28") of a template that writes one; None is that of the run in `out`, else today.
    temperature: 0 is greedy; above it, each reply is drawn from `seed`, its prompt_id, sample and turn.
    stop: strings that end a reply and are cut off, beside the end tokens of model, tokenizer and template.
    context: the most tokens of prompt and reply together; None is the model's max_position_embeddings.
    batch_size: in float32 replies do not depend on it; in 16 bits near-ties flip. What all prompts of a batch begin
      with (a system prompt, examples) is read once.
    out: a folder that receives every finished batch as a parquet file. A second call with the same arguments
      and weights goes on where the first stopped; with different ones it raises ValueError.
    token_ids: add the column token_ids, the tokens of each response as they were generated, in a list. The text
      alone does not tell them: a tokenizer may cut it differently.
    """
    decoding = Decoding(max_tokens, temperature, top_p, top_k, repetition_penalty, tuple(stop))
    decoding.check_samples(samples)
    table.check_template(template, system)
    talks, chat = table.conversations(prompts), None
    if template == "chat":
        date = template_date or table.kept_date(out)
        chat = ChatTemplate(_with_template(tokenizer), date=date, arguments=template_arguments)
    elif template_arguments:
        raise ValueError("template_arguments are for template='chat'; plain text has no template.")
    speaker = _Speaker(model, tokenizer, decoding, chat, system, seed, context, token_ids)
    batches = _batches(talks, speaker.read(talks), samples, batch_size)
    asked = {"template": template, "system": system, "samples": samples, "seed": seed}
    settings = {**vars(decoding), **asked, "context": speaker.context, "batch_size": batch_size}
    more = {
        "template_arguments": template_arguments,
        "template_date": chat and chat.date,
        "token_ids": token_ids,
    }
    settings |= {name: value for name, value in more.items() if value}
    parts = Parts(out, settings, _identity(model, tokenizer, talks) if out is not None else {})
    rows = []
    bar = tqdm(total=len(talks) * samples, unit="reply", disable=not progress, delay=2)
    with table.evaluating(model), bar:
        for number, batch in enumerate(batches):
            replies = parts.read(f"batch-{number:05d}")
            if replies is None:
                replies = speaker.converse(batch)
                parts.write(f"batch-{number:05d}", replies)
            rows += replies
            bar.update(len(batch))
    return table.responses_table(rows, talks)


def _batches(talks, lengths, samples: int, batch_size: int) -> list[list[tuple[Conversation, int]]]:
    """Conversations with their sample numbers, longest first: a function of the prompts and nothing else."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: at least 1.")
    by_length = sorted(range(len(talks)), key=lambda i: (len(talks[i].turns), lengths[i]), reverse=True)
    rows = [(talks[i], sample) for i in by_length for sample in range(samples)]
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


class _Speaker:
    """A model, its tokenizer and its settings: turns a batch of conversations into rows of replies."""

    def __init__(
        self, model, tokenizer, decoding, chat: ChatTemplate | None, system, seed, context, token_ids
    ):
        self.keeps_ids = token_ids
        self.model, self.tokenizer, self.decoding = model, tokenizer, decoding
        self.chat, self.system, self.seed = chat, system, seed
        most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.context = context or (most if most and most > 0 else None)  # XLNet says -1 for no limit
        self.end_ids = end_ids(model, tokenizer, "plain" if chat is None else "chat")
        self.hidden_ids = _hidden_ids(tokenizer)
        self.about = {"seed": None if decoding.is_greedy else seed}  # of each row of the responses table
        if chat is not None:
            self.about |= {"thinking_format": chat.thinking_format, "template_date": chat.date}

    def encode(self, talks: list[Conversation], replies: list[list[str]]) -> list[list[int]]:
        """Token ids that the model sees before its next reply, given its earlier replies."""
        if not talks:
            return []
        turns = zip(talks, replies, strict=True)
        if self.chat is not None:
            texts = [self._rendered(talk, said) for talk, said in turns]
            return self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return self.tokenizer([table.plain_text(talk.turns, said) for talk, said in turns])["input_ids"]

    def _rendered(self, talk: Conversation, said: list[str]) -> str:
        answers = [split(text, self.chat.thinking_format).answer or "" for text in said]
        try:
            return self.chat.render(table.chat_messages(talk.turns, answers, self.system))
        except ValueError as error:
            raise ValueError(f"{talk.prompt_id!r} cannot be asked. {error}") from error

    def read(self, talks: list[Conversation]) -> list[int]:
        """Read each first prompt and tell its tokens; ValueError lists all that are empty or leave no room for a reply."""
        self._first = dict(zip(talks, self.encode(talks, [[] for _ in talks]), strict=True))
        lengths = [len(self._first[talk]) for talk in talks]
        named = list(zip(talks, lengths, strict=True))
        empty = [talk.prompt_id for talk, length in named if not length]
        if empty:
            raise ValueError(
                f"{len(empty)} prompts have no tokens, so there is nothing to continue: {some(empty)}."
            )
        long = [f"{t.prompt_id} ({length})" for t, length in named if self.context and length >= self.context]
        if long:
            raise ValueError(
                f"{len(long)} of {len(talks)} prompts fill the context ({self.context} tokens): {some(long)}."
                " Shorten them, or raise context= if the model allows it."
            )
        return lengths

    def converse(self, batch: list[tuple[Conversation, int]]) -> list[dict]:
        """All turns of one batch, one dict a reply."""
        rows, said = [], [[] for _ in batch]
        for turn in range(1, max(len(talk.turns) for talk, _ in batch) + 1):
            speaking = [place for place, (talk, _) in enumerate(batch) if len(talk.turns) >= turn]
            asked, before = [batch[place] for place in speaking], [said[place] for place in speaking]
            replies = self._replies(asked, before, turn)
            for place, (text, ids, reason) in zip(speaking, replies, strict=True):
                said[place].append(text)
                row = table.reply_row(*batch[place], turn, text, len(ids), reason, **self.about)
                rows.append(row | ({"token_ids": ids} if self.keeps_ids else {}))
        return rows

    def _replies(self, batch, said, turn: int) -> list[tuple[str, list[int], str]]:
        from chatvec_lab.evaluation.asking.decoding import decode, draws

        talks = [talk for talk, _ in batch]
        prompts = self.encode(talks, said) if turn > 1 else [self._first[talk] for talk in talks]
        room = [self.context - len(ids) if self.context else self.decoding.max_tokens for ids in prompts]
        fits = [place for place, free in enumerate(room) if free > 0]
        found = [("", [], "context")] * len(batch)
        if not fits:
            return found
        uniforms = None
        if not self.decoding.is_greedy:
            keys = [(batch[place][0].prompt_id, batch[place][1], turn) for place in fits]
            uniforms = draws(self.seed, keys, self.decoding.max_tokens)
        replies = decode(
            self.model,
            [prompts[place] for place in fits],
            self.decoding,
            limits=[min(room[place], self.decoding.max_tokens) for place in fits],
            end_ids=self.end_ids,
            uniforms=uniforms,
            text_of=self._text,
        )
        for place, reply in zip(fits, replies, strict=True):
            text = self._text(reply.ids)
            cut = min((text.find(stop) for stop in self.decoding.stop if stop in text), default=len(text))
            found[place] = (text[:cut], reply.ids, reply.finish_reason)
        return found

    def _text(self, ids: list[int]) -> str:
        """The reply's text, without special tokens other than the marks of a thought."""
        return self.tokenizer.decode([i for i in ids if i not in self.hidden_ids])


def _hidden_ids(tokenizer) -> frozenset[int]:
    """The special tokens that no reply shows: all but the marks of a thought."""
    special = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    marks = marks_kept(special.values())
    return frozenset(i for i, token in special.items() if token not in marks)


def _with_template(tokenizer):
    if not tokenizer.chat_template:
        raise ValueError(
            "template='chat', but the tokenizer has no chat template. Take the chat model's tokenizer, "
            "set tokenizer.chat_template, or ask for template='plain'."
        )
    return tokenizer


def end_ids(model, tokenizer, template: Literal["chat", "plain"] = "chat") -> frozenset[int]:
    """Tokens that end a reply: the model's, the tokenizer's and, in chat, the one its template puts there.

    The last matters when a chat template meets a CP model's configuration, which knows only ends of texts.
    """
    settings = getattr(model, "generation_config", None)  # what never generates has none; `decode` refuses it
    found = getattr(settings, "eos_token_id", None)
    found = set() if found is None else {found} if isinstance(found, int) else set(found)
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    if template == "chat":
        after = ChatTemplate(tokenizer).after_reply().strip()
        ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
        if ids and ids[0] in {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}:
            found.add(ids[0])
    return frozenset(found)


def _identity(model, tokenizer, talks) -> dict:
    return {
        "prompts": digest(talks),
        "tokenizer": digest([tokenizer.chat_template, sorted(tokenizer.get_vocab().items())]),
        "weights": digest(
            [[name, str(p.dtype), list(p.shape), _bit_sum(p)] for name, p in model.named_parameters()]
        ),
    }


def _bit_sum(parameter) -> int:
    """Sum of the bits read as integers: exact, the same on every device, another one when a scale turns."""
    import torch

    if parameter.is_meta:  # offloaded by accelerate: its values are elsewhere
        return 0
    integer = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[parameter.element_size()]
    return int(parameter.detach().view(integer).sum(dtype=torch.int64))
