"""Campaigns of damaged text files: tried, right, named error, bad (none). See tests/hostile.py."""

import json
import os
import random
import shutil
from pathlib import Path

import hostile
import pandas as pd
import pytest
import yaml

from chatvec_lab import Checkpoint, study
from chatvec_lab.evaluation.asking.cache import JsonlCache
from chatvec_lab.evaluation.asking.responses import claim
from chatvec_lab.evaluation.prompts import read_prompts
from chatvec_lab.families import load_family
from chatvec_lab.interop import hub, mergekit
from chatvec_lab.paths import ROOT
from chatvec_lab.study import outputs, parameters, plan

ROWS = [
    {"prompt_id": f"p{i}", "category": "generic", "turns": [f"Question {i}?", "And why?"], "reference": ["An answer."],
     "checks": [{"instruction": "punctuation:no_comma", "kwargs": {}}]}
    for i in range(6)
]  # fmt: skip


@pytest.fixture(scope="module")
def kinds(families, tmp_path_factory):
    """{kind: (an undamaged file, its reader)}: every kind of text file that people write or other programs leave."""
    root = tmp_path_factory.mktemp("whole")
    base, chat, cp = map(Checkpoint, families("llama"))
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (root / "rows.json").write_text(json.dumps(ROWS, indent=1))
    (root / "rows.yaml").write_text(yaml.safe_dump(ROWS))
    plain = pd.DataFrame(
        [{"prompt_id": r["prompt_id"], "category": "generic", "prompt": r["turns"][0]} for r in ROWS]
    )
    plain.to_csv(root / "rows.csv", index=False)
    pd.DataFrame(ROWS).drop(columns="checks").to_parquet(root / "rows.parquet")
    models = [
        {"model": model.source, "parameters": {"weight": [0.5, 1], "density": 0.5}} for model in (chat, cp)
    ]
    recipe = {"merge_method": "ties", "base_model": base.source, "models": models, "dtype": "float32"}
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    family = {"base": base.source, "chat": chat.source, "cp": {"ko": cp.source}, "notes": "made here"}
    (root / "family.yaml").write_text(yaml.safe_dump(family))
    notebook = ROOT / "notebooks" / "01_chat_vector.ipynb"
    described = {
        "title": "T",
        "question": "Q?",
        "family": "nano",
        "notebooks": {str(notebook): {"grid": {"seed": [0, 1]}}},
    }
    (root / "study.yaml").write_text(yaml.safe_dump(described))
    shutil.copyfile(notebook, root / "notebook.ipynb")
    (root / "cell").mkdir()
    outputs.save_summary(
        root / "cell", question="q", answer="a", claims=[outputs.claim("c", 0.5, low=0.4, high=0.6)]
    )
    cell = {"notebook": "n", "key": "k", "parameters": {"seed": 0}, "varying": {}, "inputs": {}, "needs": {}}
    manifest = {"name": "t", "title": "T", "question": "Q", "family": "nano", "titles": [["n", "N"]]}
    manifest |= {"inputs": {}, "cells": [cell]}
    (root / "study.json").write_text(json.dumps(manifest, indent=1))
    (root / "run.json").write_text(json.dumps({"model": "m", "max_tokens": 3, "template": "chat"}))
    cache = JsonlCache(root / "judge.jsonl")
    for i in range(5):
        cache.put(f"k{i}", {"text": f"[[{i}]]"})
    (root / "README.md").write_text("---\nlicense: mit\ntags: [a, b]\n---\n# A model\n")
    return {
        "prompts.jsonl": (root / "rows.jsonl", lambda path: read_prompts(path, language="en")),
        "prompts.json": (root / "rows.json", lambda path: read_prompts(path, language="en")),
        "prompts.yaml": (root / "rows.yaml", lambda path: read_prompts(path, language="en")),
        "prompts.csv": (root / "rows.csv", lambda path: read_prompts(path, language="en")),
        "prompts.parquet": (root / "rows.parquet", lambda path: read_prompts(path, language="en")),
        "recipe of mergekit": (root / "recipe.yaml", mergekit.load),
        "family": (root / "family.yaml", load_family),
        "notebook": (root / "notebook.ipynb", parameters.title),
        "summary.json": (root / "cell" / "summary.json", lambda path: outputs.load_summary(path.parent)),
        "study.json": (root / "study.json", lambda path: study.results(path.parent)),
        "run.json of replies": (
            root / "run.json",
            lambda path: claim(path.parent, {"model": "m", "max_tokens": 3}),
        ),
        "judgements": (root / "judge.jsonl", JsonlCache),
        "evaluation of a card": (root / "cell" / "summary.json", hub._evaluation),
        "card": (root / "README.md", lambda path: hub._split(path.read_text("utf-8", "replace"))),
        "study": (root / "study.yaml", plan.load),  # the last, since its trials take the longest
    }


def told(counts, seed):
    bad = counts.pop("bad", [])
    tried = {kind: sum(tally.values()) for kind, tally in counts.items()}
    for kind, tally in counts.items():
        print(f"{kind}: tried {tried[kind]}, right {tally.get('right', 0)}, named error {tally.get('named', 0)}, "
              f"bad {sum(tally.get(name, 0) for name in hostile.BAD)}")  # fmt: skip
    print(f"seed {seed}: tried {sum(tried.values())}, bad {len(bad)}")
    return bad


def test_undamaged_files_are_right(kinds):
    for kind, (file, read) in kinds.items():
        if kind != "run.json of replies":  # the same run would go on; another one is refused
            read(file)


def test_some_damaged_files_end_right_or_named(kinds, tmp_path):
    bad = told(hostile.campaign(kinds, 4, 0, tmp_path), 0)
    assert not bad, bad[:10]


@pytest.mark.slow
def test_a_sample_of_damaged_files_ends_right_or_named(kinds, tmp_path):
    seed = int(os.environ.get("CAMPAIGN_SEED", random.SystemRandom().randrange(10**6)))
    bad = told(hostile.campaign(kinds, 60, seed, tmp_path), seed)
    assert not bad, bad[:10]


@pytest.mark.campaign
def test_thousands_of_damaged_files_end_right_or_named(kinds, tmp_path):
    """Resumable: what was tried with a seed is kept in build/campaigns/ and not tried again."""
    seed = int(os.environ.get("CAMPAIGN_SEED", "1"))
    kept = Path(ROOT) / "build" / "campaigns" / f"text-files-{seed}.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    bad = told(hostile.campaign(kinds, 1000, seed, tmp_path, kept), seed)
    assert not bad, bad[:20]
