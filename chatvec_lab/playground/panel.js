// The playground's controls, drawn as the browser's own, and what walks through the tokens of a reply.
// Replies come as HTML from the kernel, where every text is escaped; all else is set as text.

let panels = 0;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

function render({ model, el }) {
  const id = (name) => `chatvec-${panels}-${name}`;
  panels += 1;
  const tell = (action, ...with_) => model.send({ do: action, with: with_ });
  const put = (values) => {
    for (const [key, value] of Object.entries(values)) model.set(key, value);
    model.save_changes();
  };
  const follow = (name, show) => {
    model.on(`change:${name}`, show);
    show();
  };

  // ---------------------------------------------------------- controls with their labels
  const labelled = (name, text, control, ...more) => {
    control.id = id(name);
    return make("div", { class: "chatvec-field" }, make("label", { for: control.id }, text), control, ...more);
  };
  const chooser = (trait, text, list, hint) => {
    const select = make("select", { title: hint, onchange: () => put({ [trait]: select.value }) });
    const fill = () => {
      select.replaceChildren(...list().map(([value, name]) => {
        const option = make("option", { value });
        option.textContent = name;
        return option;
      }));
      select.value = String(model.get(trait));
    };
    model.on("change:options change:pinned", fill);
    follow(trait, fill);
    return labelled(trait, text, select);
  };
  const same = (name) => () => (model.get("options")[name] || []).map((value) => [value, value]);

  const family = chooser("family", "family", same("families"), "the family of models");
  const path = make("input", {
    type: "text", list: id("known"), placeholder: "another: name, folder or YAML file", "aria-label": "another family",
    onchange: () => { if (path.value.trim()) put({ family: path.value.trim() }); path.value = ""; },
  });
  const known = make("datalist", { id: id("known") });
  follow("options", () => known.replaceChildren(...(model.get("options").known || []).map((value) => make("option", { value }))));
  family.append(path, known);
  family.classList.add("chatvec-family");

  // a range with a number beside it, both for one value; `moved(value, isMoving)`
  const slider = (name, text, limits, moved) => {
    const send = (input, isMoving) => { if (input.value !== "" && input.checkValidity()) moved(Number(input.value), isMoving); };
    const range = make("input", { type: "range", ...limits, oninput: () => send(range, true), onchange: () => send(range, false) });
    const number = make("input", {
      type: "number", ...limits, min: null, max: null, step: "any", "aria-label": `${text}, as a number`,
      onchange: () => send(number, false),
    });
    const field = labelled(name, text, range, number);
    field.classList.add("chatvec-wide");
    return { field, range, number, show(value, said) {
      range.value = value;
      if (document.activeElement !== number || number.value === "") number.value = Math.round(value * 1000) / 1000;
      range.setAttribute("aria-valuetext", said);
    } };
  };
  const scale = slider("scale", "scale", { min: -1, max: 2, step: 0.05 }, (value, isMoving) => put({ scale: value, is_moving: isMoving }));
  follow("scale", () => {
    const value = model.get("scale");
    scale.show(value, `CP ${value < 0 ? "minus" : "plus"} ${Math.abs(value).toFixed(2)} times the vector`);
  });

  // ---------------------------------------------------------- the grid of switches
  const grid = make("table", { class: "chatvec-switches", role: "grid", "aria-label": "where the vector is added: modules by layers" });
  const factorOf = (key) => { const value = model.get("parts")[key]; return value === undefined ? 1 : value; };
  let target = { keys: [], name: "all parts" };
  const turn = (keys, factor, isMoving = false) => {
    const parts = { ...model.get("parts") };
    for (const key of keys) if (factor === 1) delete parts[key]; else parts[key] = factor;
    put({ parts, is_moving: isMoving });
  };
  const factor = slider("factor", "factor of all parts", { min: -1, max: 2, step: 0.05 }, (value, isMoving) => turn(target.keys, value, isMoving));
  const aim = (keys, name) => { target = { keys, name }; showFactor(); };
  const showFactor = () => {
    const values = new Set(target.keys.map(factorOf));
    const value = values.size === 1 ? [...values][0] : 1;
    factor.field.querySelector("label").textContent = `factor of ${target.name}${values.size > 1 ? " (they differ)" : ""}`;
    factor.show(value, `${value} times, for ${target.name}`);
  };
  const flip = (keys) => turn(keys, keys.every((key) => factorOf(key) === 0) ? 1 : 0);
  const cellButton = (keys, name, label, className) => {
    const button = make("button", {
      type: "button", tabindex: -1, class: className, onfocus: () => { aim(keys, name); rove(button); }, onclick: () => flip(keys),
    });
    button.textContent = label;
    button.keys = keys;
    button.said = name;
    return button;
  };
  const rove = (button) => {
    for (const other of grid.querySelectorAll("button")) other.tabIndex = other === button ? 0 : -1;
  };
  const drawGrid = () => {
    const places = model.get("options").places || [];
    const layers = [...new Set(places.map((place) => place.layer))];
    const modules = model.get("options").modules || [];
    const all = places.map((place) => place.key);
    const head = make("tr", { role: "row" }, make("th", { role: "columnheader", scope: "col" }, cellButton(all, "all parts", "all", "chatvec-head")));
    for (const layer of layers) {
      const keys = places.filter((place) => place.layer === layer).map((place) => place.key);
      const name = layer === null ? "all outside the layers" : `all of layer ${layer}`;
      head.append(make("th", { role: "columnheader", scope: "col" }, cellButton(keys, name, layer === null ? "outside" : String(layer), "chatvec-head")));
    }
    const rows = modules.map((module) => {
      const own = places.filter((place) => place.module === module);
      const row = make("tr", { role: "row" }, make("th", { role: "rowheader", scope: "row" }, cellButton(own.map((place) => place.key), `${module}, everywhere`, module, "chatvec-head")));
      for (const layer of layers) {
        const place = own.find((one) => one.layer === layer);
        row.append(make("td", { role: "gridcell" }, ...(place ? [cellButton([place.key], place.name, "", "chatvec-switch")] : [])));
      }
      return row;
    });
    grid.replaceChildren(make("thead", { role: "rowgroup" }, head), make("tbody", { role: "rowgroup" }, ...rows));
    aim(all, "all parts");
    const first = grid.querySelector("button");
    if (first) rove(first);
    showGrid();
  };
  const showGrid = () => {
    for (const button of grid.querySelectorAll("button")) {
      const values = button.keys.map(factorOf);
      const isOn = values.some((value) => value !== 0);
      if (button.className === "chatvec-switch") {
        button.setAttribute("role", "switch");
        button.setAttribute("aria-checked", String(isOn));
        button.setAttribute("aria-label", `${button.said}: factor ${values[0]}`);
        button.textContent = values[0] === 0 ? "off" : values[0] === 1 ? "on" : String(values[0]);
        button.style.setProperty("--on", Math.min(Math.abs(values[0]), 2) / 2);
      } else {
        button.setAttribute("aria-label", `${button.said}: ${isOn ? "switch off" : "switch on"}`);
      }
      button.title = `${button.said}: factor ${[...new Set(values)].join(", ")}`;
    }
    showFactor();
  };
  grid.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (step) {
      const rows = [...grid.rows];
      let row = rows.indexOf(event.target.closest("tr"));
      let column = event.target.closest("td, th").cellIndex;
      do {
        row += step[0];
        column += step[1];
      } while (rows[row]?.cells[column] && !rows[row].cells[column].firstElementChild);
      rows[row]?.cells[column]?.firstElementChild?.focus();
    } else if (event.key === "+" || event.key === "-") {
      const now = factorOf(event.target.keys[0]);
      turn(event.target.keys, Math.round((now + (event.key === "+" ? 0.1 : -0.1)) * 100) / 100);
    } else return;
    event.preventDefault();
  });
  follow("options", drawGrid);
  model.on("change:parts", showGrid);
  const changed = make("span", { class: "chatvec-quiet" });
  follow("parts", () => {
    const count = Object.keys(model.get("parts")).length;
    changed.textContent = count ? ` (${count} changed)` : "";
  });
  const parts = make("details", { class: "chatvec-parts" },
    make("summary", {}, "where the vector is added", changed),
    make("div", { class: "chatvec-scroll" }, grid), factor.field,
    make("p", { class: "chatvec-quiet" }, "A click or Space switches a part, + and − change its factor; a heading stands for its row or column. "),
    button("all on again", () => put({ parts: {}, is_moving: false }), "set every factor to 1"));
  parts.open = Object.keys(model.get("parts")).length > 0;

  // ---------------------------------------------------------- what is asked
  const prompt = make("textarea", {
    rows: 3, spellcheck: "false", dir: "auto",
    "aria-describedby": id("prompt-help"),
    onchange: () => put({ prompt: prompt.value }),
    onkeydown: (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); put({ prompt: prompt.value }); tell("ask"); }
    },
  });
  follow("prompt", () => { if (prompt.value !== model.get("prompt")) prompt.value = model.get("prompt"); });
  const help = make("p", { class: "chatvec-quiet", id: id("prompt-help") },
    "A line of --- begins the next turn, a line of === the next prompt. Ctrl-Enter asks.");
  // ---------------------------------------------------------- checks of one's own
  const checks = make("textarea", {
    rows: 3, spellcheck: "false", dir: "auto", "aria-describedby": id("checks-help"),
    placeholder: 'length_constraints:number_words: {"relation": "at most", "num_words": 50}',
    onchange: () => put({ checks: checks.value, is_moving: false }),
    onkeydown: (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); put({ checks: checks.value }); tell("ask"); }
    },
  });
  const offered = make("select", { title: "put a check into the box, to be changed there", onchange: () => {
    const lines = [...checks.value.split("\n").filter((line) => line.trim()), offered.value];
    offered.selectedIndex = 0;
    checks.value = lines.join("\n");
    put({ checks: checks.value, is_moving: false });
    checks.focus();
  } });
  follow("options", () => offered.replaceChildren(...[["", "the reply …"], ...(model.get("options").checks || [])].map(([value, text]) => {
    const option = make("option", { value });
    option.textContent = text;
    return option;
  })));
  const checkCount = make("span", { class: "chatvec-quiet" });
  follow("checks", () => {
    if (checks.value !== model.get("checks")) checks.value = model.get("checks");
    const count = model.get("checks").split("\n").filter((line) => line.trim() && !line.trim().startsWith("#")).length;
    checkCount.textContent = count ? ` (${count})` : "";
  });
  const ownChecks = make("details", { class: "chatvec-parts" },
    make("summary", {}, "checks of your own", checkCount),
    labelled("offered", "add a check", offered), labelled("checks", "checks, a line each", checks),
    make("p", { class: "chatvec-quiet", id: id("checks-help") },
      "Names and kwargs as in a prompt file, put to the replies to every prompt; turn: 2 in the braces for the second turn. " +
      "Each card says which are kept and which are broken. Ctrl-Enter asks."));
  ownChecks.open = Boolean(model.get("checks"));

  const example = make("select", { onchange: () => put({ example: Number(example.value) }) });
  const fillExamples = () => {
    const found = ["(your own)", ...(model.get("options").examples || [])];
    example.replaceChildren(...found.map((text, place) => { const o = make("option", { value: place - 1 }); o.textContent = text; return o; }));
    example.value = String(model.get("example"));
  };
  follow("options", fillExamples);
  follow("example", fillExamples);

  function button(text, action, hint, className = "") {
    const found = make("button", { type: "button", class: `chatvec-button ${className}`, title: hint, onclick: action });
    found.textContent = text;
    return found;
  }
  const stop = button("Stop", () => tell("stop"), "end the question that is being asked");
  const pin = button("Pin", () => tell("pin"), "keep this sum beside those that follow; once more to let it go");
  const history = make("select", { "aria-label": "history: go back to", title: "go back to what was shown before",
    onchange: () => { if (history.value !== "") tell("back", Number(history.value)); history.value = ""; } });
  follow("past", () => {
    const first = make("option", { value: "" });
    first.textContent = `history (${model.get("past").length})`;
    history.replaceChildren(first, ...model.get("past").map((text, place) => { const o = make("option", { value: place }); o.textContent = text; return o; }).reverse());
    history.value = "";
  });
  const buttons = make("div", { class: "chatvec-buttons", role: "group", "aria-label": "actions" },
    button("Ask", () => { put({ prompt: prompt.value }); tell("ask"); }, "ask the models (Ctrl-Enter in the prompt)", "is-first"), stop, pin,
    button("Scales × prompts", () => tell("grid"), "ask every prompt at every scale, in a table below"),
    button("Save", () => tell("save"), "tables, figures and the cell, into the results' folder"),
    button("Norms", () => tell("draw"), "read the norms of what is added and draw them"), history);
  const status = make("div", { class: "chatvec-status", role: "status", "aria-live": "polite" });
  follow("status", () => { status.textContent = model.get("status"); });
  follow("is_asking", () => { stop.disabled = !model.get("is_asking"); });
  follow("pinned", () => { pin.textContent = model.get("pinned").length ? `Pin (${model.get("pinned").length})` : "Pin"; });

  const against = chooser("against", "compare with", () => [
    ...(model.get("options").models || []).map((name) => [name, name]),
    ...model.get("pinned").map((name) => [`pinned: ${name}`, `pinned: ${name}`])], "with whose reply the words are compared");

  // ---------------------------------------------------------- replies
  const bubble = make("div", { class: "chatvec-bubble", role: "status", "aria-live": "polite", hidden: true });
  const page = make("div", { class: "chatvec-page" });
  const showToken = (token) => {
    page.querySelectorAll(".is-current").forEach((other) => other.classList.remove("is-current"));
    if (!token) { bubble.hidden = true; return; }
    token.classList.add("is-current");
    bubble.textContent = token.dataset.told;
    bubble.hidden = false;
    const at = token.getBoundingClientRect(), root = panel.getBoundingClientRect();
    const left = Math.min(Math.max(at.left - root.left, 4), Math.max(root.width - bubble.offsetWidth - 4, 4));
    bubble.style.left = `${left}px`;
    bubble.style.top = `${at.bottom - root.top + 6}px`;
  };
  follow("page", () => {
    page.innerHTML = model.get("page");
    showToken(null);
    for (const token of page.querySelectorAll(".chatvec-token[title]")) {
      token.dataset.told = token.title;  // the bubble says it, for keys too
      token.removeAttribute("title");
    }
    for (const reply of page.querySelectorAll(".chatvec-reply")) {
      reply.tabIndex = 0;
      reply.setAttribute("role", "group");
      const name = reply.closest("[aria-label]")?.getAttribute("aria-label");
      reply.setAttribute("aria-label", `reply of ${name}; the arrow keys walk through its tokens`);
    }
  });
  page.addEventListener("mouseover", (event) => showToken(event.target.closest(".chatvec-token")));
  page.addEventListener("mouseleave", () => showToken(null));
  page.addEventListener("focusout", () => showToken(null));
  page.addEventListener("keydown", (event) => {
    const reply = event.target.closest(".chatvec-reply");
    const tokens = reply ? [...reply.querySelectorAll(".chatvec-token")] : [];
    if (!tokens.length) return;
    const now = tokens.findIndex((token) => token.classList.contains("is-current"));
    const next = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1, Home: 0, End: tokens.length - 1 }[event.key];
    if (event.key === "Escape") showToken(null);
    else if (next === undefined) return;
    else showToken(tokens[Math.min(Math.max(next, 0), tokens.length - 1)]);
    event.preventDefault();
  });
  follow("is_asking", () => page.setAttribute("aria-busy", String(model.get("is_asking"))));
  const sweep = make("div", { class: "chatvec-page" });
  follow("sweep_page", () => { sweep.innerHTML = model.get("sweep_page"); });
  const inset = make("div", { class: "chatvec-inset" });
  follow("profile", () => { inset.innerHTML = model.get("profile"); });

  const code = make("textarea", { readonly: true, rows: 8, spellcheck: "false", "aria-label": "a notebook cell that gives these replies" });
  follow("cell", () => { code.value = model.get("cell"); });
  const cell = make("details", { class: "chatvec-code" }, make("summary", {}, "this state as a notebook cell"), code,
    button("Copy", () => navigator.clipboard ? navigator.clipboard.writeText(code.value) : code.select(), "copy the cell"));

  const choose = make("div", { class: "chatvec-choose" },
    make("div", { class: "chatvec-pair" }, family, chooser("cp", "CP", same("cps"), "the continually pre-trained model")),
    make("div", { class: "chatvec-pair" }, chooser("vector", "vector", same("vectors"), "what is added"),
      chooser("template", "format", () => [["chat", "chat template"], ["plain", "plain text"]], "how the prompt is put")),
    scale.field, parts,
    make("div", { class: "chatvec-pair" }, chooser("language", "examples in", same("languages"), "language of the examples"), against),
    Object.assign(labelled("example", "example", example)), labelled("prompt", "prompt", prompt), help, ownChecks, buttons, status);
  const panel = make("section", { class: "chatvec-panel", "aria-label": "playground" },
    make("div", { class: "chatvec-above" }, choose, inset), page, sweep, cell, bubble);
  // else JupyterLab takes them: its arrow keys fold headings, its letters cut cells
  panel.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey || event.altKey) || event.key === "Enter") event.stopPropagation();
  });
  el.append(panel);
}

export default { render };
