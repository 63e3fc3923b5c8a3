"""Controls: what is changed is what they say, the model is put back, and the strongest is chosen."""

import pandas as pd
import pytest
import torch

from chatvec_lab import experiment, load_family
from chatvec_lab.experiment import controls
from chatvec_lab.experiment.models import Changed, at_scale, loaded
from chatvec_lab.experiment.replies import recipe
from chatvec_lab.nano import parts, world


@pytest.fixture(scope="module")
def nano():
    torch.set_num_threads(1)
    return load_family("nano")


@pytest.fixture(scope="module")
def bare(nano):
    return at_scale(nano.cp["zh"], nano.chat - nano.base, 0)


@pytest.fixture(scope="module")
def renamings(nano):
    return controls.renamings(nano, "zh", tokens=[" Q", ":", " A", "\n", ".", "。", " dog", "狗", "說", "你"])


def test_the_markers_are_what_the_chat_format_adds(nano):
    assert controls.marker_tokens(nano.chat) == ["<s>", world.USER, world.ASSISTANT, "\n"]


def test_marker_rows_and_the_rest_add_up(nano):
    vectors, tau = controls.vectors(nano), nano.chat - nano.base
    rows = vectors[controls.MARKERS].read("model.embed_tokens.weight")
    assert not rows.any(), "tuning leaves the embeddings alone"
    full = load_family("nano")["chat_full"] - nano.base
    ids = nano.chat.tokenizer.convert_tokens_to_ids([world.USER, world.ASSISTANT])
    moved = full.at_tokens([world.USER, world.ASSISTANT]).read("model.embed_tokens.weight").any(1)
    assert sorted(ids) == moved.nonzero().flatten().tolist()
    for name in tau.names:
        parts = [vectors[label].read(name).double() for label in (controls.MARKERS, controls.WITHOUT)]
        assert torch.equal(sum(parts), tau.read(name).double())
        layers = [vectors[f"layer {i} alone"].read(name).double() for i in range(4)]
        if ".layers." in name:
            assert torch.equal(sum(layers), tau.read(name).double())


def test_a_renaming_copies_rows_and_puts_them_back(bare):
    change = controls.Renaming(((world.USER, " Q"), (world.ASSISTANT, ":")))
    with loaded(bare) as (model, tokenizer):
        table = model.get_input_embeddings().weight
        before = table.detach().clone()
        to, of = (tokenizer.convert_tokens_to_ids(list(side)) for side in zip(*change.rows, strict=True))
        with change.made(model, tokenizer):
            assert torch.equal(table[to], before[of])
            same = torch.ones(len(table), dtype=bool).index_fill(0, torch.tensor(to), False)
            assert torch.equal(table[same], before[same])
        assert torch.equal(table, before)
        with pytest.raises(RuntimeError, match="out"), change.made(model, tokenizer):
            raise RuntimeError("out")
        assert torch.equal(table, before)
    with loaded(Changed(bare, change)) as (model, _):
        assert torch.equal(model.get_input_embeddings().weight[to], before[of])


def test_the_renamings_are_different_and_none_has_the_form(nano, bare, renamings):
    """No name of the frame that the CP knows brings chat's form: it is right with none of them."""
    assert len(set(renamings)) == len(renamings) == 8
    asked = experiment.Exam(nano, "zh").ask(
        {str(r): Changed(bare, r) for r in renamings[:3]}, ["one_turn"], 26
    )
    assert asked.groupby("model").correct.mean().max() <= 0.15


@pytest.mark.slow
def test_the_search_among_all_rows_finds_at_least_as_likely_a_renaming(nano, bare, renamings):
    best = controls.renamings(nano, "zh")[0]
    with loaded(bare) as (model, tokenizer):
        likely = controls._Likelihood(model, tokenizer, controls._prompts(tokenizer, nano, "zh", 78))
        assert likely.cost(best) <= likely.cost(renamings[0]) + 1e-6


def test_the_likelier_renaming_is_ranked_first(nano, bare, renamings):
    """Nats against a plain loop over the prompts."""
    with loaded(bare) as (model, tokenizer):
        texts = controls._prompts(tokenizer, nano, "zh", 26)
        likely = controls._Likelihood(model, tokenizer, texts)
        good, bad = renamings[0], controls.Renaming(((world.USER, "."),))
        for change in (good, bad):
            nats = 0.0
            with change.made(model, tokenizer), torch.inference_mode():
                for ids, start in texts:
                    log = model(torch.tensor([ids])).logits[0].log_softmax(-1)
                    nats -= sum(log[i - 1, ids[i]].item() for i in range(start, len(ids)))
            assert likely.cost(change) == pytest.approx(nats / len(texts), rel=1e-3)
        assert likely.ranked([bad, good, bad]) == [good, bad]


def test_constants_bring_the_mean_of_every_layer_to_that_of_the_sum(nano, bare):
    found = controls.steerings(nano, "zh", 1.0, n=26)
    assert len(found) == 2 * (1 + 4) and len({str(s) for s in found}) == 10
    tau = nano.chat - nano.base
    with loaded(bare) as (plain, tokenizer), loaded(at_scale(nano.cp["zh"], tau, 1.0)) as (merged, _):
        texts = controls._prompts(tokenizer, nano, "zh", 26)
        for steering in (found[0], found[5]):
            where = str(steering).removeprefix("all layers, mean of ")
            wanted, before = controls._means(merged, texts, where), controls._means(plain, texts, where)
            with steering.made(plain, tokenizer):
                assert torch.allclose(controls._means(plain, texts, where), wanted, atol=1e-3)
            assert torch.equal(controls._means(plain, texts, where), before)  # the hooks are gone
            assert not torch.allclose(before, wanted, atol=1e-2)
        alone = found[2]
        assert alone.vectors.any(1).tolist() == [False, True, False, False]


def test_kept_replies_tell_the_changes_apart(nano, bare, tmp_path):
    changes = [
        controls.Renaming(((world.USER, " Q"), (world.ASSISTANT, ":"))),
        controls.Renaming(((world.USER, "."), (world.ASSISTANT, "."))),
        controls.Steering(torch.zeros(4, 128), "nothing"),
    ]
    models = {"CP": bare} | {i: Changed(bare, change) for i, change in enumerate(changes)}
    assert len({str(recipe(model)) for model in models.values()}) == 4
    exam = experiment.Exam(nano, "zh", keep=tmp_path)
    first, again = (exam.ask(models, ["one_turn"], 26) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    content = first.groupby("model", sort=False).content.mean()
    assert content[0] > content[1], "the plain frame has more of the answers than full stops have"
    replies = first.pivot(index="prompt_id", columns="model", values="response")
    assert (replies[2] == replies["CP"]).all() and (replies[0] != replies["CP"]).any()


def test_the_best_candidate_is_chosen_on_the_validation_draw(nano, bare, renamings):
    exam, tau = experiment.Exam(nano, "zh"), nano.chat - nano.base
    candidates = {"CP": bare, "sum": at_scale(nano.cp["zh"], tau, 1.0), "again": bare}
    assert controls.best(exam, candidates, 26) is candidates["sum"]


def test_shares_of_the_gain_by_hand():
    values = {"CP": 0.1, controls.WHOLE: 0.9, "a": 0.5, "b": 0.7, "c": 0.0, "CP, asked plainly": 1.0}
    scores = pd.DataFrame({"model": list(values), "estimate": list(values.values()), "metric": "correct"})
    assert controls.gains(scores, "correct").round(6).to_dict() == {"a": 0.5, "b": 0.75, "c": -0.125}
    assert "has b (75%):" in controls.verdict(scores, "correct")
    few = scores[scores.model.isin(["CP", controls.WHOLE, "a"])]
    assert controls.verdict(few, "correct").startswith(
        "No control has more than half of the gain; the most has a (50%)"
    )
    content = scores.assign(metric="content", estimate=scores.estimate.where(scores.model.ne("a"), 0.85))
    both = controls.verdicts(pd.concat([scores, content]), "correct")
    assert (
        both.startswith(controls.verdict(scores, "correct")) and "Right in any form: More than half" in both
    )
    assert controls.verdicts(scores, "correct") == controls.verdict(scores, "correct")
    none = scores.assign(estimate=0.1)
    assert controls.verdict(none, "correct") == "CP + τ has no gain that a control could share."


def test_all_controls_are_asked_in_their_frames(nano, monkeypatch):
    monkeypatch.setattr(
        controls, "renamings", lambda *a: [controls.Renaming(((world.USER, " Q"), (world.ASSISTANT, ":")))]
    )
    monkeypatch.setattr(controls, "steerings", lambda *a: [controls.Steering(torch.zeros(4, 128), "nothing")])
    exam = experiment.Exam(nano, "zh")
    replies = controls.ask(exam, 1.0, ["one_turn"], 26)
    assert list(replies.model.unique()) == ["CP", controls.WHOLE, *controls.vectors(nano), controls.RENAMED,
                                            controls.CONSTANT, *controls.PLAIN]  # fmt: skip
    assert replies.groupby("model").frame.first()[list(controls.PLAIN)].tolist() == ["qa", "qa_examples"]
    right = replies.groupby("model").correct.mean()
    assert right["CP"] == right[controls.CONSTANT] == 0 < 0.5 < right[controls.WHOLE]
    assert controls.gains(exam.shares(replies, "model"), "correct").index[0] == controls.MARKERS


def test_three_examples_come_before_the_question_in_either_frame():
    from chatvec_lab.nano.evaluation import put

    prompt = parts.held_out_prompts("zh", 26)[0]
    (plain,), (chat,) = put(prompt, "zh", "qa_examples"), put(prompt, "zh", "examples")
    asked = prompt.exchange.user[0]
    assert plain.endswith(f"Q:{asked}\nA:") and plain.count("Q:") == plain.count("A:") == 4
    assert chat.endswith(f"{world.USER}{asked}{world.ASSISTANT}")
    assert plain.replace("Q:", world.USER).replace("\nA:", world.ASSISTANT) == chat
