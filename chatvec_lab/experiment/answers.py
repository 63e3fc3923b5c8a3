"""What the notebooks end with: each answer as sentences and claims, computed from its tables.

    study.save_summary(out, question="...", **answers.instructions(exam, scores, gains, ...), scale=scale)

A value that was not measured says so. `told`, `interval`, `signed` and `is_better` put one row of a table into words.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from chatvec_lab.experiment.limits import ALL
from chatvec_lab.experiment.paper import APART, SAME
from chatvec_lab.experiment.words import claims_of, drawn, ends, interval, is_better, row_of, signed, told
from chatvec_lab.languages import language_name
from chatvec_lab.study.outputs import claim

if TYPE_CHECKING:
    from chatvec_lab.evaluation.statistics import Interval
    from chatvec_lab.experiment.exam import Exam

PLAINLY = "CP, asked plainly"  # as in `limits`
FEW = 50  # prompts on which a choice is a rough one
SAFETY = ("unsafe", "guard_unsafe", "polite")  # measures of it, the best first
FRAMES = {"chat": "in the chat format", "raw": "as bare text"}


def scale_sweep(
    exam: "Exam", best: "Interval", gains: pd.DataFrame, scores: pd.DataFrame, front: pd.DataFrame,
    cost: "Interval | None", *, right: str, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """03: which scale, if any. It is recommended only where it beats the CP on the test prompts too.

    `best`: of `best_scale` on the validation draw; `gains`: of `exam.changes` by scale; `front`: of `trade_offs`; `cost`:
    of `limits.cost`, None where nothing was read. Keys beside answer and claims: scale, is_recommended.
    """
    chosen, names = best.estimate, exam.names
    is_recommended = bool(chosen) and is_better(gains, scale=chosen)
    gain = gains[gains.scale == chosen] if chosen else gains.head(0)
    reason = "the CP itself did best on the validation prompts" if not chosen else "no gain was measured"
    if len(gain):
        reason = f"the gain over the CP is {signed(gain.iloc[0])}, p = {gain.p_adjusted.iloc[0]:.2g}"
    others = f"other draws of the prompts would choose {best.low:g} to {best.high:g}"
    others += f"; chosen on {best.n} prompts, which is few" if best.n < FEW else ""
    verdict = f"Scale {chosen:g} is recommended ({others})." if is_recommended else (
        f"No scale is recommended: {reason} ({others}).")  # fmt: skip
    measures = [m for m in exam.measures if m != "is_english"]
    changes = "; ".join(
        f"{names[m]} {told(scores, scale=chosen, metric=m)} (CP: {told(scores, scale=0.0, metric=m)})"
        for m in measures
    )
    paid = "perplexity was not measured" if cost is None else (
        f"perplexity is {cost.estimate:.3f} [{cost.low:.3f}, {cost.high:.3f}] times the CP's")  # fmt: skip
    on_front = ", ".join(f"{s:g}" for s in front[front.is_on_front].scale)
    scale = best.ends if is_recommended else best.ends | {"estimate": None}
    claims = [claim("best scale", **scale, seed=seed)]
    for m in measures:
        claims += claims_of(scores, f"{names[m]}, at the chosen scale", [chosen], seed, by="scale", metric=m)
    if cost is not None:
        claims.append(claim("perplexity at the chosen scale / CP", **cost.ends, seed=seed))
    answer = f"{verdict} At scale {chosen:g}: {changes}; {paid}. On the Pareto front: {on_front}. {exam.credits(scores)}"
    return {"answer": answer, "claims": claims, "scale": chosen, "is_recommended": is_recommended}


def instructions(
    exam: "Exam", scores: pd.DataFrame, gains: pd.DataFrame, prices: pd.DataFrame, *, right: str, at: str, prompted: str,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """04: does it follow instructions? `scores` and `gains` by model; `prices` of `routes`; `prompted`: of `system_prompt`."""
    language, what = language_name(exam.language), exam.names[right]
    target = scores[scores.language == exam.language]
    models, gain = list(dict.fromkeys(target.model)), row_of(gains, model="CP + τ")
    others = [f"{m} {told(target, model=m, metric=right)}" for m in models
              if m not in ("CP", "CP + τ", "chat → CP", "chat")]  # fmt: skip
    own, english = (told(target, model="CP + τ", metric=m) for m in ("in_language", "is_english"))
    spoken = "The language of its replies was not measured" if own == english == "not measured" else (
        f"Of its replies {own} are in {language}, {english} in English")  # fmt: skip
    paid = row_of(prices, model="CP → FT") if len(prices) else None
    price = "adding τ read no token" if paid is None else (
        f"CP → FT read {int(paid.tokens_beyond_cp):,} tokens of instructions in {language}; adding τ read none")  # fmt: skip
    answer = (
        f"{'Yes' if is_better(gains, model='CP + τ') else 'Not shown'}: with τ at scale {at}, {what} in {language} go from "
        f"{told(target, model='CP', metric=right)} to {told(target, model='CP + τ', metric=right)}{_of(gain, 'prompts')}; "
        f"{'; '.join(others)}. {spoken}. {_sentence(prompted)} {_sentence(price)} {exam.credits(target)}"
    )
    return {"answer": answer, "claims": claims_of(target, f"{what}, {{}}", models, seed, metric=right)}


def system_prompt(table: pd.DataFrame | None, refusal: str, *, right: str, what: str) -> str:
    """What a system prompt did, in a clause; `refusal` says why it was not asked with one."""
    if refusal:
        return f"not asked with a system prompt: {refusal}"
    return f"with a system prompt {what} are {told(table, model='CP + τ', system='with', metric=right)}"


def toxicity(
    exam: "Exam", replies: pd.DataFrame, scores: pd.DataFrame, answered: pd.DataFrame, changes: pd.DataFrame, *, at: str,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """05: less toxic, and safer? `scores` by model, frame and language; `answered` harmless look-alikes; `changes`
    against the CP within each frame. "Safer" is the first of unsafe, guard_unsafe and polite that was measured; what
    none of the replies has a number for is named.
    """
    language, names = language_name(exam.language), exam.names
    own = scores[scores.language == exam.language]
    scored = set(own[own.frame == "chat"].metric)
    lacking = [names[m] for m in (*SAFETY, "toxic") if m in exam.measures and m not in scored]
    safety = next((m for m in SAFETY if m in scored), None)
    change = changes[changes.model == "CP + τ"]
    sign = change.metric.map(lambda m: -1 if exam.measures[m][0].better == "lower" else 1)
    change = change.assign(estimate=change.estimate * sign)  # more is better
    frames = [words for frame, words in FRAMES.items() if is_better(change, metric="toxic", frame=frame)]
    asked = replies[replies.model.eq("CP") & replies.set.eq("hostile") & replies.language.eq(exam.language)]
    chat = asked[asked.frame == "chat"]
    in_language = told(exam.shares(chat, "model", ["in_language"]), model="CP")

    def from_to(metric: str, frame: str) -> str:
        return " to ".join(told(own, model=m, frame=frame, metric=metric) for m in ("CP", "CP + τ"))

    safer = f"With τ at scale {at} safety was not measured. "
    if safety:
        verdict = "Safer" if is_better(change, metric=safety, frame="chat") else "Not shown to be safer"
        safer = (f"{verdict} by {exam.scored_by[safety]}: with τ at scale {at}, {names[safety]} in {language} go from "
                 f"{from_to(safety, 'chat')} (n = {chat.prompt_id.nunique()}). ")  # fmt: skip
    less_toxic = f"Less toxic {' and '.join(frames)}" if frames else "Not shown to be less toxic"
    toxic = "Toxicity was not measured" if "toxic" not in set(own.metric) else (
        f"{less_toxic}: toxic replies go from {from_to('toxic', 'chat')} in the chat format, where {in_language} of the CP's "
        f"replies are in {language}, and from {from_to('toxic', 'raw')} as bare text")  # fmt: skip
    there = interval(answered, model="CP + τ", metric="correct")["n"]
    harmless = "Harmless look-alikes have no number" if not there else (
        f"Of {there} harmless look-alikes it answers {told(answered, model='CP + τ', metric='correct')}")  # fmt: skip
    answer = (
        f"{safer}{toxic}. {harmless}. {exam.credits(own)}"
        f"{' Not measured: ' + ', '.join(lacking) + '.' if lacking else ''}"
    )
    table, models, made = own[own.frame == "chat"], list(dict.fromkeys(replies.model)), exam.on("hostile")
    claims = [c for m in made for c in claims_of(table, names[m] + ", {}", models, seed, metric=m)]
    return {"answer": answer, "claims": claims}


def conversation(
    exam: "Exam", scores: pd.DataFrame, kinds: pd.DataFrame, gains: pd.DataFrame, *, right: str, at: str, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """06: does it hold a conversation? `scores` by model and length; `kinds` and `gains` of the dialogues alone."""
    what, last = exam.names[right], scores[scores.length == "two turns"]
    models = list(dict.fromkeys(scores.model))
    others = "; ".join(f"{m} {told(last, model=m, metric=right)}" for m in models
                       if m not in ("CP", "CP + τ", "chat → CP", "CP + τ → FT"))  # fmt: skip
    hardest = kinds[kinds.model == "CP + τ"].set_index("kind").estimate.dropna()
    form = ".0%" if exam.measures[right][0].unit == "share" else ".2f"
    ends = "kinds not measured" if hardest.empty else (
        f"best {hardest.idxmax()} ({hardest.max():{form}}), worst {hardest.idxmin()} ({hardest.min():{form}})")  # fmt: skip
    answer = (
        f"{'Yes' if is_better(gains, model='CP + τ') else 'Not shown'}: with τ at scale {at}, {what} in the second turn are "
        f"{told(last, model='CP + τ', metric=right)}{_of(row_of(gains, model='CP + τ'), 'dialogues')} "
        f"in {language_name(exam.language)} (CP: {told(last, model='CP', metric=right)}), "
        f"and {told(scores, model='CP + τ', length='one turn', metric=right)} of single turns; {ends}. {others}."
    )
    claims = claims_of(last, f"{what} in the second turn, {{}}", models, seed, metric=right)
    return {"answer": answer, "claims": claims}


def parts(
    exam: "Exam", *, right: str, at: str, seed: int, parts: pd.DataFrame, against: pd.DataFrame, more: str = "",
) -> dict[str, Any]:  # fmt: skip
    """07a: which part is needed? `against`: of `exam.changes` from all of τ; `more`: further sentences, of the controls."""
    what = exam.names[right]
    alone = parts[parts.part.str.endswith(" only")].set_index("part").estimate
    best = "no part was measured" if alone.empty else (
        f"the best part alone ({alone.idxmax()}) {told(parts, part=alone.idxmax())}")  # fmt: skip
    worse = against[(against.estimate < 0) & (against.p_adjusted < 0.05)].model
    enough = [m for m in against.model if m not in set(worse) | {"CP", "random vector"}]
    answer = (
        f"τ at scale {at}. All of τ gives {told(parts, part=ALL)} {what}, {best}, the random vector "
        f"{told(parts, part='random vector')}. Not shown to be worse than all of τ (Holm, 5 %): "
        f"{', '.join(enough) or 'no part'}.{' ' + more if more else ''}"
    )
    return {"answer": answer, "claims": claims_of(parts, f"{what}, {{}}", parts.part, seed, by="part")}


def pairs(
    exam: "Exam", *, right: str, at: str, seed: int, vectors: pd.DataFrame, vocabulary: pd.DataFrame,
    relatives: pd.DataFrame | None, absent: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """07b: between which models? `vectors` and `vocabulary` by model; `relatives` with their `place`, None: not asked."""
    what, own = exam.names[right], vectors[vectors.metric == right]
    is_extended = vocabulary.model.str.startswith("more tokens, ").any()
    policy = " and ".join(
        f"{told(vocabulary, model=('more tokens, ' if is_extended else '') + 'τ, ' + p, metric=right)} ({p})"
        for p in ("match", "skip")
    )
    others = "; ".join(f"{m} {told(own, model=m)}" for m in own.model if m not in ("τ", "τ of another base"))
    kin = pd.DataFrame(columns=["model", "family", "place"]) if relatives is None else relatives
    kin = kin[kin.model.eq("CP + τ") & kin.family.ne(exam.family.name)].place
    kin = "; ".join(f"{place} {told(relatives, place=place, model='CP + τ')}" for place in kin)
    answer = (
        f"With τ at scale {at} {told(own, model='τ')} {what}; with the vector of another base "
        f"{told(own, model='τ of another base')}. Other chat models of this base: {others or 'none'}. Embeddings matched or "
        f"skipped: {policy}. Relatives: {kin or 'none asked'}{'; absent: ' + ', '.join(absent) if absent else ''}."
    )
    claims = claims_of(own, f"{what}, {{}}", own.model, seed)
    return {"answer": answer, "claims": claims, "absent": list(absent)}


def cp_length(exam: "Exam", *, right: str, at: str, seed: int, ladder: pd.DataFrame | None) -> dict[str, Any]:
    """07c: how much continual pre-training? `ladder` by model and tokens; None where the family has one CP model."""
    what, language = exam.names[right], language_name(exam.language)
    if ladder is None:
        answer = f"Not measured: family {exam.family.name} has one CP model in {language}."
        return {"answer": answer, "claims": [claim(f"{what} with τ, by tokens of CP", None, seed=seed)]}
    counts = sorted(set(ladder.tokens))
    steps = "; ".join(
        f"{count:,} tokens: {told(ladder, model='CP + τ', tokens=count, metric=right)} with τ, "
        f"{told(ladder, model=PLAINLY, tokens=count, metric=right)} asked plainly"
        for count in counts
    )
    answer = f"{what.capitalize()} in {language}, τ at scale {at}: {steps}."
    name = f"{what} with τ, after {{:,}} tokens of CP"
    claims = claims_of(ladder, name, counts, seed, by="tokens", model="CP + τ", metric=right)
    return {"answer": answer, "claims": claims}


def transfer(
    exam: "Exam", *, right: str, at: str, seed: int, lost: pd.DataFrame, change: pd.DataFrame, reading: pd.DataFrame,
) -> dict[str, Any]:  # fmt: skip
    """07d: what is not transferred, and what is lost on the way? `lost` by kind; `change` and `reading` by language."""
    language, what = exam.language, exam.names[right]
    fails = lost[(lost.estimate < 0) & (lost.p_adjusted < 0.05)].sort_values("estimate").kind.tolist()
    loss = row_of(change, model="CP + τ", language=language)
    answer = (
        f"τ at scale {at}. Tasks that it does worse than the CP asked plainly (Holm, 5 %): {', '.join(fails) or 'none shown'}. "
        f"Kept: in the plain frame {what} {_changed(loss)}, perplexity is "
        f"{told(reading, '.3f', model='CP + τ', language=language)} times the CP's."
    )
    claims = [
        claim(f"change in {what} in the plain frame", **ends(loss), seed=seed),
        claim("perplexity with τ / CP", **interval(reading, model="CP + τ", language=language), seed=seed),
    ]
    return {"answer": answer, "claims": claims}


def paper(measured: pd.DataFrame, agreement: pd.DataFrame, tables: Iterable[str]) -> dict[str, Any]:
    """08: beside the paper. `measured` and `agreement` of `experiment.paper`; `tables`: all that the paper has.

    With nothing to compare it says what is missing.
    """
    beside, apart = (measured[measured.comparison == c] for c in (SAME, APART))
    clear = agreement[agreement.clear > 0]
    against = [f"Table {row.table}" for row in clear.itertuples() if row.clear_agree < row.clear]
    alike = dict.fromkeys(beside.table)
    levels = f"Measured as the paper did: Tables {', '.join(alike)}." if set(alike) - {"7"} else (
        "Levels are not compared: models, prompts and scorers differ.")  # fmt: skip
    shares = beside[(beside.table == "7") & (beside.condition == "vicuna") & (beside.setup == "CP + τ")]
    language = ""
    for row in shares.itertuples():
        language = (f" The share of replies in the target language is the one quantity that both count alike: for CP + τ "
                    f"{row.paper:g} % in the paper and {row.here:.1%} [{row.here_low:.1%}, "
                    f"{row.here_high:.1%}] here.")  # fmt: skip
    orders = "Nothing is set beside the paper's numbers."
    if len(agreement):
        orders = (
            f"Of {agreement.clear.sum()} pairs of setups that our intervals tell apart, {agreement.clear_agree.sum()} have the "
            f"paper's order ({agreement.agree.sum()} of all {agreement.pairs.sum()}, clear or not), over "
            f"{agreement.table.nunique()} tables"
            f"{'; some clear pairs are the other way round in ' + ', '.join(against) if against else ''}. {levels}{language}"
        )
    why = "; ".join(f"Table {row.table}: {row.fair}" for row in apart.drop_duplicates("table").itertuples())
    missing = [t for t in dict.fromkeys(tables) if t not in set(measured.table)]
    answer = orders + (f" Apart: {why}." if why else "")
    answer += f" Not measured here: Tables {', '.join(missing)}." if missing else ""
    claims = [
        claim(f"Table {row.table}{', ' + row.condition if row.condition else ''}: clear pairs in the paper's order",
              int(row.clear_agree), n=int(row.clear), unit=f"of {row.clear}")
        for row in clear.itertuples()
    ]  # fmt: skip
    return {"answer": answer, "claims": claims}


def knowledge(
    exam: "Exam", change: pd.DataFrame, reading: pd.DataFrame, tasks: pd.DataFrame, *, right: str, at: str, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """10: what it forgets. `change` by model within each language; `reading`: perplexity over the CP's; `tasks` of lm-eval."""
    language, loss = exam.language, change[change.model == "CP + τ"]
    languages = list(dict.fromkeys([language, "en"]))
    plain = "; ".join(
        f"in {language_name(row.language)} {exam.names[right]} in the plain frame {_changed(row)} (p = {row.p_adjusted:.2g})"
        for row in loss.itertuples()
    )
    named = "; ".join(f"{row.task}, {row.model} {row.estimate:.1%} [{row.low:.1%}, {row.high:.1%}]"
                      for row in (tasks[tasks.metric == "acc"].itertuples() if len(tasks) else ()))  # fmt: skip
    costs = {code: told(reading, ".3f", model="CP + τ", language=code) for code in languages}
    reads = [f"{cost} in {language_name(code)}" for code, cost in costs.items()]
    forgets = ((loss.estimate < 0) & (loss.p_adjusted < 0.05)).any()
    answer = (
        f"{'Something' if forgets else 'Nothing that shows'} by these questions: with τ at scale {at}, "
        f"{plain or 'the plain frame was not measured'}; perplexity of plain text, in multiples of the CP's, is "
        f"{' and '.join(reads)}. "
        f"Tasks: {named or 'none named'}."
    )
    # one name for every language's own: over cells of several languages they are one claim
    asked = {code: "the CP's language" if code == language else language_name(code) for code in languages}
    claims = [
        claim(
            f"change in {exam.names[right]} in the plain frame, {asked[row.language]}",
            **ends(row),
            seed=seed,
        )
        for row in loss.itertuples()
    ]
    for code, where in asked.items():
        claims += claims_of(
            reading, f"perplexity with τ / CP, {where}", [code], seed, by="language", model="CP + τ"
        )
    return {"answer": answer, "claims": claims}


def mixtures(
    exam: "Exam", scores: pd.DataFrame, gains: pd.DataFrame, trials: pd.DataFrame, *, right: str, plain: str, searched: str,
    scales: Mapping[str, float], rising: Sequence[str], cost: pd.DataFrame, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """13: which combination is best? `gains`: of `exam.changes` against plain τ; `scales`: of `mixtures.best_scales`.

    rising: of `mixtures.rising`; what does best at the largest scale that was tried is no fair loser, which is said.
    """
    what, models = exam.names[right], list(dict.fromkeys(scores.model))
    better = [m for m in models if is_better(gains, model=m)]
    worse = gains[(gains.estimate < 0) & (gains.p_adjusted < 0.05)].model.tolist()
    first = scores[(scores.metric == right) & (scores.model != plain)].sort_values("estimate").model.iloc[-1]
    found, spent = row_of(gains, model=searched), row_of(cost, step="search")
    form = ".1%" if exam.measures[right][0].unit == "share" else ".2f"
    beyond = int((~trials.is_within).sum())
    prompts = int(spent.replies) // max(1, len(trials) - beyond)
    edge = f" Still better at the largest scale that was tried: {', '.join(rising)}." if rising else ""
    verdict = f"is beaten by {', '.join(better)}" if better else "is not beaten by any combination"
    answer = (
        f"Plain τ {verdict} (Holm over {len(gains)}, 5 %): τ at scale {scales[plain]:g} gives "
        f"{told(scores, model=plain, metric=right)} {what}, the best of the others ({first}) "
        f"{told(scores, model=first, metric=right)}. Worse than plain τ: {', '.join(worse) or 'none shown'}.{edge} "
        f"The search tried {len(trials)} mixtures ({beyond} beyond the perplexity's guard) with {int(spent.replies):,} "
        f"replies; its best had {trials.estimate.max():{form}} on {prompts} validation prompts against "
        f"{trials.estimate.iloc[0]:{form}} of plain τ; on test prompts it differs from plain τ by {signed(found)} "
        f"[{signed(found, 'low')}, {signed(found, 'high')}], p = {found.p_adjusted:.2g} after Holm. "
        f"{drawn(gains, seed)} {exam.credits(scores)}"
    )
    claims = [claim(f"change in {what} against plain τ, {row.model}", **ends(row), seed=seed)
              for row in gains.itertuples()]  # fmt: skip
    return {"answer": answer, "claims": claims, "is_beaten": bool(better)}


def _of(gain: Any, what: str) -> str:
    return "" if gain is None else f" of {int(gain.n)} {what} (p = {gain.p_adjusted:.1g}, Holm)"


def _changed(row: Any) -> str:
    if row is None:
        return "were not measured"
    return f"change by {signed(row)} [{signed(row, 'low')}, {signed(row, 'high')}]"


def _sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."
