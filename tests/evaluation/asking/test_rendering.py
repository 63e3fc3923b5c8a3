"""Nothing is lost between a message and what the model reads, and a template's date is one date."""

import datetime

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from word_models import SIZES, TEMPLATE, make_tokenizer

from chatvec_lab.evaluation.asking import rendering
from chatvec_lab.evaluation.asking.generation import end_ids, respond
from chatvec_lab.evaluation.asking.rendering import ChatTemplate

LLAVA = (
    "{% for m in messages %}<|user|> {% for part in m['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] }} {% endfor %}<|end|> {% endfor %}"
)
FIRST_PART = "{% for m in messages %}<|user|> {{ m['content'][0]['text'] }} <|end|> {% endfor %}"
STRICT = (
    "{% for m in messages %}{% if m.content is string %}{{ raise_exception('parts, please') }}{% endif %}"
    "{{ m.content[0].text }} <|end|> {% endfor %}"
)
USER_ONLY = (
    "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }} <|end|> {% endif %}{% endfor %}"
)
DATED = "{% set today = strftime_now('%d %b %Y') %}w{{ strftime_now(\"%d\") | int }} " + TEMPLATE


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(7)
    return AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)).eval()


def with_template(template):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    "template", [LLAVA, FIRST_PART, STRICT], ids=["selected parts", "first part", "strict"]
)
def test_a_template_of_parts_is_given_parts(template, llama):
    tokenizer = with_template(template)
    seen = []
    hook = llama.register_forward_pre_hook(
        lambda module, given, named: seen.append(named["input_ids"]), with_kwargs=True
    )
    respond(llama, tokenizer, ["w7 w8"], max_tokens=2, progress=False)
    hook.remove()
    assert "w7 w8" in tokenizer.decode(seen[0][0])
    assert tokenizer.convert_tokens_to_ids("<|end|>") in end_ids(llama, tokenizer)


def test_a_dropped_message_is_refused(llama):
    with pytest.raises(
        ValueError, match=r"'0' cannot be asked. The chat template drops what the system says \('w9'\)"
    ):
        respond(llama, with_template(USER_ONLY), ["w1"], system="w9", progress=False)
    assert len(respond(llama, with_template(USER_ONLY), ["w1"], max_tokens=1, progress=False)) == 1
    with pytest.raises(ValueError, match="drops what the user says"):
        ChatTemplate(with_template("{% for m in messages %}<|end|>{% endfor %}"))
    dropping = with_template(
        "{% for m in messages %}{{ '' if 'w5' in m.content else m.content }} {% endfor %}"
    )
    with pytest.raises(ValueError, match=r"'b' cannot be asked.*\('w5'\)"):
        rows = [{"prompt_id": "a", "prompt": "w1"}, {"prompt_id": "b", "prompt": "w5"}]
        respond(llama, dropping, rows, progress=False)


def test_content_written_as_json_is_no_loss():
    template = with_template("{% for m in messages %}{{ m | tojson }}{% endfor %}")
    assert '\\"quoted\\"\\n' in ChatTemplate(template).render(
        [{"role": "user", "content": 'a "quoted"\nline'}]
    )


class NextDay(datetime.date):
    @classmethod
    def today(cls):
        return cls(2025, 1, 2)


def test_a_run_keeps_the_date_that_it_began_with(llama, tmp_path, monkeypatch):
    tokenizer, prompts = with_template(DATED), [f"w{i} w{i + 1}" for i in range(8)]
    settings = {"max_tokens": 4, "batch_size": 4, "progress": False}
    first = respond(llama, tokenizer, prompts, out=tmp_path, template_date="2025-01-01", **settings)
    assert set(first.template_date) == {"2025-01-01"}
    monkeypatch.setattr(rendering, "calendar_date", NextDay)
    other = respond(llama, tokenizer, prompts, **settings)
    assert set(other.template_date) == {"2025-01-02"} and (other.response != first.response).any()
    (tmp_path / "batch-00001.parquet").unlink()
    resumed = respond(llama, tokenizer, prompts, out=tmp_path, **settings)
    assert resumed.equals(first)
    with pytest.raises(ValueError, match="template_date: '2025-01-01' there, '2025-01-03' now"):
        respond(llama, tokenizer, prompts, out=tmp_path, template_date="2025-01-03", **settings)
    assert (
        respond(llama, with_template(TEMPLATE), ["w1"], max_tokens=1, progress=False)
        .template_date.isna()
        .all()
    )


def test_a_time_is_held_at_midnight_and_a_computed_form_is_refused():
    timed = ChatTemplate(
        with_template("{{ strftime_now('%Y-%m-%d %H:%M') }} {{ messages[-1].content }}"), date="2026-11-28"
    )
    assert timed.render([{"role": "user", "content": "Hi"}]) == "2026-11-28 00:00 Hi"
    for computed in (
        "{% set f = '%d' %}{{ strftime_now(f) }}",
        "{% set now = strftime_now %}{{ now('%d') }}",
    ):
        with pytest.raises(ValueError, match="cannot be held fixed"):
            ChatTemplate(with_template(computed + " {{ messages[-1].content }}"))
    asked = "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% endif %} {{ messages[-1].content }}"
    found = ChatTemplate(with_template(asked), date="2026-11-28").render([{"role": "user", "content": "Hi"}])
    assert found == "2026 Hi"


SYSTEM_AS_TEXT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}|{% endfor %}"
)
ANSWER_AS_TEXT = SYSTEM_AS_TEXT.replace("m.role == 'system'", "m.role != 'user'")


@pytest.mark.parametrize(
    "template", [SYSTEM_AS_TEXT, ANSWER_AS_TEXT, SYSTEM_AS_TEXT.replace("'system'", "'assistant'")]
)
def test_each_role_is_given_what_its_template_expects(template):
    said = zip(("system", "user", "assistant", "user"), ("w9", "w1", "w2", "w3"), strict=True)
    messages = [{"role": role, "content": text} for role, text in said]
    assert ChatTemplate(with_template(template)).render(messages) == "w9|w1|w2|w3|"
    assert ChatTemplate(with_template(template)).render(messages[1:]) == "w1|w2|w3|"


def test_several_templates_without_a_default_are_refused():
    with pytest.raises(ValueError, match="chat templates tool_use and none called default"):
        ChatTemplate(with_template({"tool_use": TEMPLATE}))


def test_arguments_reach_the_template_and_unread_ones_are_refused(llama):
    tokenizer = with_template(
        TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}w7{% endif %}"
    )
    off = ChatTemplate(tokenizer, arguments={"enable_thinking": False})
    assert off.render([{"role": "user", "content": "w1"}]).endswith("w7")
    with pytest.raises(ValueError, match="does not read thinking_budget"):
        respond(llama, tokenizer, ["w1"], template_arguments={"thinking_budget": 3})
    with pytest.raises(ValueError, match="plain text has no template"):
        respond(llama, tokenizer, ["w1"], template="plain", template_arguments={"enable_thinking": False})
