"""The recipes of a family, their best scales, and the models that stand for them."""

import pandas as pd
import torch

from chatvec_lab import experiment, load_family
from chatvec_lab.experiment import mixtures

NAME = "model.layers.1.mlp.up_proj.weight"


def test_each_recipe_is_a_vector_of_the_family_and_says_its_paper():
    nano = load_family("nano")
    found = mixtures.recipes(nano, "zh")
    assert next(iter(found)) == mixtures.PLAIN and "2504.21023" in found[mixtures.PLAIN].paper
    assert {"TIES of 2 chat vectors", "mean of 2 chat vectors"} <= set(found)
    tau = nano.chat - nano.base
    assert torch.equal(found[mixtures.PLAIN].vector.read(NAME), tau.read(NAME))
    several = [nano[m] - nano.base for m in ("chat", "chat_full")]
    mean = sum(vector.read(NAME).double() for vector in several) / 2
    assert torch.allclose(found["mean of 2 chat vectors"].vector.read(NAME).double(), mean, rtol=1e-6)
    swapped = nano.cp["zh"] + found["middle layers swapped"].vector
    assert torch.equal(swapped.read(NAME), nano.chat.read(NAME)), "of four layers the middle two are chat's"
    assert torch.equal(
        swapped.read(NAME.replace(".1.", ".0.")), nano.cp["zh"].read(NAME.replace(".1.", ".0."))
    )
    for label, recipe in found.items():
        assert recipe.paper and (nano.cp["zh"] + recipe.vector).chat_template == nano.chat.chat_template, (
            label
        )


def test_one_chat_model_makes_no_recipe_of_several():
    nano = load_family("nano")
    bare = type(nano)("bare", nano.base, nano.chat, nano.cp)
    assert not [label for label in mixtures.recipes(bare, "zh") if "chat vectors" in label]


def test_the_best_scale_is_the_smallest_of_equals():
    table = pd.DataFrame(
        [
            ("a", 0.5, 0.3),
            ("a", 1.0, 0.7),
            ("a", 1.5, 0.7),
            ("b", 0.5, 0.2),
            ("b", 1.0, 0.1),
            ("b", 1.5, 0.2),
        ],
        columns=["model", "scale", "estimate"],
    )
    assert mixtures.best_scales(table) == {"a": 1.0, "b": 0.5}


def test_a_recipe_that_is_best_at_the_edge_is_tried_beyond_it(monkeypatch):
    """What replies would be right is made up here: of "long" the most at 2.5, of "short" at 0.5, of "ever" at the end."""
    best, asked = {"long": 2.0, "short": 0.5, "ever": 9.0, "never": None}, []

    class Exam:
        family, language = type("Family", (), {"cp": {"zh": None}}), "zh"

        def main(self, kind):
            return "correct"

        def ask(self, models, sets, n, draw):
            (label,) = {at.live.tau for at in models.values()}
            asked.append((label, sorted(models)))
            rows = [(scale, 0.0 if best[label] is None else -abs(scale - best[label])) for scale in models]
            return pd.DataFrame(rows, columns=["model", "estimate"])

        def shares(self, replies, by, metrics):
            table = replies.assign(low=0.0, high=0.0, n=5)
            table.attrs["measures"] = {}
            return table

    table = mixtures.tried(
        Exam(), {name: mixtures.Recipe(name, "paper") for name in best}, [1.5, 0.5, 1.0], 5
    )
    steps = [[0.5, 1.0, 1.5], [2.0], [2.5], [3.0]]
    assert asked == [("long", s) for s in steps[:3]] + [("short", steps[0])] + [
        (e, s) for e in ("ever", "never") for s in steps
    ]
    assert mixtures.best_scales(table) == {"long": 2.0, "short": 0.5, "ever": 3.0, "never": 0.5}
    drawn = mixtures.shown(table, [0.5, 1.0, 1.5])
    given = ["scale 0.5", "scale 1", "scale 1.5"]
    assert drawn["at"].tolist() == [*given, "beyond, its best", *given, *given, "beyond, its best", *given]
    assert drawn[drawn["at"] == "beyond, its best"].scale.tolist() == [2.0, 3.0]
    assert mixtures.rising(table) == ["ever"] and mixtures.further([1.0]) == []


def test_recipes_are_tried_and_go_on_at_their_best():
    nano = load_family("nano")
    exam = experiment.Exam(nano, "zh")
    found = {label: mixtures.recipes(nano, "zh")[label] for label in ("τ", "τ off the CP vector")}
    table = mixtures.tried(exam, found, [0.25, 1.0, 3.0], 13)
    assert table.model.tolist() == ["τ"] * 3 + ["τ off the CP vector"] * 3 and set(table.n) == {13}
    plain = experiment.at_scale(nano.cp["zh"], nano.chat - nano.base, 1.0)
    replies = exam.ask({"plain": plain}, ["one_turn"], 13, draw="validation")
    assert table.query("model == 'τ' and scale == 1").estimate.item() == replies.correct.mean()
    best = mixtures.at_their_best(exam, found, table)
    assert {label: model.scale for label, model in best.items()} == mixtures.best_scales(table)
    trials = pd.DataFrame({"is_within": [True, False]})
    cost = mixtures.cost(table, trials, 13).set_index("step")
    assert cost.replies.tolist() == [78, 13]
