"""Messages as the text that a model reads: its chat template, with nothing lost on the way and one date for a run."""

import hashlib
import json
import re
from collections.abc import Container, Mapping, Sequence
from datetime import date as calendar_date

from chatvec_lab import sandbox
from chatvec_lab.evaluation.asking.thinking import format_of

_NOW = re.compile(r"strftime_now\s*\(\s*(?:'([^'\\]*)'|\"([^\"\\]*)\")\s*\)")
_PROBE = "chatvec"
MOST_KEPT = 4096  # renderings
_RENDERED: dict[bytes, str] = {}
_FORMS = (  # whose content a template may expect as a list of parts
    (), ("user", "assistant"), ("system", "user", "assistant"), ("user",), ("system", "user")
)  # fmt: skip


class ChatTemplate:
    """A tokenizer's chat template, ready to render.

    `date` (ISO, "2026-11-28") is what a template that writes today's date writes, at midnight; None takes today.
    The attribute `date` is None for a template that writes none. `arguments` go to the template
    (`{"enable_thinking": False}`); one that it does not read is a ValueError.
    `thinking_format` is the format of the replies (see `thinking.format_of`).

    Content is given as text; a template that expects a list of parts gets a text part. Raises ValueError where
    neither brings a message's text into the rendering.
    """

    def __init__(self, tokenizer, *, date: str | None = None, arguments: Mapping | None = None):
        self._tokenizer, self._arguments = tokenizer, dict(arguments or {})
        template = tokenizer.chat_template
        if isinstance(template, dict) and "default" not in template:
            raise ValueError(f"the tokenizer has the chat templates {', '.join(template)} and none called default: set "
                             "tokenizer.chat_template to the one that is meant")  # fmt: skip
        self._text = template["default"] if isinstance(template, dict) else template
        unread = [name for name in self._arguments if not re.search(rf"\b{re.escape(name)}\b", self._text)]
        if unread:
            raise ValueError(
                f"the chat template does not read {', '.join(unread)}: leave it out of the arguments"
            )
        self.date = None
        if "strftime_now" in self._text:
            self.date = date or calendar_date.today().isoformat()
            self._text = _dated(self._text, calendar_date.fromisoformat(self.date))
        self._reads = (self._text, self._arguments, tokenizer.special_tokens_map)
        probe = [{"role": "user", "content": _PROBE}]
        fits = (i for i, form in enumerate(_FORMS) if not self._tried(probe, form, True)[1])
        self._forms = _FORMS[next(fits, 0) :]
        prompt = self.render(probe)
        self.thinking_format = format_of(self._text, prompt.rpartition(_PROBE)[2])

    def render(self, messages: Sequence[Mapping[str, str]], *, is_asked: bool = True) -> str:
        """The text of a conversation; `is_asked` adds what begins the reply to come."""
        troubles = []
        for form in self._forms:
            text, trouble = self._tried(messages, form, is_asked)
            if not trouble:
                return text
            troubles.append(trouble)
        raise ValueError(troubles[0])

    def after_reply(self) -> str:
        """What the template puts behind a reply: the mark that ends it comes first."""
        said = [{"role": role, "content": _PROBE} for role in ("user", "assistant")]
        return self.render(said, is_asked=False).rpartition(_PROBE)[2]

    def _rendered(self, given: list[dict], is_asked: bool) -> str:
        """The sandbox's rendering, whose limits take longer than it: once for all models that share a template."""
        key = hashlib.blake2b(repr((self._reads, given, is_asked)).encode("utf-8", "surrogatepass")).digest()
        if key not in _RENDERED:
            changed = {} if self._text == self._tokenizer.chat_template else {"chat_template": self._text}
            text = sandbox.render(
                self._tokenizer, given, add_generation_prompt=is_asked, **changed, **self._arguments
            )
            if len(_RENDERED) >= MOST_KEPT:
                _RENDERED.clear()
            _RENDERED[key] = text
        return _RENDERED[key]

    def _tried(
        self, messages: Sequence[Mapping[str, str]], as_parts: Container[str], is_asked: bool
    ) -> tuple[str, str]:
        """(rendering, why it will not do)."""
        from jinja2 import TemplateError

        given = [
            {**m, "content": [{"type": "text", "text": m["content"]}]} if m["role"] in as_parts else {**m}
            for m in messages
        ]
        try:
            text = self._rendered(given, is_asked)
        except (TemplateError, TypeError) as error:
            roles = ", ".join(message["role"] for message in messages)
            return "", f"The chat template refuses a conversation (roles {roles}): {error}"
        if any(isinstance(m["content"], list) and str(m["content"]) in text for m in given):
            return text, "The chat template writes a list of parts as Python does, so it takes text alone."
        # an answer may lose what its template takes for a thought; one that is only shown must be there
        shown = [m for m in messages if m["role"] != "assistant" or not is_asked]
        lost = next((m for m in shown if not _holds(text, m["content"])), None)
        if lost is None:
            return text, ""
        return text, (
            f"The chat template drops what the {lost['role']} says ({lost['content'][:60]!r}), so the model would not"
            " be asked it. Take another template, or leave this message out."
        )


def _dated(template: str, day: calendar_date) -> str:
    """The template with every `strftime_now("…")` as the text of that day."""
    text = _NOW.sub(
        lambda call: json.dumps(day.strftime(call[1] or call[2] or ""), ensure_ascii=False), template
    )
    if "strftime_now" in re.sub(
        r"strftime_now\s+is\s+(?:not\s+)?defined", "", text
    ):  # under another name, say
        raise ValueError(
            "the chat template writes the time in a form that it computes, which cannot be held fixed for a run:"
            " give tokenizer.chat_template a text with the date in it"
        )
    return text


def _holds(text: str, content: str) -> bool:
    """Whether a rendering has this content; spaces may differ, and it may be written as JSON."""
    bare = "".join(text.split())
    spellings = (content, json.dumps(content, ensure_ascii=False)[1:-1])
    return any("".join(spelling.split()) in bare for spelling in spellings)
