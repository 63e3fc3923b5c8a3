"""What a study will need, before it runs: memory, disk, replies, judge's requests and what they cost.

Upper bounds from the parameters alone: a prompt set may hold fewer prompts than are asked for, and what was asked
before is not asked again. Nothing is loaded and nothing is asked.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from chatvec_lab.experiment.mixtures import further

if TYPE_CHECKING:
    from chatvec_lab.families import Family
    from chatvec_lab.study import Cell

READ, WRITTEN = 900, 200  # tokens of a judge's question and of its answer, about
SPEED = 1000  # tokens that a GPU writes in a second, in batches, about
_LOADS = (
    "01",
    "03",
    "04",
    "05",
    "06",
    "07a",
    "07b",
    "07c",
    "07d",
    "09",
    "10",
    "11",
    "12",
    "13",
    "14",
)  # the notebooks that hold a model in memory
CONTROLS = 48  # of a model of some 40 layers, each of which is one


def replies_of(notebook: str, values: Mapping[str, Any], models: int) -> Counter:
    """Replies that a cell asks for, at most, by prompt set; "bare" are hostile prompts as text to continue."""
    n, scales = values.get("n", 0), len(values.get("scales", ()))
    controls = CONTROLS if values.get("has_controls") else 0
    relatives = len(values.get("families", ()))
    tried = values.get("at_scales", ())
    chosen = values.get("validation_n", 0) * (10 * len([*tried, *further(tried)]) + values.get("trials", 0))
    sampled = n * values.get("samples", 0) * (scales + len(values.get("steps", ())) + 1)
    found: dict[str, dict[str, int]] = {
        "03": {"one_turn": (n + values.get("validation_n", 0)) * scales, "hostile": n * scales},
        "04": {"one_turn": n * models * (2 + bool(values.get("system")))},
        "05": {"hostile": n * models, "harmless": n * models, "bare": n * (models + 3)},
        "06": {"one_turn": n * models, "two_turn": n * models},
        "07a": {"one_turn": n * (13 + controls), "hostile": n * controls},
        "07b": {"one_turn": n * (14 + (relatives and 4 * (relatives + 1)))},
        "07c": {"one_turn": n * 16},
        "07d": {"one_turn": n * 8, "two_turn": n * 2},
        "10": {"one_turn": n * 2 * min(models, 4)},
        "11": {"one_turn": n * 2},
        "12": {"one_turn": n},
        "13": {"one_turn": chosen + n * 11},
        "14": {"one_turn": sampled},
    }
    return Counter(found.get(_number(notebook), {}))


def _number(notebook: str) -> str:
    """ "07a" of "07a_parts"."""
    return notebook.partition("_")[0]


def requests_of(scorers: Iterable[str], replies: Counter) -> Counter:
    """Requests to judges and endpoints, at most, by scorer's name."""
    one, two = replies["one_turn"], replies["two_turn"]
    hostile = replies["hostile"] + replies["bare"]
    each = {"judge:paper": one, "judge:mt-bench": one + two, "judge:pair": 2 * (one + two), "safety:judge": hostile,
            "toxicity:perspective": hostile, "toxicity:moderation": hostile}  # fmt: skip
    scorers = list(scorers)
    found = Counter({name: each[name] for name in scorers if each.get(name)})
    toxicity = next((name for name in found if name.startswith("toxicity:")), None)
    if toxicity and "answers" in scorers:  # which asks it of harmless replies, too
        found[toxicity] += replies["harmless"]
    return found


def page(family: "Family", cells: "Iterable[Cell]") -> str:
    """The needs of these cells, a line each; '' for a family so small that nothing needs to be said."""
    asked, requests, judged, longest = Counter(), Counter(), Counter(), 0
    cells = list(cells)
    for cell in cells:
        values = cell.parameters
        language = values.get("language") or next(iter(family.languages))
        trained = [
            m for m in ("cp_ft", "chat_cp", "chat_cp_ft", "cp_tau_ft") if f"{m}_{language}" in family.others
        ]
        replies = replies_of(cell.notebook, values, 4 + len(trained) + ("cp_ft" in trained))
        asked += replies
        services = values.get("services") or {}
        for name, count in requests_of(values.get("scorers") or (), replies).items():
            requests[name] += count
            own = services.get("safety_price") if name == "safety:judge" else None
            if not name.startswith("toxicity"):
                judged[own or services.get("judge_price", "")] += count
        longest = max(longest, int((values.get("prompts") or {}).get("max_tokens", 256)))
    lines = _machine(family, cells) if any(facts.get("parameters") for facts in family.facts.values()) else []
    if lines and (total := asked.total()):
        hours = total * longest / SPEED / 3600
        told = f"replies: {total:,} at most, of {longest} tokens at most"
        lines.append(f"{told}; some {hours:.1f} hours at {SPEED:,} tokens a second")
    if requests:
        told = ", ".join(f"{name} {count:,}" for name, count in requests.items())
        lines.append(f"requests to judges and endpoints, at most: {told}")
        lines += [_cost(judged)] if judged else []
    lines += _lacking(cells)
    return "\n".join(lines)


def _machine(family: "Family", cells: "list[Cell]") -> list[str]:
    most = max(int(float(facts.get("parameters") or 0)) for facts in family.facts.values())
    size = 2 * most / 1e9  # GB of one model in 16 bits
    lines = []
    if any(
        cell.parameters.get("speaker", "memory") == "memory" and _number(cell.notebook) in _LOADS
        for cell in cells
    ):
        one = f"{size:.0f} GB of a GPU (or {2 * size:.0f} GB without one, in float32)"
        turned = (
            f"{size:.0f} GB more while a scale is turned ({3 * size:.0f} where τ is quantised or transformed)"
        )
        lines.append(f"memory: {one} for one model of {most / 1e9:.1f} G parameters, and {turned}")
    lens = [cell for cell in cells if _number(cell.notebook) in ("11", "12")]
    if lens:
        is_wide = any(_number(c.notebook) == "12" or c.parameters.get("dtype") == "float32" for c in lens)
        kept = f"{6 * size:.0f} GB of the machine for what they are made of"
        told = f"{(4 if is_wide else 2) * size:.0f} GB{' in float32' if is_wide else ''}, and {kept}"
        lines.append(f"memory to look inside (11, 12): two live models, CP + τ and a random vector: {told}")
    members = len(family.members)
    merged = sum(size for cell in cells if cell.notebook.startswith("01"))
    saved = f"{merged:.0f} GB for merged models that are saved"
    lines.append(f"disk: {members * size:.0f} GB for the {members} members, {saved}")
    return lines


def _lacking(cells: "list[Cell]") -> list[str]:
    """What the named scorers would be refused for here and now, such as a key that is not in the environment."""
    from chatvec_lab.evaluation.scorers.named import choose

    found = {}
    for cell in cells:
        named = cell.parameters.get("scorers") or ()
        names = [name for name in named if not name.endswith(".py") and name != "world"]
        names += [f"knowledge:{task}" for task in cell.parameters.get("tasks") or ()]
        try:
            choose(names, cell.parameters.get("services"))
        except (ValueError, PermissionError, FileNotFoundError, ImportError) as error:
            found.setdefault(str(error), cell.notebook)
    return [f"lacking, in this environment: {told} ({notebook})" for told, notebook in found.items()]


def _cost(judged: Counter) -> str:
    """What so many questions cost, by the price of their judge; "" is a price that is not told."""
    every = judged.total()
    tokens = (
        f"some {every * READ / 1e6:.2g} M tokens read and {every * WRITTEN / 1e6:.2g} M written by the judge"
    )
    if "" in judged:
        return f"{tokens}; for its cost give services: judge_price, such as 2.5/10"
    prices = [(count, *map(float, price.split("/"))) for price, count in judged.items()]
    dollars = sum(count * (READ * read + WRITTEN * written) for count, read, written in prices) / 1e6
    return f"{tokens}: about ${dollars:,.{0 if dollars >= 10 else 2}f}"
