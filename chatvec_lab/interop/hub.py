"""Push a merged model, a vector or an adapter to the hub, with a card that says what it is made of.

The token is read from HF_TOKEN and nowhere else, without white space around it; it goes into the request's header and
never into a file or message. What holds a secret of the environment, or leads out of the folder, is not pushed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from chatvec_lab import secrets
from chatvec_lab.reading import parse_yaml, read_yaml
from chatvec_lab.reading import read_json as read_facts
from chatvec_lab.secrets.files import secrets_in
from chatvec_lab.weights.checkpoint import Checkpoint, read_json
from chatvec_lab.weights.merged import MergedCheckpoint
from chatvec_lab.weights.saving.card import inline
from chatvec_lab.weights.saving.provenance import MANIFEST
from chatvec_lab.weights.vector import WeightVector

if TYPE_CHECKING:
    import pandas

    from chatvec_lab.families import Family

CARD = "README.md"


@dataclass(frozen=True)
class PushReport:
    """What went to the hub, or would go: `files` maps names to bytes; `url` is None after a dry run."""

    repo_id: str
    private: bool | None
    files: dict[str, int]
    card: str
    url: str | None

    def __str__(self) -> str:
        width = max(map(len, self.files))
        visibility = {True: "private", False: "public", None: "as the owner's default says"}[self.private]
        return "\n".join(
            [
                f"{self.repo_id} ({visibility}): {sum(self.files.values()):,} bytes in {len(self.files)} files",
                *(f"  {name:{width}}  {size:>16,}" for name, size in self.files.items()),
                f"pushed: {self.url}" if self.url else "dry run: nothing was sent. The card would be",
                *([] if self.url else ["", self.card]),
            ]
        )


def push(
    what: str | os.PathLike | MergedCheckpoint | WeightVector,
    repo_id: str,
    *,
    private: bool | None = None,
    dry_run: bool = False,
    commit_message: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    folder: str | os.PathLike | None = None,
    family: Family | str | None = None,
    licences: Mapping[str, str] | None = None,
    evaluation: str | os.PathLike | Mapping[str, Any] | pandas.DataFrame | None = None,
) -> PushReport:
    """Send a saved folder, or a merged checkpoint or vector that is saved first, to the hub; returns what went.

    what: a folder written by `merged.save`, `tau.save` or `peft.export_adapter`, or the expression itself. An
      expression is saved to `folder`, which then stays, or (None) to a temporary folder, which needs that much disk.
    private: None leaves a new repository to the owner's default and an old one as it is.
    dry_run: True sends nothing, needs no token, and lists the files, their bytes and the card.
    revision: a branch, made when it is not there. create_pr: a pull request instead of a commit.
    family: its name goes into the card. licences: {source: licence}; others are looked for in the described
      families, beside the sources' weights, and on the hub (unless offline), and else named as not stated.
    evaluation: a summary.json, a .csv, a mapping or a table, shown in the card (40 rows at most).

    Raises PermissionError without HF_TOKEN or when the hub refuses it, ConnectionError without a network, ValueError
    for a folder that is none of ours or is not whole.
    """
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(repo_id)
    token = secrets.key("HF_TOKEN")
    if token is None and not dry_run:
        raise PermissionError(
            f"pushing to {repo_id!r} needs a token of the hub with the right to write, and HF_TOKEN is not set. "
            "Make one at huggingface.co/settings/tokens and put it into the environment: export HF_TOKEN=hf_... "
            "(dry_run=True shows what would go without one)."
        )
    with _saved(what, folder) as saved:
        found = _files(saved)
        sources = _sources(saved, what)
        known = _licences(sources, licences or {}, family, token)
        card = secrets.redacted(_card((saved / CARD).read_text("utf-8"), known, family, evaluation))
        sizes = {n: len(card.encode()) if n == CARD else (saved / n).stat().st_size for n in found}
        url = None
        if not dry_run:
            message = commit_message or f"Upload {what.label if hasattr(what, 'label') else saved.name}"
            url = _send(saved, found, card, repo_id, token, private, revision, create_pr, message)
    return PushReport(repo_id, private, sizes, card, url)


@contextmanager
def _saved(what, folder) -> Iterator[Path]:
    if isinstance(what, MergedCheckpoint | WeightVector):
        if folder is not None:
            what.save(Path(folder))
            yield Path(folder)
        else:
            with tempfile.TemporaryDirectory(prefix="chatvec_lab-push-") as temporary:
                what.save(Path(temporary) / "saved")
                yield Path(temporary) / "saved"
    elif isinstance(what, Checkpoint):
        raise TypeError(f"{what!r} is a source as it is; push what was made of it, or a folder.")
    elif folder is not None:
        raise TypeError(f"folder={str(folder)!r} is for an expression; {str(what)!r} is saved already.")
    else:
        yield Path(what)


def _files(saved: Path) -> list[str]:
    """The names of all files of a folder that one of our functions wrote."""
    if not saved.is_dir():
        raise FileNotFoundError(f"no folder {str(saved)!r}; give one that save or export_adapter wrote.")
    manifest = read_json(saved / MANIFEST)
    if not str(manifest.get("format", "")).startswith("chatvec_lab ") or not (saved / CARD).is_file():
        raise ValueError(
            f"{saved} was not written by chatvec_lab (no {MANIFEST} of ours, or no {CARD}); "
            "save a merged model, a vector or an adapter and push that."
        )
    paths = {p.relative_to(saved): p for p in saved.rglob("*")}
    shown = {name: p for name, p in paths.items() if not any(part[0] == "." for part in name.parts)}
    links = sorted(str(name) for name, p in shown.items() if p.is_symlink())
    if links:
        raise ValueError(
            f"{saved} holds links: {', '.join(links)}. What they lead to would be pushed; replace them by copies, or "
            "remove them."
        )
    found = sorted(name.as_posix() for name, p in shown.items() if p.is_file())
    lacking = sorted(set(manifest["weights"]["files"]) - set(found))
    if lacking:
        raise ValueError(f"{saved} is not whole: its {MANIFEST} names {', '.join(lacking)}. Save it again.")
    for name in found:
        if held := secrets_in(saved / name):
            raise ValueError(
                f"{saved / name} holds a secret of this environment, or what looks like one: {', '.join(held)}. Nothing was "
                "sent; take it out, and change the secret if the folder has been anywhere else."
            )
    return found


def _sources(saved: Path, what) -> dict[str, Checkpoint | None]:
    """The sources by name, with their checkpoints where an expression knows them."""
    known: dict[str, Checkpoint | None] = {
        s["name"]: None for s in read_json(saved / MANIFEST).get("sources", [])
    }
    if isinstance(what, MergedCheckpoint | WeightVector):
        vector = what.vector if isinstance(what, MergedCheckpoint) else what
        checkpoints = [*([what.cp] if isinstance(what, MergedCheckpoint) else []), *vector.sources()]
        known |= {c.label: c for c in checkpoints if c.label in known}
    return known


def _licences(
    sources: Mapping[str, Checkpoint | None], given: Mapping[str, str], family, token: str | None
) -> dict[str, str | None]:
    unknown = sorted(set(given) - set(sources))
    if unknown:
        raise ValueError(f"licences names {', '.join(unknown)}; the sources are {', '.join(sources)}.")
    facts = getattr(family, "facts", {})
    described = _described_licences() | {
        family[member].label: known["licence"] for member, known in facts.items() if known.get("licence")
    }
    return {
        name: given.get(name) or described.get(name) or _beside(checkpoint) or _on_hub(name, token)
        for name, checkpoint in sources.items()
    }


def _described_licences() -> dict[str, str]:
    """{source: licence} of the families in data/families."""
    from chatvec_lab.paths import DATA

    result = {}
    for file in sorted((DATA / "families").glob("*.yaml")):
        described = read_yaml(file) or {}
        members = [described.get("base"), described.get("chat")]
        members += [*(described.get("cp") or {}).values(), *(described.get("others") or {}).values()]
        result |= {m["source"]: m["licence"] for m in members if isinstance(m, Mapping) and m.get("licence")}
    return result


def _beside(checkpoint: Checkpoint | None) -> str | None:
    """The licence in the front matter of the README beside a source's weights."""
    readme = checkpoint.folder / CARD if checkpoint is not None else None
    if readme is None or not readme.is_file():
        return None
    return _split(readme.read_text("utf-8"))[0].get("license")


def _on_hub(name: str, token: str | None) -> str | None:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HTTPError

    if "/" not in name or constants.is_offline_mode():
        return None
    try:
        card = HfApi().model_info(name, token=token or False).card_data
    except (
        HTTPError,
        OSError,
        ValueError,
    ):  # gated, gone or no network: the card says that the licence is not stated
        return None
    return card.get("license") if card else None


def _split(text: str) -> tuple[dict, str]:
    """Front matter and body of a card."""
    if not text.startswith("---\n") or "\n---\n" not in text:
        return {}, text
    front, _, body = text[4:].partition("\n---\n")
    try:
        parsed = parse_yaml(front, CARD)
    except ValueError:
        return {}, text
    return (parsed, body) if isinstance(parsed, dict) else ({}, text)


def _card(text: str, licences: Mapping[str, str | None], family, evaluation) -> str:
    """The saved card with licences, family and evaluation."""
    front, body = _split(text)
    found = set(licences.values())
    if found and None not in found:
        alone = next(iter(found))
        is_id = len(found) == 1 and alone == alone.lower() and " " not in alone
        front["license"] = alone if is_id else "other"
        if not is_id:
            front["license_name"] = "licences-of-the-sources"
    name = getattr(family, "name", family)
    if name:
        front["tags"] = [*front.get("tags", []), f"family:{name}"]
        body += (
            f"\n## Family\n\n{inline(name)}"
            + (f": {inline(family.notes.strip())}" if getattr(family, "notes", "") else "")
            + "\n"
        )
    if licences:
        rows = [
            [source, licence or "not stated; see the page of the source"]
            for source, licence in licences.items()
        ]
        body += "\n## Licences of the sources\n\n" + _table(["source", "licence"], rows)
    if evaluation is not None:
        body += "\n## Evaluation\n\n" + _evaluation(evaluation)
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n{body}"


def _evaluation(evaluation, rows: int = 40) -> str:
    """A summary as a table: one row a value of a mapping, or the rows of a frame."""
    if isinstance(evaluation, str | os.PathLike):
        file = Path(evaluation)
        if file.suffix not in (".json", ".csv"):
            raise ValueError(f"evaluation={str(file)!r}: expected a .json or a .csv, a mapping or a table.")
        if file.suffix == ".json":
            try:
                evaluation = read_facts(file, dict)
            except ValueError as error:
                raise ValueError(
                    f"{error} ({file} holds no mapping of measures to values; give one, or a .csv.)"
                ) from error
        else:
            import pandas

            evaluation = pandas.read_csv(file)
    if isinstance(evaluation, Mapping):
        head, found = ["measure", "value"], [list(item) for item in _flat(evaluation)]
    else:
        head, found = list(evaluation.columns), evaluation.to_numpy().tolist()
    more = f"\n{len(found) - rows} more rows are left out.\n" if len(found) > rows else ""
    return _table(head, found[:rows]) + more


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, values


def _table(head: list, rows: list[list]) -> str:
    def cell(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else inline(value)

    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(cell, line)) + " |\n" for line in lines)


def _send(saved, found, card, repo_id, token, private, revision, create_pr, message) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    api = HfApi(token=token)
    operations = [CommitOperationAdd(n, card.encode() if n == CARD else str(saved / n)) for n in found]
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        done = api.create_commit(
            repo_id, operations, commit_message=message, revision=revision, create_pr=create_pr
        )
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status not in (401, 403):
            raise
        raise PermissionError(
            f"the hub refused {repo_id!r} ({status}): the token in HF_TOKEN is not valid, has no right to write, or "
            "the name belongs to someone else. Nothing was committed."
        ) from error
    except HTTPError as error:  # the connection's, which is no OSError
        raise ConnectionError(
            f"the hub could not be reached for {repo_id!r} ({secrets.redacted(str(error))}). Push it again."
        ) from error
    return done.pr_url or done.commit_url
