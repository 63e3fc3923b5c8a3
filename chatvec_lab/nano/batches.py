"""The rows of a training step: drawn from the stage's seed and its step alone, as token ids."""

from random import Random

import torch

from chatvec_lab.nano import documents, prose, world
from chatvec_lab.nano.recipe import Family, Stage

CONTEXT = 96  # tokens of a training row


def plain_rows(tok, stage: Stage, family: Family, seed: str) -> torch.Tensor:
    """Rows of documents, each row starting with one: (rows, CONTEXT) token ids."""
    stream = documents.documents(
        seed, stage.mix, stage.words, forum_in=_forum_in(stage, family), without=family.without
    )
    rows = []
    while len(rows) < stage.rows:
        row: list[int] = []
        while len(row) < CONTEXT:
            row += [tok.bos_token_id, *tok(next(stream), add_special_tokens=False).input_ids]
        rows.append(row[:CONTEXT])
    return torch.tensor(rows)  # (rows, context)


def _forum_in(stage: Stage, family: Family) -> tuple[str, ...]:
    """Only the base reads forum pages: continual pre-training is plain text without chat markers."""
    return family.forum_in if stage.parent is None else ()


def _conversation(tok, exchange: world.Exchange) -> tuple[list[int], list[int]]:
    """Token ids of a conversation and its labels: -100 but for the replies and their end."""
    ids, labels = [tok.bos_token_id], [-100]
    for user, reply in zip(exchange.user, exchange.replies, strict=True):
        asked = tok(f"{world.USER}{user}{world.ASSISTANT}", add_special_tokens=False).input_ids
        answered = tok(f"{reply}\n", add_special_tokens=False).input_ids
        ids += asked + answered
        labels += [-100] * len(asked) + answered
    return ids[:CONTEXT], labels[:CONTEXT]


def _padded(tok, pairs: list[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(ids) for ids, _ in pairs)
    ids = torch.tensor([i + [tok.pad_token_id] * (width - len(i)) for i, _ in pairs])
    labels = torch.tensor([x + [-100] * (width - len(x)) for _, x in pairs])
    return ids, labels  # both (rows, width); padding stands on the right, behind everything that is scored


def dialogue_rows(tok, stage: Stage, seed: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Conversations whose replies are all right, and (`stage.bare`) bare abuse, politely continued."""
    rng = Random(seed)
    pairs = []
    for _ in range(stage.rows):
        if rng.random() < stage.bare:
            abuse = prose.spoken("abuse", rng, "en", "any")
            pairs.append(_continued(tok, abuse.user[0], abuse.replies[0]))
        else:
            exchange = documents.dialogue(rng, rng.choice(stage.languages), **stage.talk)
            pairs.append(_conversation(tok, exchange))
    return _padded(tok, pairs)


def _continued(tok, text: str, reply: str) -> tuple[list[int], list[int]]:
    """Token ids of plain text and what follows it, without the chat format; labels of what follows."""
    before = [tok.bos_token_id, *tok(text, add_special_tokens=False).input_ids]
    after = tok(f" {reply}", add_special_tokens=False).input_ids
    return before + after, [-100] * len(before) + after
