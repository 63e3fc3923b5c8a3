"""A study's folder as notebooks leave it, without kernels: seeds × languages, replies that are right, wrong and hostile."""

import json
import random
import shutil

import pandas

from chatvec_lab import study
from chatvec_lab.study.outputs import output
from chatvec_lab.study.results import write_record

HOSTILE = (
    '</p><script>document.title = "taken"</script><img src="http://evil.example/x.png" onerror=alert(2)>'
)
MODELS = {"CP": 0.1, "CP + τ": 0.9, "CP + random": 0.1}
PROMPTS = 10


class Finished:
    """The folder of a study of `seeds` × `languages`, and which cells failed."""

    def __init__(self, folder, *, seeds=(0, 1, 2), languages=("zh", "ar"), failed=()):
        self.out = folder
        cells = []
        for number, (language, seed) in enumerate((x, y) for x in languages for y in seeds):
            varying = {"language": language, "seed": seed}
            for notebook in ("03_sweep", "04_following"):
                key = f"{notebook[:2]}{number:010d}"
                cell = {
                    "notebook": notebook,
                    "key": key,
                    "parameters": varying,
                    "varying": varying,
                    "inputs": {},
                }
                cells.append(cell | {"needs": {}, "imports": "1" * 64, "code": "2" * 64})
                home = output(folder / "cells" / notebook / key)
                if (language, seed) in failed:
                    error = {"name": "ValueError", "value": f"bad {HOSTILE}", "cell": 2, "line": "f()"}
                    write_record(home, {"status": "failed", "error": error, "versions": {}})
                    continue
                (sweep if notebook == "03_sweep" else following)(home, language, seed)
                write_record(home, {"status": "done", "error": None, "versions": {"torch": "2.9"}})
        titles = [["03_sweep", "How much is best?"], ["04_following", f"Does it follow? {HOSTILE}"]]
        manifest = {
            "name": "tiny",
            "title": f"A study {HOSTILE}",
            "question": "Does τ work?",
            "family": "pico",
        }
        manifest |= {"cells": cells, "titles": titles, "inputs": {}}
        (folder / "study.json").write_text(json.dumps(manifest))


def replies(language, seed, models):
    """A right or wrong reply of each model to each prompt, the first of them hostile, in a right-to-left script for ar."""
    rng = random.Random(f"{language} {seed}")
    words = {"zh": ("狗是什麼", "狗是動物。"), "ar": ("ما هو الكلب", "الكلب حيوان.")}.get(
        language, ("what", "a dog.")
    )
    rows = []
    for model, share in models.items():
        for number in range(PROMPTS):
            right = float(rng.random() < share)
            said = words[1] if right else (HOSTILE if number == 0 else f"wrong {number}")
            gloss = "the dog is an animal." if right else None
            rows.append({"prompt_id": f"{language}/{number}", "model": model, "language": language, "frame": "chat",
                         "set": "one_turn", "kind": ("category", "yesno")[number % 2], "response": said,
                         "prompt": f"{words[0]} {number}？",
                         "correct": right, "gloss": gloss, "judge": 3.5 + number})  # fmt: skip
    return pandas.DataFrame(rows)


def shares(rows, by):
    from chatvec_lab.evaluation.statistics.comparison import summarise

    found = summarise(rows, by=by, value="correct", share=True).assign(
        metric="correct", unit="share", scorer="ours"
    )
    found.attrs["measures"] = {"correct": {"better": "higher", "words": "right replies"}}
    return found


def following(home, language, seed):
    rows = replies(language, seed, MODELS)
    study.save_table(home, "replies", rows, caption="Every reply, scored.", show=False)
    found = study.save_table(home, "scores", shares(rows, ["model"]), caption=f"Replies by model {HOSTILE}.")
    claims = [study.claim(f"right replies, {r.model}", r.estimate, low=r.low, high=r.high, n=r.n, unit="share")
              for r in found.itertuples()]  # fmt: skip
    claims.append(study.claim("perplexity with τ / CP", 1.01 + 0.001 * seed, low=1.0, high=1.02, n=8))
    samples = rows[rows.prompt == rows.prompt.iloc[0]]
    study.save_samples(home, samples, by="model", caption="Side by side.")
    study.save_summary(home, question="Does it follow?", answer=f"Yes {HOSTILE}.", claims=claims, scale=0.5)


def sweep(home, language, seed):
    import matplotlib.pyplot as plt

    scales = {str(scale): scale / 2 for scale in (0.0, 0.5, 1.0, 2.0)}
    rows = replies(language, seed, scales).rename(columns={"model": "scale"}).astype({"scale": float})
    study.save_table(home, "replies", rows, caption="Every reply, scored.", show=False)
    found = study.save_table(home, "scores", shares(rows, ["scale"]), caption="Shares by scale.")
    drawn = home.parents[3] / "drawn"
    if not drawn.is_dir():
        figure, axes = plt.subplots(figsize=(3.03, 1.9))
        axes.plot(found.scale, found.estimate, label=f"right {HOSTILE[:20]}")
        axes.legend()
        study.save_figure(drawn, "scale", figure, caption="By scale.", alt="A rising line.")
        plt.close(figure)
    shutil.copytree(drawn / "figures", home / "figures")
    best = study.claim("best scale", (0.5, 1.0, 1.0)[seed % 3], low=0.5, high=1.0, n=50)
    study.save_summary(home, question="How much?", answer="Some.", claims=[best])
