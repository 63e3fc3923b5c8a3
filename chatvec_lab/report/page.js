// The page's script: values on hover, seeds on and off, folded figures, and the browser of replies.
// Whatever a model, a prompt or a notebook wrote goes into text nodes (textContent), never into markup.
"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (name, className = "", text = "") => {
    const element = document.createElement(name);
    if (className) element.className = className;
    element.textContent = text;
    return element;
  };
  const unpack = async (packed) => {
    const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  document.documentElement.classList.add("js");

  // ---------------------------------------------------------------- values on hover, by touch and by keyboard
  const tip = make("div", "tip");
  tip.setAttribute("role", "status");
  document.body.append(tip);
  for (const title of all("svg.chart title")) {
    title.parentNode.dataset.tip = title.textContent;
    title.remove();
  }
  let current = null;
  const point = (mark, byKeyboard = false) => {
    if (current) current.classList.remove("current");
    current = mark;
    tip.classList.toggle("shown", Boolean(mark));
    if (!mark) return;
    mark.classList.add("current");
    const leads = mark.closest("[data-where]") && `${byKeyboard ? "Enter" : "Click"} to read its replies.`;
    const mean = mark.classList.contains("seed") ? mark.parentNode.querySelector(".mean") : null;
    tip.replaceChildren(...(mean ? [make("div", "", mean.dataset.tip)] : []), mark.dataset.tip, ...(leads ? [make("small", "", leads)] : []));
    const at = mark.getBoundingClientRect(), room = document.documentElement.clientWidth;
    const left = Math.min(Math.max(at.left + at.width / 2 - tip.offsetWidth / 2, 6), room - tip.offsetWidth - 6);
    const above = at.top - tip.offsetHeight - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above < 4 ? at.bottom + 8 : above}px`;
  };
  const marksOf = (chart) => all("[data-tip]", chart).filter((mark) => !mark.classList.contains("off"));
  const nearest = (chart, event) => {
    let best = null, least = event.pointerType === "touch" ? 26 : 14;
    for (const mark of marksOf(chart)) {
      const at = mark.getBoundingClientRect();
      const far = Math.hypot(at.left + at.width / 2 - event.clientX, at.top + at.height / 2 - event.clientY);
      // a mean lies over its seeds and wins against one that is hardly nearer
      const weighed = far - (mark.classList.contains("mean") ? 3 : 0);
      if (far <= least + 3 && weighed < least) [best, least] = [mark, weighed];
    }
    return best;
  };
  const follow = (mark) => {
    const group = mark.closest("[data-where]");
    if (!group) return;
    const where = JSON.parse(group.dataset.where);
    if (mark.dataset.seed && mark.dataset.seed !== "None") where.seed = mark.dataset.seed;
    point(null);
    browse(where);
  };
  for (const chart of all("svg.chart")) {
    chart.tabIndex = 0;
    chart.addEventListener("pointermove", (event) => event.pointerType === "mouse" && point(nearest(chart, event)));
    chart.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && point(null));
    chart.addEventListener("click", (event) => {
      const mark = nearest(chart, event);
      if (mark && (event.pointerType !== "touch" || mark === current)) follow(mark);
      else point(mark);
    });
    chart.addEventListener("keydown", (event) => {
      const marks = marksOf(chart), place = marks.indexOf(current);
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (step) point(marks[(place + step + marks.length) % marks.length] ?? marks[0], true);
      else if (event.key === "Enter" && place >= 0) follow(current);
      else if (event.key === "Escape") point(null);
      else return;
      event.preventDefault();
    });
    chart.addEventListener("blur", () => point(null));
  }
  addEventListener("scroll", () => current && point(null), { passive: true });

  // ---------------------------------------------------------------- seeds on and off
  for (const box of all(".seeds input")) {
    box.addEventListener("change", () => {
      for (const mark of all(".seed", box.closest(".plot")))
        if (mark.dataset.seed === box.value) mark.classList.toggle("off", !box.checked);
    });
  }

  // ---------------------------------------------------------------- folded figures, and what a link leads into
  let figures = null;
  const unfolded = () => (figures ??= unpack(document.getElementById("figures-data").textContent.trim())
    .then((bytes) => JSON.parse(new TextDecoder().decode(bytes))));
  // an image cannot point at the page's letters, so it gets those that it uses
  const lettered = (drawn) => {
    const names = new Set(drawn.match(/#letter\d+/g));
    const letters = [...names].map((name) => document.querySelector(name).outerHTML).join("");
    return drawn.replace(/^<svg[^>]*>/, (start) => `${start}<defs>${letters}</defs>`);
  };
  for (const fold of all("details")) {
    fold.addEventListener("toggle", async () => {
      for (const image of fold.open ? all("img[data-figure]", fold) : []) {
        const place = image.dataset.figure;
        delete image.dataset.figure;
        image.src = "data:image/svg+xml," + encodeURIComponent(lettered((await unfolded())[place]));
      }
    });
  }
  const reveal = () => {
    const name = location.hash.slice(1);
    if (name.startsWith("replies?")) return void browse(Object.fromEntries(new URLSearchParams(name.slice(8))));
    const target = name && document.getElementById(decodeURIComponent(name));
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);

  // ---------------------------------------------------------------- the replies
  const WORDS = { notebook: "question", cell_language: "CP", reply_language: "reply in", finish_reason: "ended by" };
  const SAME = ["notebook", "prompt", "language", "cell_language", "seed", "set", "frame", "kind", "words", "length", "source"];
  const PAGE = 20;
  const place = document.getElementById("browser");
  const block = document.getElementById("replies-data");
  let data = null, loading = null, fields = {}, matched = [], partner = null;

  const load = () => (loading ??= (async () => {
    const bytes = await unpack(block.textContent.trim());
    const end = bytes.indexOf(10);
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
    const columns = {};
    let at = end + 1;
    for (const { name, width, values } of header.columns) {
      const codes = new Uint32Array(header.rows);
      for (let byte = 0; byte < width; byte++, at += header.rows)
        for (let row = 0; row < header.rows; row++) codes[row] |= bytes[at + row] << (8 * byte);
      columns[name] = { values: [null, ...values], codes };
    }
    data = { rows: header.rows, columns, measures: header.measures, languages: header.languages };
    build();
  })());
  const value = (row, name) => {
    const column = data.columns[name];
    return column ? column.values[column.codes[row]] ?? "" : "";
  };
  const named = (name, v) =>
    name === "notebook" ? titleOf(v) : name.endsWith("language") ? data.languages[v] ?? v : v;
  const titleOf = (notebook) => document.getElementById(notebook)?.querySelector("h2")?.textContent ?? notebook;

  const choice = (form, name, words, options) => {
    const label = make("label", "", words), select = make("select");
    select.name = name;
    select.append(new Option("all", ""), ...options.map(([text, of]) => new Option(text, of)));
    label.append(select);
    form.append(label);
    fields[name] = select;
  };
  const build = () => {
    const form = make("form"), search = make("input"), label = make("label", "search", "search");
    form.addEventListener("submit", (event) => event.preventDefault());
    search.type = "search";
    search.name = "search";
    search.placeholder = "words of a prompt, a reply or its gloss";
    label.append(search);
    form.append(label);
    fields.search = search;
    const numeric = (a, b) => (isNaN(a) || isNaN(b) ? 0 : a - b);
    for (const name of ["notebook", "model", "scale", "language", "seed", "kind"]) {
      const values = (data.columns[name]?.values ?? []).filter((v) => v !== null && v !== "").sort(numeric);
      if (values.length > 1) choice(form, name, WORDS[name] ?? name, values.map((v) => [named(name, v), v]));
    }
    const verdicts = [];
    for (const { name, words, yes, no, verdict } of data.measures)
      verdicts.push([`scored: ${words}`, `${name}:any`], ...(verdict
        ? [[yes, `${name}:yes`], [no, `${name}:no`]]
        : [[`${words}: upper half`, `${name}:high`], [`${words}: lower half`, `${name}:low`]]));
    choice(form, "verdict", "verdict", verdicts);
    const more = make("details"), inner = make("div", "filters");
    more.append(make("summary", "", "more filters"), inner);
    for (const name of ["cell_language", "set", "frame", "words", "length", "source", "reply_language", "finish_reason"]) {
      const values = (data.columns[name]?.values ?? []).filter((v) => v !== null && v !== "");
      if (values.length > 1) choice(inner, name, WORDS[name] ?? name, values.map((v) => [named(name, v), v]));
    }
    const models = (data.columns.model?.values ?? []).filter((v) => v !== null && v !== "");
    choice(form, "beside", "beside it", models.map((v) => [v, v]));
    fields.beside.options[0].text = "nothing";
    const differ = make("label", "check"), box = make("input");
    box.type = "checkbox";
    differ.append(box, "only where they differ");
    fields.differ = box;
    form.append(differ);
    if (inner.children.length) form.append(more);
    const clear = make("button", "", "clear");
    clear.type = "button";
    clear.addEventListener("click", () => { set({}); refresh(); });
    form.append(clear);
    form.className = "filters";
    let waiting = 0;
    form.addEventListener("input", (event) => {
      clearTimeout(waiting);
      if (event.target !== search) refresh();
      else waiting = setTimeout(() => refresh(), 200);
    });
    const tally = make("p", "tally"), list = make("div", "list"), next = make("button", "next");
    tally.setAttribute("aria-live", "polite");
    next.type = "button";
    next.addEventListener("click", () => show(list.children.length));
    place.replaceChildren(form, tally, list, next);
  };
  const set = (where) => {
    for (const [name, field] of Object.entries(fields))
      if (field.type === "checkbox") field.checked = where[name] === "1";
      else field.value = where[name] ?? "";
    if (where.measure && !where.verdict) fields.verdict.value = `${where.measure}:any`;
  };
  const browse = async (where) => {
    await load();
    set(where);
    refresh();
    document.getElementById("replies").scrollIntoView();
  };

  const keyOf = (row) => SAME.map((name) => data.columns[name]?.codes[row]).join();
  const refresh = (isAsked = true) => {
    const tests = [];
    for (const [name, field] of Object.entries(fields)) {
      if (!field.value || ["search", "verdict", "beside", "differ"].includes(name)) continue;
      const { values, codes } = data.columns[name], wanted = values.indexOf(field.value);
      tests.push((row) => codes[row] === wanted);
    }
    if (fields.verdict.value) {
      const [name, wanted] = fields.verdict.value.split(":"), { values, codes } = data.columns[name];
      const numbers = [...codes].map((code) => values[code]).filter((v) => v !== null).sort((a, b) => a - b);
      const middle = numbers[numbers.length >> 1];
      const fits = { any: () => true, yes: (v) => v === 1, no: (v) => v === 0, high: (v) => v >= middle, low: (v) => v < middle }[wanted];
      tests.push((row) => values[codes[row]] !== null && fits(values[codes[row]]));
    }
    const needle = fields.search.value.trim().toLowerCase();
    if (needle) {
      const hits = ["prompt", "response", "gloss", "prompt_gloss"].filter((name) => data.columns[name]).map((name) => {
        const { values, codes } = data.columns[name];
        const holds = values.map((text) => text !== null && String(text).toLowerCase().includes(needle));
        return (row) => holds[codes[row]];
      });
      tests.push((row) => hits.some((hit) => hit(row)));
    }
    matched = [];
    for (let row = 0; row < data.rows; row++) if (tests.every((test) => test(row))) matched.push(row);
    partner = null;
    if (fields.beside.value) {
      const { values, codes } = data.columns.model, wanted = values.indexOf(fields.beside.value);
      partner = new Map();
      for (let row = 0; row < data.rows; row++) if (codes[row] === wanted) partner.set(keyOf(row), row);
      const differs = (row) => value(row, "response") !== value(partner.get(keyOf(row)), "response");
      matched = matched.filter((row) => codes[row] !== wanted && partner.has(keyOf(row)) && (!fields.differ.checked || differs(row)));
    }
    const kept = Object.entries(fields).map(([name, field]) => [name, field.type === "checkbox" ? (field.checked ? "1" : "") : field.value]);
    const query = new URLSearchParams(kept.filter(([, of]) => of));
    if (isAsked) history.replaceState(null, "", `#replies${query.size ? `?${query}` : ""}`);
    tell();
    place.querySelector(".list").replaceChildren();
    show(0);
  };
  const colour = (good, end) => (good ? (good === end ? "right" : "wrong") : "");
  const tell = () => {
    const tally = place.querySelector(".tally");
    tally.replaceChildren(`${matched.length.toLocaleString("en")} ${partner ? "pairs of replies" : "replies"}. `);
    for (const { name, yes, no, good, verdict, aside } of data.measures) {
      if (!verdict || aside) continue;
      const { values, codes } = data.columns[name], count = [0, 0];
      for (const row of matched) if (values[codes[row]] !== null) count[values[codes[row]]]++;
      for (const [of, words, end] of [[1, yes, "yes"], [0, no, "no"]]) {
        if (!count[of] || !(count[0] + count[1])) continue;
        const chip = make("button", `chip ${colour(good, end)}`, `${words} ${count[of].toLocaleString("en")}`);
        chip.type = "button";
        chip.addEventListener("click", () => { fields.verdict.value = `${name}:${end}`; refresh(); });
        tally.append(chip, " ");
      }
    }
  };

  // ---------------------------------------------------------------- a reply, and two beside each other
  const pieces = (text) => {
    if (!Intl.Segmenter) return text.match(/\s+|[\p{L}\p{N}]+|[^\s\p{L}\p{N}]/gu) ?? [];
    return [...new Intl.Segmenter(undefined, { granularity: "word" }).segment(text)].map((part) => part.segment);
  };
  // which pieces of two texts are not of their longest common subsequence
  const different = (a, b) => {
    const table = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
    for (let i = a.length - 1; i >= 0; i--)
      for (let j = b.length - 1; j >= 0; j--)
        table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
    const marks = [new Set(a.keys()), new Set(b.keys())];
    for (let i = 0, j = 0; i < a.length && j < b.length; )
      if (a[i] === b[j]) { marks[0].delete(i++); marks[1].delete(j++); }
      else if (table[i + 1][j] >= table[i][j + 1]) i++;
      else j++;
    return marks;
  };
  const said = (text, className, marks = null, parts = null) => {
    const line = make("p", `said ${className}`);
    line.dir = "auto";
    if (!marks) line.textContent = text || "(empty reply)";
    else for (const [i, part] of parts.entries()) line.append(marks.has(i) ? make("mark", "", part) : part);
    if (marks && !parts.length) line.textContent = "(empty reply)";
    return line;
  };
  const verdictsOf = (row) => {
    const line = make("p", "verdicts");
    for (const { name, words, yes, no, good, verdict, aside } of data.measures) {
      if (aside) continue;
      const found = data.columns[name].values[data.columns[name].codes[row]];
      if (found === null) continue;
      const text = verdict ? (found ? yes : no) : `${words} ${found}`;
      line.append(make("span", `chip ${verdict ? colour(good, found ? "yes" : "no") : ""}`, text), " ");
    }
    return line;
  };
  const speech = (row, other = null) => {
    const box = make("div"), text = value(row, "response"), head = make("p", "who");
    head.append(make("strong", "", value(row, "model") || titleOf(value(row, "notebook"))));
    box.append(head);
    const parts = other === null ? [] : [pieces(text), pieces(value(other, "response"))];
    const short = parts.length && parts[0].length * parts[1].length < 250000;
    box.append(short ? said(text, "", different(...parts)[0], parts[0]) : said(text, ""));
    if (value(row, "gloss")) box.append(make("p", "gloss", value(row, "gloss")));
    box.append(verdictsOf(row));
    return box;
  };
  const card = (row) => {
    const article = make("article", "card reply"), talk = make("div", "talk");
    const about = ["notebook", "scale", "language", "seed", "kind", "frame"].filter((name) => value(row, name) !== "")
      .map((name) => ({ of: name, words: named(name, value(row, name)) }))
      .map(({ of, words }) => (["notebook", "language"].includes(of) ? words : `${WORDS[of] ?? of} ${words}`));
    article.append(make("p", "soft", about.join(" · ")), said(value(row, "prompt"), "prompt"));
    if (value(row, "prompt_gloss")) article.append(make("p", "gloss", value(row, "prompt_gloss")));
    const other = partner && partner.get(keyOf(row));
    talk.append(speech(row, other ?? null), ...(partner ? [speech(other, row)] : []));
    article.append(talk);
    if (!partner) {
      const more = make("button", "more", "the other models' replies to this prompt");
      more.type = "button";
      more.addEventListener("click", () => {
        const key = keyOf(row), rows = [];
        for (let at = 0; at < data.rows; at++) if (at !== row && keyOf(at) === key) rows.push(at);
        talk.append(...rows.map((at) => speech(at, row)));
        more.replaceWith(make("p", "soft", rows.length ? "Marked: words that this reply and the first one do not share." : "No other model was asked this."));
      });
      article.append(more);
    }
    return article;
  };
  const show = (from) => {
    const next = place.querySelector(".next"), left = matched.length - from - PAGE;
    place.querySelector(".list").append(...matched.slice(from, from + PAGE).map(card));
    next.textContent = `${Math.min(left, PAGE)} more of ${left.toLocaleString("en")}`;
    next.hidden = left <= 0;
  };

  if (block && place) {
    if (typeof DecompressionStream === "undefined") place.textContent = "This browser cannot unpack the replies; a newer one can.";
    else {
      const start = new IntersectionObserver((seen) => {
        if (!seen.some((entry) => entry.isIntersecting)) return;
        start.disconnect();
        load().then(() => matched.length || refresh(false));
      }, { rootMargin: "200px" });
      start.observe(place);
    }
  }
  for (const link of all("[data-where]:not(g)")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      browse(JSON.parse(link.dataset.where));
    });
  }

  // ---------------------------------------------------------------- where one is, in the table of contents
  const links = new Map(all(".toc a").map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) links.get(target.id)?.classList.toggle("here", isIntersecting);
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const name of links.keys()) if (document.getElementById(name)) watch.observe(document.getElementById(name));
  if (location.hash) reveal();
})();
