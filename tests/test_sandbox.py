"""Templates made to harm end in one sentence, within seconds and within a gigabyte."""

import contextlib
import cProfile
import resource
import sys
import time

import pytest
from transformers import PreTrainedTokenizerFast

from chatvec_lab import sandbox
from chatvec_lab.evaluation.asking.rendering import ChatTemplate


class Tokenizer:
    """transformers' own rendering, with a template of the test's."""

    apply_chat_template = PreTrainedTokenizerFast.apply_chat_template
    get_chat_template = PreTrainedTokenizerFast.get_chat_template
    special_tokens_map: dict = {}  # noqa: RUF012

    def __init__(self, template):
        self.chat_template = template


SAID = [{"role": "user", "content": "chatvec"}]
GOOD = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
NESTED = "".join(f"{{% for x{i} in range(99999) %}}" for i in range(4))
HOSTILE = {
    "loops that write": NESTED + "a" + "{% endfor %}" * 4,
    "loops that are silent": NESTED + "{% set a = 1 %}" + "{% endfor %}" * 4,
    "loops of a filter": "{{ range(99999)|map('string')|map('length')|sum }}" * 3000,
    "a long text": "{{ 'a' * 9999999999 }}",
    "a long text that is computed": "{% set n = 99999 %}{{ 'a' * (n * n * n) }}",
    "doubling": "{% set ns = namespace(x='aaaa') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "padding": "{{ '%9999999999s' % 'a' }}",
    "centred": "{{ 'a'|center(9999999999) }}",
    "format": "{{ '{:>9999999999}'.format('a') }}",
    "a list": "{{ ([0] * 9999999999)|length }}",
    "powers": "{{ 9**9**9 }}",
    "powers in a test": "{% if 9**9**9 > 1 %}a{% endif %}",
    "itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "lipsum": "{{ lipsum(n=9999999) }}",
    "of a megabyte": "a" * 2_000_000,
    "nothing that is there": "{{ messages[7].content.x.y }}",
    "by zero": "{{ 1 / 0 }}",
}
ESCAPES = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('touch HERE').read() }}",
    "attr": "{{ (''|attr('__class__')).__mro__ }}",
    "format": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "import": "{{ self.__init__.__globals__ }}",
    "changing": "{{ messages.append(1) }}",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_template_that_loops_or_eats_memory_is_stopped(case, monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 1.0)
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    from jinja2 import TemplateError

    with pytest.raises((ValueError, TemplateError)) as caught:
        sandbox.render(Tokenizer(HOSTILE[case]), SAID)
    assert time.monotonic() - started < 15 and len(str(caught.value)) < 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 << 20  # KiB
    assert sys.gettrace() is None and resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    assert sandbox.render(Tokenizer(GOOD), SAID) == "user: chatvec\n"


@pytest.mark.parametrize("case", ESCAPES)
def test_a_template_cannot_leave_the_sandbox(case, tmp_path, monkeypatch):
    from jinja2 import TemplateError

    monkeypatch.chdir(tmp_path)
    try:
        said = sandbox.render(Tokenizer(ESCAPES[case]), SAID)
    except (TemplateError, ValueError):
        said = ""
    assert "class" not in said and not list(tmp_path.iterdir())


def test_the_rendering_of_prompts_goes_through_it(monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 0.5)
    with pytest.raises(ValueError, match="stopped after"):
        ChatTemplate(Tokenizer(GOOD + HOSTILE["loops that are silent"]))
    assert ChatTemplate(Tokenizer(GOOD)).render(SAID) == "user: chatvec\n"


def test_a_stop_that_is_swallowed_comes_again(monkeypatch):
    """Python drops an exception that is raised while it frees an object; the template would run on for ever."""
    monkeypatch.setattr(sandbox, "SECONDS", 0.2)

    class Swallowing(Tokenizer):
        def apply_chat_template(self, *_, **__):
            for _ in range(3):
                with contextlib.suppress(BaseException):
                    while True:
                        pass
            while True:
                pass

    with pytest.raises(ValueError, match="stopped after"):
        sandbox.render(Swallowing(GOOD), SAID)
    time.sleep(0.3)  # nothing comes late
    assert sandbox.render(Tokenizer(GOOD), SAID) == "user: chatvec\n"


@pytest.mark.parametrize("template", ["loops that are silent", None])
def test_a_profiler_goes_on_after_a_rendering(template, monkeypatch):
    """`%prun` of a cell that renders: with an exception called back, the first call afterwards never ended."""
    monkeypatch.setattr(sandbox, "SECONDS", 0.3)
    with cProfile.Profile(), contextlib.suppress(ValueError):
        sandbox.render(Tokenizer(HOSTILE[template] if template else GOOD), SAID)
    profile = cProfile.Profile()
    assert profile.runcall(sandbox.render, Tokenizer(GOOD), SAID) == "user: chatvec\n"
