"""The panel's own script in a browser, without a kernel: a model in its place takes what a person enters."""

import pytest

from chatvec_lab.playground import constraints
from chatvec_lab.playground.panel import Panel

pytestmark = pytest.mark.browser
START = """async ([source, values]) => {
  const script = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  const heard = {}, sent = [];
  window.model = {
    values, sent,
    get: (name) => values[name],
    set: (name, value) => { values[name] = value; (heard[name] || []).forEach((tell) => tell()); },
    on: (names, tell) => names.split(" ").forEach((name) => (heard[name.replace("change:", "")] ||= []).push(tell)),
    save_changes: () => {}, send: (message) => sent.push(message),
  };
  script.default.render({ model: window.model, el: document.body });
}"""


@pytest.fixture
def page(chromium):
    page = chromium.new_page()
    problems = []
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    values = {
        name: trait.default() for name, trait in Panel.class_traits(sync=True).items() if name[0] != "_"
    }
    values = {
        name: value for name, value in values.items() if isinstance(value, str | int | float | list | dict)
    }
    values["options"] = {"checks": constraints.offered(), "modules": ["mlp"], "models": ["CP"],
                         "places": [{"key": "0 mlp", "layer": 0, "module": "mlp", "name": "mlp of layer 0"}]}  # fmt: skip
    page.evaluate(START, [Panel._esm._path.read_text("utf-8"), values])
    yield page
    page.close()
    assert not problems, problems


def test_a_check_is_added_by_keyboard_and_changed(page):
    page.get_by_text("checks of your own").focus()
    page.keyboard.press("Enter")
    add, box = (page.get_by_label(name) for name in ("add a check", "checks, a line each"))
    add.focus()
    add.select_option(label="ends with “That is all.”")
    line = 'startend:end_checker: {"end_phrase": "That is all."}'
    assert box.input_value() == line == page.evaluate("model.values.checks")
    assert box.evaluate("(box) => box === document.activeElement"), "where it can be changed at once"
    add.select_option(label="has no comma")
    assert page.evaluate("model.values.checks").split("\n") == [line, "punctuation:no_comma"]
    assert page.locator("summary", has_text="checks of your own").inner_text().endswith("(2)")
    box.fill("punctuation:no_comma")
    page.keyboard.press("Control+Enter")
    assert page.evaluate("model.values.checks") == "punctuation:no_comma"
    assert page.evaluate("model.sent.at(-1).do") == "ask"
    told = box.get_attribute("aria-describedby")
    assert "prompt file" in page.locator(f"[id='{told}']").inner_text()


def test_checks_that_the_kernel_sets_are_shown(page):
    page.evaluate("model.set('checks', '# a remark\\npunctuation:no_comma')")
    assert page.locator("summary", has_text="checks of your own").inner_text().endswith("(1)")
    assert page.get_by_label("checks, a line each").input_value().endswith("punctuation:no_comma")
