"""Replies kept by content: the recipe of the weights, the prompt, the decoding. What was asked once is read back.

`FOLDER/KEY/PART.jsonl`: KEY is the digest of weights, decoding and the code that decides a reply, PART that of
the prompts which were asked together. A part appears whole, by one rename, and two processes that ask the same
write the same bytes: no lock is needed, and none would do on a cluster's disk.
"""

import contextlib
import dataclasses
import datetime
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatvec_lab.evaluation.asking.generation import respond
from chatvec_lab.evaluation.asking.http import Endpoint
from chatvec_lab.evaluation.asking.responses import conversations, responses_table, write_whole
from chatvec_lab.evaluation.asking.served import respond_served
from chatvec_lab.experiment import models
from chatvec_lab.experiment.models import At, Changed, Mix, loaded
from chatvec_lab.study import fingerprint, modules

if TYPE_CHECKING:
    import pandas as pd

    from chatvec_lab.weights.checkpoint import Checkpoint


def kept(out: str | Path) -> Path:
    """The folder of the replies that the cells of a study, or the notebooks in JupyterLab, share; else inside `out`."""
    out = Path(out)
    if out.parent.parent.name == "cells":
        return out.parents[2] / "replies"
    return (out.parent if out.parent.name == "interactive" else out) / "replies"


class InMemory:
    """One model that replies, from what is kept if it can; loaded at the first reply that is not.

    model: a checkpoint, merged or not, or a live model (`At`, `Mix`). keep: folder of kept replies, None for none.
    loaded: (model, tokenizer) of transformers in its place, where they are in memory already; nothing is kept.
    `asked` and `read` count conversations since the start. Use it in a `with` block.
    """

    def __init__(
        self,
        model: "Checkpoint | At | Mix | None",
        keep: str | Path | None = None,
        *,
        loaded: tuple | None = None,
    ):
        self.model, self.keep = model, None if keep is None else Path(keep)
        self.asked = self.read = 0
        self._context, self._loaded = None, loaded

    def __enter__(self) -> "InMemory":
        return self

    def __exit__(self, *problem: Any) -> None:
        if self._context is not None:
            self._context.__exit__(*problem)
        self._context = self._loaded = None

    @property
    def loaded(self) -> tuple:
        """(model, tokenizer) of transformers."""
        if self._loaded is None:
            self._context = loaded(self.model)
            self._loaded = self._context.__enter__()
        return self._loaded

    @property
    def tokenizer(self) -> Any:
        """The tokenizer alone, without a weight."""
        if self._loaded is not None:
            return self._loaded[1]
        return (self.model.checkpoint if isinstance(self.model, At | Mix | Changed) else self.model).tokenizer

    def reply(self, prompts: "pd.DataFrame | list[dict]", **settings: Any) -> "pd.DataFrame":
        """What `generation.respond(prompts, **settings)` gives; only what is not kept is generated."""
        return self.replies([prompts], **settings)[0]

    def replies(self, sets: "Sequence[pd.DataFrame | list[dict]]", **settings: Any) -> "list[pd.DataFrame]":
        """The replies to each set of prompts, as `reply` gives them.

        What is missing of a set is generated together, so ask whole sets and the batches repeat. In float32, where a
        reply does not depend on its batch, all sets are generated together, which is faster.
        """
        import torch

        sets = [conversations(prompts) for prompts in sets]
        ids = [[fingerprint.digest(list(talk)) for talk in talks] for talks in sets]
        folder = self.keep and self.keep / self._key(settings)
        found = _read(folder) if folder else {}
        missing = [
            {name: talk for name, talk in zip(names, talks, strict=True) if name not in found}
            for names, talks in zip(ids, sets, strict=True)
        ]
        if any(missing) and getattr(self.loaded[0], "dtype", None) == torch.float32:
            missing = [{name: talk for part in missing for name, talk in part.items()}]
        before = len(found)
        for part in missing:
            if left := {name: talk for name, talk in part.items() if name not in found}:
                fresh = self._generate(left, settings)
                if folder:
                    _write(folder, fresh)
                found |= fresh
        self.asked += len(found) - before
        self.read += sum(map(len, sets)) - (len(found) - before)
        return [
            responses_table([dict(row) for name in names for row in found[name]], talks)
            for names, talks in zip(ids, sets, strict=True)
        ]

    def _generate(self, talks: dict[str, Any], settings: dict[str, Any]) -> dict[str, list[dict]]:
        """The rows of each conversation, by its digest."""
        # each a set of its own meanwhile: two sets may call different prompts alike
        asked = [{**talk._asdict(), "turns": list(talk.turns), "set": name} for name, talk in talks.items()]
        dated = {"template_date": _date(self.keep)} if settings.get("template", "chat") == "chat" else {}
        replies = respond(*self.loaded, asked, progress=False, **dated, **settings)
        said: dict[str, list[dict]] = {name: [] for name in talks}
        for row in json.loads(replies.to_json(orient="records")):
            said[row["set"]].append(row | {"set": talks[row["set"]].set})
        return said

    def _key(self, settings: dict[str, Any]) -> str:
        import torch

        if isinstance(self.model, At | Mix):
            held = self.model.live.model
            where = [held.device.type, str(held.dtype).removeprefix("torch.")]
        else:
            stored = self.model.checkpoint if isinstance(self.model, Changed) else self.model
            where = ["cuda" if torch.cuda.is_available() else "cpu", stored.dtype_name(stored.names[0])]
        return fingerprint.digest(recipe(self.model), settings, where, _code())[:24]


class Served:
    """A model behind an OpenAI-compatible server; its replies are kept as they come. Nothing is loaded here.

    The server's tokens are not ours to count, so that those of a thought are missing.
    """

    loaded = tokenizer = None

    def __init__(self, url: str, name: str, keep: Path | None = None, *, timeout: float = 120):
        self.url, self.name, self.keep, self.timeout = url, name, keep, timeout

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *problem: Any) -> None:
        pass

    def replies(self, sets: "Sequence[pd.DataFrame | list[dict]]", **settings: Any) -> "list[pd.DataFrame]":
        """The replies to each set of prompts, as `reply` gives them."""
        return [self.reply(prompts, **settings) for prompts in sets]

    def reply(self, prompts: "pd.DataFrame | list[dict]", **settings: Any) -> "pd.DataFrame":
        """What `respond_served` gives, with the answers that could not be had missing."""
        settings.pop("batch_size", None)
        out = self.keep and self.keep / "served"
        endpoint = Endpoint(self.url, timeout=self.timeout)
        return respond_served(endpoint, self.name, prompts, out=out, progress=False, **settings)


def speaker_for(
    speaker: str, served: Mapping[str, str], keep: Path | None, *, timeout: float = 120
) -> Callable[[object, Any], Any]:
    """A function (label, model) -> what replies in its place: the model itself, or the server's model of that label.

    A pair (model, tokenizer) of transformers is asked as it stands, and its replies are not kept.

    speaker: "memory", or "served:URL", which has `timeout` seconds for a reply. Raises ValueError for another one, and for
    names of models without a server.
    """
    kind, _, url = speaker.partition(":")
    if (kind, url) == ("memory", ""):
        if served:
            raise ValueError(
                f"served={dict(served)!r} names a server's models; say which: speaker='served:URL'"
            )
        return lambda label, model: (
            InMemory(None, loaded=model) if type(model) is tuple else InMemory(model, keep)
        )
    if kind != "served" or not url:
        raise ValueError(
            f"speaker={speaker!r}: 'memory' or 'served:URL', such as served:http://127.0.0.1:8000/v1"
        )
    Endpoint(url)  # an address that is none is told now

    def named(label: object, model: Any) -> Served:
        name = served.get(f"{label:g}" if isinstance(label, float) else str(label))
        if name is None:
            raise ValueError(f"served: which of the server's models is {label!r}? There are names for "
                             f"{', '.join(served) or 'none'}.")  # fmt: skip
        return Served(url, name, keep, timeout=timeout)

    return named


def recipe(model: "Checkpoint | At | Mix | Changed") -> list:
    """What a model's replies depend on, as plain data: the content of its files, and what is added to what."""
    from chatvec_lab.weights.merged import MergedCheckpoint

    if isinstance(model, Changed):
        return [model.change.describe(), recipe(model.checkpoint)]
    if isinstance(model, At | Mix):
        model = model.checkpoint
    if not isinstance(model, MergedCheckpoint):
        return [fingerprint.path(model.path)]
    options = [model.policy, model.copy_special, model.add_tokens]
    vector = json.loads(json.dumps(model.vector.describe(), default=dataclasses.asdict))
    return [*options, vector, recipe(model.cp), *(recipe(source) for source in model.vector.sources())]


@functools.cache
def _code() -> str:
    """One digest of the code that decides a reply; comments and docstrings do not count (see `study.modules`)."""
    own = [Path(file).read_text("utf-8") for file in (models.__file__, __file__)]
    return fingerprint.digest([modules.meaning(text) for text in own], modules.digest(fingerprint.DECIDES))


def _date(keep: Path | None) -> str | None:
    """The day that templates are given in all of a run's replies: the first that asked; None where none are kept."""
    if keep is None:
        return None
    file = keep / "date.txt"
    if not file.is_file():
        keep.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError), file.open("x") as new:  # another process may be as early
            new.write(datetime.date.today().isoformat())
    return file.read_text().strip() or datetime.date.today().isoformat()


def _read(folder: Path) -> dict[str, list[dict]]:
    """All conversations that are kept in a folder, by their digest."""
    parts = (part.read_text("utf-8").splitlines() for part in sorted(folder.glob("*.jsonl")))
    return dict(json.loads(line) for lines in parts for line in lines)


def _write(folder: Path, fresh: dict[str, list[dict]]) -> None:
    """One new part, whole as soon as it has its name."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(item) + "\n" for item in sorted(fresh.items()))
    part = folder / f"{fingerprint.digest(sorted(fresh))[:24]}.jsonl"
    write_whole(part, lambda file: file.write(text.encode()))
