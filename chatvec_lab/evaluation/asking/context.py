"""The tokens that a model sees before it replies."""

from collections.abc import Mapping, Sequence

from chatvec_lab.evaluation.asking.rendering import ChatTemplate
from chatvec_lab.evaluation.asking.responses import chat_messages, plain_text
from chatvec_lab.evaluation.asking.thinking import split


def context_ids(
    tokenizer,
    turns: Sequence[str],
    said: Sequence[str],
    template: str,
    *,
    arguments: Mapping | None = None,
) -> list[int]:
    """The tokens that a model sees before its next reply, as `respond` puts them: `said` are its earlier replies.

    template: "chat" or "plain"; arguments: of the chat template.
    """
    turns = tuple(turns[: len(said) + 1])
    if template == "plain":
        return tokenizer(plain_text(turns, list(said)))["input_ids"]
    chat = ChatTemplate(tokenizer, arguments=arguments)
    answers = [split(text, chat.thinking_format).answer or "" for text in said]
    return tokenizer(chat.render(chat_messages(turns, answers, None)), add_special_tokens=False)["input_ids"]
