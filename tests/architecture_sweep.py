"""One class of transformers through the whole package: merged, saved, loaded, turned live, selected, asked.

    python tests/architecture_sweep.py OUT [CLASS ...]      resumes; OUT/CLASS.json is one class
    python tests/architecture_sweep.py OUT --report FILE    writes what was found, as docs/architectures.md

`tests/weights/test_architectures.py` asks `examine` of some classes, or of all of them.
"""

from __future__ import annotations

import gc
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import architectures
import numpy as np
import pico
import reference
import torch
import transformers

SCALE, ROWS, MORE = 0.7, architectures.INNER, 24  # as many tokens as the width of an MLP
RESERVED = [*pico.SPECIAL, *(f"<r{i}>" for i in range(9))]  # ids that configs name keep their places
WORDS = [f"w{i}" for i in range(ROWS - len(RESERVED))]
VARIANTS = {
    "same": WORDS,
    "reordered": random.Random(1).sample(WORDS, len(WORDS)),
    "extended": random.Random(2).sample([*WORDS, *(f"x{i}" for i in range(MORE))], len(WORDS) + MORE),
}
# buffers that training moves, so that they belong to the vector
TRAINED = (
    "correction_bias",
    "expert_bias",
    "balancing_biases",
    "balancing_bias",
    "layer_scalar",
    "gate.bias",
)


def examine(kind: str, root: Path) -> dict:
    """What happened to one class: {"step": "ok", or what went wrong}; a refusal begins with "refused: ".

    Steps: build; for each variant merge, load, live; then layout, select, vector, respond.
    """
    result: dict[str, str] = {}
    start = time.time()
    try:
        models = Members(kind, root)
    except Exception as error:  # whatever a class raises of a small config
        return {"build": _said(error)}
    result |= {"build": "ok", "parameters": models.parameters}
    steps = [(name, lambda name=name: models.merge(name)) for name in VARIANTS]
    steps += [(f"live {name}", lambda name=name: models.live(name)) for name in ("same", "extended")]
    steps += [(step, getattr(models, step)) for step in ("layout", "select", "vector", "respond")]
    for step, run in steps:
        try:
            with architectures.quietly():
                result[step] = run() or "ok"
        except (ValueError, NotImplementedError, TypeError) as error:
            result[step] = f"refused: {_said(error)}"
        except Exception as error:  # a traceback of any kind is a finding
            result[step] = f"failed: {_said(error)} {traceback.format_exc().splitlines()[-3].strip()}"
    return result | {"seconds": round(time.time() - start, 1)}


class Members:
    """Base, chat and three CPs of one class on disk, with a tokenizer each."""

    def __init__(self, kind: str, root: Path):
        self.kind, self.root = kind, root
        self.own = getattr(transformers, kind)
        self.axes = architectures.token_axes(kind, ROWS)
        base = architectures.build(kind, ROWS)
        self.parameters = sum(p.numel() for p in base.parameters())
        self.buffers = {n for n, _ in base.named_buffers() if not n.endswith(TRAINED)}
        # rows of codes of sound, not of the tokenizer's tokens: they pair by place, or not at all
        self.is_coded = kind.startswith("Musicgen")
        _noise(base, 0.02, seed=1)
        self._save(base, "base", WORDS)
        _noise(base, 0.01, seed=2)
        self._save(base, "chat", WORDS, template=pico.TEMPLATE)
        for number, (name, words) in enumerate(VARIANTS.items()):
            cp = architectures.build(kind, len(RESERVED) + len(words), seed=7)
            _noise(cp, 0.02, seed=1)  # rows of new tokens, and of what the classes fill with ones
            self._fill(cp, self.state("base"), words)
            _noise(cp, 0.015, seed=10 + number)
            self._save(cp, name, words)
        shapes = {name: reference.state(root / name) for name in ("base", "extended")}
        # by stored names: which axis grew with the vocabulary
        self.tables = {
            name: next(i for i, (a, b) in enumerate(zip(t.shape, shapes["extended"][name].shape, strict=True)) if a != b)
            for name, t in shapes["base"].items()
            if name in shapes["extended"] and t.shape != shapes["extended"][name].shape
        }  # fmt: skip

    def state(self, name: str) -> dict[str, torch.Tensor]:
        """What transformers loads of a folder."""
        model = self.load(name)
        return {n: t.detach().clone() for n, t in model.state_dict().items()}

    def load(self, name: str):
        with architectures.quietly():
            model, info = self.own.from_pretrained(
                self.root / name, dtype=torch.bfloat16, output_loading_info=True
            )
        lacking = {
            key: sorted(info[key])[:4]
            for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
            if info[key]
        }
        if lacking:
            raise AssertionError(f"{name} does not load whole: {lacking}")
        return model.eval()

    def checkpoint(self, name: str):
        from chatvec_lab import Checkpoint

        return Checkpoint(self.root / name)

    @property
    def tau(self):
        return self.checkpoint("chat") - self.checkpoint("base")

    def _save(self, model, name: str, words: list[str], template: str | None = None) -> None:
        with architectures.quietly():
            model.save_pretrained(self.root / name)
        pico.save_tokenizer(self.root / name, [*RESERVED, *words], template=template, special=RESERVED)

    def _fill(self, model, state: dict[str, torch.Tensor], words: list[str]) -> None:
        """Give a model these weights, rows of tokens where its tokenizer has them."""
        rows = [i for i, w in enumerate(words) if w in WORDS]
        ours = torch.tensor([*range(len(RESERVED)), *(len(RESERVED) + i for i in rows)])
        theirs = torch.tensor([*range(len(RESERVED)), *(len(RESERVED) + WORDS.index(words[i]) for i in rows)])
        with torch.no_grad():
            for name, tensor in model.state_dict(keep_vars=True).items():
                if name in self.axes:
                    axis = self.axes[name]
                    extra = tensor.shape[axis] - len(RESERVED) - len(words)  # rows behind the tokens
                    picked = state[name].index_select(axis, theirs).to(tensor.dtype)
                    tensor.data.index_copy_(axis, ours, picked)
                    if extra:
                        last = state[name].narrow(axis, state[name].shape[axis] - extra, extra)
                        tensor.data.narrow(axis, tensor.shape[axis] - extra, extra).copy_(last)
                else:
                    tensor.data.copy_(state[name])

    def merge(self, variant: str) -> str:
        """cp + 0.7 tau, saved; every stored tensor against the formula, rows by token."""
        out = self.root / f"out {variant}"
        (self.checkpoint(variant) + SCALE * self.tau).save(out, verify=True, progress=False)
        base, chat, cp, merged = (reference.state(self.root / n) for n in ("base", "chat", variant, out.name))
        if set(merged) != set(cp):
            return f"WRONG: stored names differ: {sorted(set(merged) ^ set(cp))[:5]}"
        wrong = [name for name in cp if not self._is_right(name, variant, base, chat, cp, merged)]
        if wrong:
            return f"WRONG: {len(wrong)} of {len(cp)} tensors: {wrong[:6]}"
        self.load(out.name)
        return ""

    def _is_right(self, name: str, variant: str, base, chat, cp, merged) -> bool:
        p, got = cp[name], merged[name]
        if got.dtype != p.dtype or got.shape != p.shape:
            return False
        is_fixed = not p.is_floating_point() or any(b == name or b.endswith(f".{name}") for b in self.buffers)
        if is_fixed:
            return torch.equal(got, p)
        b, c = base[name], chat[name]
        if name in self.tables and not (self.is_coded and variant == "same"):
            axis = self.tables[name]
            b, c, p, got = (t.movedim(axis, 0) for t in (b, c, p, got))
            rows, words = [], VARIANTS[variant]
            for row in range(len(p)):
                word = (
                    words[row - len(RESERVED)] if len(RESERVED) <= row < len(RESERVED) + len(words) else None
                )
                if row < len(RESERVED):
                    rows.append(row)
                elif word is not None:
                    rows.append(len(RESERVED) + WORDS.index(word) if word in WORDS else -1)
                else:  # padding rows stay
                    rows.append(-1)
            rows = torch.tensor(rows)
            kept = rows < 0
            if not torch.equal(got[kept], p[kept]):
                return False
            b, c, p, got = b[rows[~kept]], c[rows[~kept]], p[~kept], got[~kept]
        return wrong_elements(got, p, c, b) == 0

    def live(self, variant: str) -> str:
        """LiveModel at the scale has the saved model's bits, and at 0 the CP's again."""
        from chatvec_lab import LiveModel

        live = LiveModel(self.checkpoint(variant), self.tau, device="cpu")
        saved, cp = self.state(f"out {variant}"), self.state(variant)
        if type(live.model) is not self.own:
            return f"WRONG: {type(live.model).__name__} was loaded"
        for scale, wanted in ((SCALE, saved), (0.0, cp)):
            live.scale = scale
            state = live.model.state_dict()
            wrong = [n for n, t in wanted.items() if not _same(state[n], t)]
            if wrong:
                return f"WRONG: at {scale} {len(wrong)} tensors differ: {wrong[:5]}"
        return ""

    def layout(self) -> str:
        """The layout's tables are those that grow; each float tensor is in one component, module and layer."""
        layout, lines = self.checkpoint("base").layout, []
        if layout.source not in (self.kind, "by heart"):
            lines.append(f"told by {layout.source}: {layout.note}")
        tables = {n for n, axis in self.tables.items() if axis == 0}
        found = set(layout.tables)
        stored = {n for n in reference.state(self.root / "base") if layout[n].module != "buffer"}
        if found != tables & stored and not self.is_coded:
            lines.append(f"WRONG: tables {sorted(found ^ (tables & stored))[:6]}")
        if layout.ignored or layout.lacks_head:
            lines.append(f"WRONG: ignored {list(layout.ignored)[:4]}, lacks {layout.lacks_head}")
        if others := [n for n, part in layout.parts.items() if part.module == "other"]:
            lines.append(f"other: {len(others)}, such as {others[0]}")
        return "; ".join(lines) if any("WRONG" in line or "told" in line for line in lines) else ""

    def select(self) -> str:
        """The choices of component and module partition the vector, and so do the layers of each component."""
        tau = self.tau
        parts = tau.parts_by_name
        counted = dict.fromkeys(parts, 0)
        for component, module in sorted({(p.component, p.module) for p in parts.values()}):
            chosen = tau.select(components=component, modules=module)
            for name, part in parts.items():
                counted[name] += chosen.terms[0].coefficient(name, part) != 0
        for name, times in counted.items():
            if times != 1:
                return f"WRONG: {name} is in {times} choices"
        for component in {p.component for p in parts.values()}:
            layers = {p.layer for p in parts.values() if p.component == component} - {None}
            for layer in layers:
                chosen = tau.select(layers=layer, components=component)
                held = {n for n, p in parts.items() if chosen.terms[0].coefficient(n, p)}
                if held != {n for n, p in parts.items() if (p.component, p.layer) == (component, layer)}:
                    return f"WRONG: layer {layer} of {component}"
        return ""

    def vector(self) -> str:
        """A saved vector gives the same merge."""
        from chatvec_lab import WeightVector

        self.tau.save(self.root / "tau", progress=False)
        merged = self.checkpoint("extended") + SCALE * WeightVector.load(self.root / "tau")
        merged.save(self.root / "again", progress=False)
        wanted, got = (reference.state(self.root / name) for name in ("out extended", "again"))
        wrong = [n for n in wanted if n not in got or not _same(got[n], wanted[n])]
        return f"WRONG: {wrong[:5]}" if wrong else ""

    def respond(self) -> str:
        """The merged model answers two prompts of different lengths."""
        from chatvec_lab import Checkpoint
        from chatvec_lab.evaluation.asking.generation import respond

        model, tokenizer = self.load("out same").float(), Checkpoint(self.root / "out same").tokenizer
        prompts = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9 w10"]
        replies = respond(model, tokenizer, prompts, max_tokens=4, batch_size=1, progress=False)
        if len(replies) != 2:
            return f"WRONG: {len(replies)} replies"
        try:
            together = respond(model, tokenizer, prompts, max_tokens=4, batch_size=2, progress=False)
        except ValueError as error:
            return f"ok one by one; a batch is refused: {_said(error)}"
        same = list(together["response"]) == list(replies["response"])
        return "" if same else "WRONG: a batch gives other replies than one by one"


def wrong_elements(got: torch.Tensor, p: torch.Tensor, c: torch.Tensor, b: torch.Tensor) -> int:
    """How many elements are not p + SCALE (c - b) rounded once; doubtful ones are counted with rational numbers."""
    exact = [t.double().numpy().astype(np.longdouble).ravel() for t in (p, c, b)]
    wanted = exact[0] + np.longdouble(SCALE) * (exact[1] - exact[2])
    flat = got.contiguous().view(-1)
    bits = flat.view({2: torch.int16, 4: torch.int32}[flat.element_size()])
    error = np.abs(flat.double().numpy() - wanted)
    doubtful = ~np.isfinite(error)
    near = 1e-16 if flat.element_size() == 2 else 1e-9  # 0.7 as a float64 is that near to ties of decimal 0.7
    for step in (-1, 1):
        other = (bits + step).view(flat.dtype).double().numpy()
        with np.errstate(invalid="ignore"):
            doubtful |= np.isfinite(other) & (np.abs(other - wanted) <= error + error * np.longdouble(near))
    places = torch.from_numpy(np.flatnonzero(doubtful))
    if not len(places):
        return 0
    pick = lambda t: t.contiguous().view(-1)[places]  # noqa: E731
    return reference.wrongly_rounded(pick(got), reference.formula(pick(p), [(SCALE, pick(c), pick(b))]))


def _noise(model, size: float, seed: int) -> None:
    """Move every float parameter and stored buffer by noise, in place."""
    generator = torch.Generator().manual_seed(seed)
    stored, seen = model.state_dict(keep_vars=True), set()
    with torch.no_grad():
        for tensor in stored.values():
            if tensor.is_floating_point() and tensor.numel() and tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                noise = torch.randn(tensor.shape, generator=generator) * size
                tensor.data.copy_((tensor.detach().float() + noise).to(tensor.dtype))


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    bits = lambda t: t.contiguous().view(-1).view(torch.uint8)  # noqa: E731
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def is_right(result: dict) -> bool:
    """True when every step went well (a batch may be refused where one by one is answered)."""
    steps = {k: v for k, v in result.items() if k not in ("parameters", "seconds", "examined")}
    return len(steps) > 1 and all(v == "ok" or v.startswith("ok ") for v in steps.values())


def results(out: Path) -> dict[str, dict]:
    """What was found of each class, by its name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("*.json"))}


def sort(found: dict[str, dict]) -> dict[str, list[str]]:
    """Names of classes by what happened: "unbuilt", "right", "wrong" (silently), "refused", "failed"."""
    groups: dict[str, list[str]] = {group: [] for group in ("unbuilt", "right", "wrong", "failed", "refused")}
    for kind, result in found.items():
        said = " ".join(str(value) for value in result.values())
        if result["build"] != "ok":
            groups["unbuilt"].append(kind)
        elif is_right(result):
            groups["right"].append(kind)
        else:
            groups["wrong" if "WRONG" in said else "failed" if "failed: " in said else "refused"].append(kind)
    return groups


def _times(found: dict[str, dict]) -> list[str]:
    """When the classes were examined: a sweep that goes on where it stopped meets several commits."""
    times = sorted(r["examined"] for r in found.values() if "examined" in r)
    if not times:
        return []
    return [
        f"Each class was examined with the code of its time, from {times[0]} to {times[-1]} UTC. A sweep that goes on where "
        "it stopped, or that examines anew only the classes for which a change was made, joins results of several commits.",
        "",
    ]


def report(found: dict[str, dict]) -> str:
    """The page docs/architectures.md."""
    groups, named = sort(found), architectures.class_names()
    built = len(found) - len(groups["unbuilt"])
    answering = sum(str(r.get("respond", "")).startswith("ok") for r in found.values())
    merging = sum(all(r.get(v) == "ok" for v in VARIANTS) for r in found.values())
    lines = [
        "# Architectures",
        "",
        "Written by `make test-campaigns` (`tests/architecture_sweep.py`), not by hand. Every class that transformers "
        f"{transformers.__version__} names for causal language models and for image and text to text is built small "
        f"from its default config, with {ROWS} tokens, as many as its MLPs are wide. Base, chat and three CPs are saved "
        f"(tokens the same, in another order, and {MORE} more in another order), and cp + {SCALE} tau goes through: "
        "saved, compared element by element with rational arithmetic, loaded with no key missing or unexpected, turned "
        "live (the saved bits, and the CP's bits at scale 0), told apart by component, module and layer, selected part "
        "by part, saved as a vector and merged from it, and asked.",
        "",
        *_times(found),
        "| classes | |",
        "|---|---|",
        f"| named | {len(named)} |",
        f"| examined so far | {len(found)} |",
        f"| built small | {built} |",
        f"| merged right with all three vocabularies | {merging} |",
        f"| right at every step | {len(groups['right'])} ({len(groups['right']) / max(1, built):.0%}) |",
        f"| answering in `respond` | {answering} ({answering / max(1, built):.0%}) |",
        f"| refused at some step, with the reason below | {len(groups['refused'])} |",
        f"| ended by an error that is not ours at some step | {len(groups['failed'])} |",
        f"| other than expected at some step | {len(groups['wrong'])} |",
    ]
    titles = {
        "wrong": "Other than expected", "failed": "Ended by an error that is not ours", "refused": "Refused",
        "unbuilt": "Not built small",
    }  # fmt: skip
    for group, title in titles.items():
        if groups[group]:
            lines += ["", f"## {title}", "", "| class | step | what was said |", "|---|---|---|"]
        for kind in groups[group]:
            for step, value in found[kind].items():
                if (
                    step != "examined"
                    and isinstance(value, str)
                    and value != "ok"
                    and not value.startswith("ok ")
                ):
                    value = value.removeprefix("refused: ").removeprefix("failed: ").removeprefix("WRONG: ")
                    value = re.sub(r"/\S*?architecture-\w+/", "", value)  # of a temporary folder
                    lines.append(f"| {kind} | {step} | {value[:300].replace('|', '/')} |")
    if left := [kind for kind in named if kind not in found]:
        lines += ["", "## Not examined yet", "", ", ".join(left) + "."]
    lines += ["", "## Right at every step", "", ", ".join(groups["right"]) + ".", ""]
    return "\n".join(lines)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime())


def worker(out: Path, kinds: list[str]) -> None:
    for kind in kinds:
        (out / "running").write_text(kind)
        root = Path(tempfile.mkdtemp(prefix="architecture-"))
        try:
            result = examine(kind, root) | {"examined": _now()}
        finally:
            shutil.rmtree(root, ignore_errors=True)
            gc.collect()
            gc.freeze()  # the libraries' own objects need not be looked at again
        (out / f"{kind}.json").write_text(json.dumps(result, indent=1))
        print("right" if is_right(result) else "      ", kind, result.get("seconds"), flush=True)


def sweep(out: Path, kinds: list[str], patience: float = 300) -> None:
    """Every class that has no result yet, in a process that is started anew where a class ends or stops it."""
    out.mkdir(parents=True, exist_ok=True)
    while todo := [kind for kind in kinds if not (out / f"{kind}.json").exists()]:
        process = subprocess.Popen([sys.executable, __file__, str(out), "--worker", *todo[:40]])
        last, seen = time.time(), len(list(out.glob("*.json")))
        while process.poll() is None:
            time.sleep(0.5)
            if len(list(out.glob("*.json"))) != seen:
                last, seen = time.time(), len(list(out.glob("*.json")))
            if time.time() - last > patience:
                process.kill()
        stopped = (out / "running").read_text()
        if not (out / f"{stopped}.json").exists():
            found = {"build": "ok", "same": f"failed: ended with {process.returncode}", "examined": _now()}
            (out / f"{stopped}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    folder, *named = sys.argv[1:]
    if named[:1] == ["--report"]:
        Path(named[1]).write_text(report(results(Path(folder))))
    elif named[:1] == ["--worker"]:
        worker(Path(folder), named[1:])
    else:
        sweep(Path(folder), named or architectures.class_names())
