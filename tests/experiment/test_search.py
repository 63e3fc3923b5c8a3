"""The search keeps each trial by content, goes on after a kill with the same trials, and starts from plain τ."""

import json
import os
import subprocess
import sys
from itertools import count

import pandas as pd
import pytest

from chatvec_lab import experiment, load_family
from chatvec_lab.experiment import limits, search
from chatvec_lab.paths import ROOT

ASK = {"start": 1.0, "trials": 4, "n": 13, "texts": 1, "seed": 3}


@pytest.fixture(scope="module")
def nano():
    return load_family("nano")


@pytest.fixture(scope="module")
def exam(nano):
    return experiment.Exam(nano, "zh")


@pytest.fixture(scope="module")
def vectors(nano):
    several = limits.vectors(nano)
    return {label: several[label] for label in list(several)[:2]}


@pytest.fixture(scope="module")
def whole(exam, vectors, tmp_path_factory):
    """The trials of a search that nothing disturbed, and what it kept."""
    keep = tmp_path_factory.mktemp("whole")
    return search.search(exam, vectors, keep=keep, **ASK), keep


def same(one, other):
    drop = ["is_kept"]
    pd.testing.assert_frame_equal(one.drop(columns=drop), other.drop(columns=drop), check_exact=True)


def test_the_first_trial_is_plain_tau_and_the_rest_lie_in_the_range(whole, vectors, exam, nano):
    trials, _ = whole
    space = search.parameters(vectors)
    assert list(space)[-1] == list(vectors)[1]
    assert set(list(space)[:-1]) == {f"τ, {group}" for group in ("attention", "MLP", "norms", "embeddings")}
    assert trials.loc[0, list(space)].tolist() == [1.0] * 4 + [0.0]
    for name, (low, high) in space.items():
        assert trials[name].between(low, high).all()
    plain = experiment.at_scale(nano.cp["zh"], nano.chat - nano.base, 1.0)
    replies = exam.ask({"plain": plain}, ["one_turn"], 13, draw="validation")
    assert trials.estimate[0] == replies.correct.mean(), "the mixture (1, 1, 1, 1, 0) is plain τ"
    costs = exam.read({"CP": nano.cp["zh"], "plain": plain}, 1).set_index("model")
    ratio = 2.718281828459045 ** ((costs.nats["plain"] - costs.nats["CP"]) / costs.tokens["CP"])
    assert trials.perplexity[0] == pytest.approx(ratio, rel=1e-5)


def test_a_search_stopped_anywhere_goes_on_with_the_same_trials(exam, vectors, whole, tmp_path, monkeypatch):
    trials, kept = whole
    whole_file, written = search.write_whole, count()

    def stopping(file, write):
        if next(written) % 2:  # every second piece is lost before it is written
            raise KeyboardInterrupt
        whole_file(file, write)

    monkeypatch.setattr(search, "write_whole", stopping)
    stops = 0
    while True:
        try:
            resumed = search.search(exam, vectors, keep=tmp_path, **ASK)
            break
        except KeyboardInterrupt:
            stops += 1
    same(resumed, trials)
    assert stops >= 3 and not list(tmp_path.glob(".*"))
    assert {f.name for f in tmp_path.glob("*.json")} == {f.name for f in kept.glob("*.json")}, "by content"


def test_what_is_kept_is_read_back_and_its_cost_told(exam, vectors, whole, monkeypatch):
    trials, kept = whole
    monkeypatch.setattr(experiment.Exam, "ask", None)
    monkeypatch.setattr(experiment.Exam, "read", None)
    again = search.search(exam, vectors, keep=kept, **ASK)
    same(again, trials)
    assert again.is_kept.all() and not trials.is_kept.any()
    line = search.course(again).query("what == 'the best so far'").estimate
    assert line.tolist() == trials.estimate.cummax().ffill().tolist()


def test_beyond_the_guard_nothing_is_asked(exam, vectors, monkeypatch):
    monkeypatch.setattr(search._Trier, "perplexity", lambda self, model: {"nats": next(nats), "tokens": 10})
    monkeypatch.setattr(search._Trier, "score", lambda self, model: {"estimate": 0.25})
    nats = iter([10.0, 10.0, 20.0, 10.5])
    trials = search.search(exam, vectors, **(ASK | {"trials": 3}), guard=1.1)
    assert trials.is_within.tolist() == [True, False, True] and trials.estimate.isna().tolist()[1]
    assert trials.value.tolist() == pytest.approx([0.25, -2.718281828459045, 0.25])
    assert search.best(trials, vectors)["τ, MLP"] == 1.0, "of equals the first"
    nats = iter([10.0, 13.0, 20.0, 12.9])  # plain τ is beyond the guard: what it costs itself is allowed
    plain = search.search(exam, vectors, **(ASK | {"trials": 3}), guard=1.1)
    assert plain.is_within.tolist() == [True, False, True]
    with pytest.raises(ValueError, match="none of 3 trials is within"):
        search.best(trials.assign(is_within=False), vectors)


def test_what_makes_no_sense_is_refused(exam, vectors, monkeypatch):
    with pytest.raises(ValueError, match=r"guard=0\.5"):
        search.search(exam, vectors, **ASK, guard=0.5)
    for start in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="start="):
            search.search(exam, vectors, **(ASK | {"start": start}))
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match="pip install optuna"):
        search.search(exam, vectors, **ASK)


KILLED = """
import os, sys
from chatvec_lab import experiment, load_family
from chatvec_lab.experiment import limits, search

nano = load_family("nano")
vectors = dict(list(limits.vectors(nano).items())[:2])
write, left = search.write_whole, [int(sys.argv[2])]

def writing(file, fill):
    write(file, fill)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), 9)

search.write_whole = writing
search.search(experiment.Exam(nano, "zh"), vectors, keep=sys.argv[1], **eval(sys.argv[3]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_killed_process_leaves_whole_trials(exam, vectors, whole, tmp_path, after):
    arguments = [sys.executable, "-c", KILLED, str(tmp_path), str(after), repr(ASK)]
    killed = subprocess.run(arguments, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert killed.returncode == -9
    assert len([json.loads(f.read_text()) for f in tmp_path.glob("*.json")]) == after
    same(search.search(exam, vectors, keep=tmp_path, **ASK), whole[0])
