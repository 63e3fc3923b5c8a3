"""Fluency and knowledge: perplexity of held-out text, and lm-eval tasks on the model in memory.

Tokens of two vocabularies do not compare, so every text also has its length in characters and bytes: nats per
character or byte are the same question for every model.
"""

from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from chatvec_lab.evaluation._frames import text_column
from chatvec_lab.evaluation.asking.responses import evaluating, is_broken, some
from chatvec_lab.evaluation.statistics import statistic_interval

_POSITIONS = 1024  # rows of logits turned to float32 at a time


def perplexity(
    model,
    tokenizer,
    texts: pd.DataFrame | Sequence,
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_tokens: int = 4096,
    progress: bool = True,
) -> pd.DataFrame:
    """What each text costs the model: one row a text, in their order; `fluency` makes perplexities of it.

    Columns: text_id, language, tokens, characters, bytes (UTF-8), nats (-log p of all its tokens, given the
    token that begins a text, or the one that ends it where the tokenizer has no other).

    texts: a frame or list of dicts with `text` and optionally `text_id` and `language`, or a list of strings.
    context: tokens that the model sees at once; None is its max_position_embeddings.
    stride: tokens by which the window moves over longer texts, so that each token but the first ones is
      predicted from at least context - stride others; None is half the context.
    batch_tokens: about how many tokens one pass holds; it bounds memory and does not change the result.
    Raises ValueError for texts that are missing, empty or no valid Unicode, and for ids that occur twice.
    """
    import torch

    rows = _texts(texts)
    context = context or getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2048
    stride = stride or max(1, context // 2)
    if not 1 <= stride <= context:
        raise ValueError(f"stride={stride}: at least 1 and at most the context of {context} tokens.")
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if prefix is None:
        raise ValueError(
            "The tokenizer has neither a token that begins a text nor one that ends it; set eos_token."
        )
    encoded = tokenizer([row["text"] for row in rows], add_special_tokens=False)["input_ids"] if rows else []
    ids = [[prefix, *tokens] for tokens in encoded]
    windows = [
        (row, *window) for row, text in enumerate(ids) for window in _windows(len(text) - 1, context, stride)
    ]
    windows.sort(key=lambda window: window[2] - window[1], reverse=True)
    nats = np.zeros(len(rows))
    bar = tqdm(total=len(windows), unit="window", disable=not progress, delay=2)
    with evaluating(model), torch.inference_mode(), bar:
        for batch in _batches(windows, batch_tokens):
            for (row, *_), cost in zip(batch, _window_nats(model, ids, batch), strict=True):
                nats[row] += cost
            bar.update(len(batch))
    return pd.DataFrame({
        "text_id": text_column(row["text_id"] for row in rows),
        "language": text_column(row.get("language") for row in rows),
        "tokens": [len(tokens) for tokens in encoded],
        "characters": [len(row["text"]) for row in rows],
        "bytes": [len(row["text"].encode()) for row in rows],
        "nats": nats,
    })  # fmt: skip


def fluency(
    costs: pd.DataFrame, *, by: str | Sequence[str] = "language", level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Perplexity of each group of texts, with a bootstrap interval over texts; one row a group and measure.

    Columns: `by`, measure, estimate, low, high, n (texts), missing, level, method, seed. The measures are sums
    over sums, so a long text counts by its length:
    "perplexity" (a token; compares models of one tokenizer only), "bits_per_character", "bits_per_byte".
    costs: the frame of `perplexity`, or several put together with a column such as scale.
    """
    by = [by] if isinstance(by, str) else list(by)
    measures = {
        "perplexity": ("tokens", lambda nats, tokens, axis: np.exp(nats.sum(axis) / tokens.sum(axis))),
        "bits_per_character": ("characters", _bits),
        "bits_per_byte": ("bytes", _bits),
    }
    rows = []
    for key, group in costs.groupby(by, sort=False, dropna=False):
        for measure, (unit, statistic) in measures.items():
            interval = statistic_interval(
                group.nats, group[unit], statistic=statistic, level=level, seed=seed
            )
            rows.append(dict(zip(by, key, strict=True)) | {"measure": measure} | interval._asdict())
    return pd.DataFrame(rows)


def _bits(nats, units, axis):
    return nats.sum(axis) / units.sum(axis) / np.log(2)


def _texts(texts: pd.DataFrame | Sequence) -> list[dict]:
    rows = texts.to_dict("records") if isinstance(texts, pd.DataFrame) else list(texts)
    rows = [{"text": row} if isinstance(row, str) else dict(row) for row in rows]
    for number, row in enumerate(rows):
        row["text_id"] = str(row.get("text_id", number))
    wrong = [row["text_id"] for row in rows if not _is_text(row.get("text"))]
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(rows)} texts are missing, empty or no valid Unicode: {some(wrong)}."
        )
    times = Counter(row["text_id"] for row in rows)
    if twice := sorted(text_id for text_id, count in times.items() if count > 1):
        raise ValueError(f"{len(twice)} text_id occur more than once: {some(twice)}.")
    return rows


def _is_text(text) -> bool:
    return isinstance(text, str) and text != "" and not is_broken(text)


def _windows(tokens: int, context: int, stride: int) -> list[tuple[int, int, int]]:
    """(begin, end, first scored) so that inputs begin..end-1 predict tokens begin+1..end, each scored once."""
    windows, scored = [], 0
    while scored < tokens:
        end = min(tokens, scored + stride) if scored else min(tokens, context)
        windows.append((max(0, end - context), end, scored))
        scored = end
    return windows


def _batches(windows: list[tuple], batch_tokens: int) -> list[list[tuple]]:
    """Windows, longest first, in batches of about so many tokens with padding."""
    batches, start = [], 0
    while start < len(windows):
        size = max(1, batch_tokens // (windows[start][2] - windows[start][1]))
        batches.append(windows[start : start + size])
        start += size
    return batches


def _window_nats(model, ids: list[list[int]], batch: list[tuple]) -> list[float]:
    """-log p of the scored tokens of each window; padding is on the right, where causal attention never looks."""
    import torch

    width = batch[0][2] - batch[0][1]
    inputs = torch.zeros(len(batch), width, dtype=torch.long)
    targets = torch.zeros(len(batch), width, dtype=torch.long)
    counts = torch.zeros(len(batch), width)
    for place, (row, begin, end, scored) in enumerate(batch):
        inputs[place, : end - begin] = torch.tensor(ids[row][begin:end])
        targets[place, : end - begin] = torch.tensor(ids[row][begin + 1 : end + 1])
        counts[place, scored - begin : end - begin] = 1
    logits = model(input_ids=inputs.to(model.device), use_cache=False).logits
    logits = logits.flatten(0, 1)  # (batch * width, v)
    costs = [
        torch.nn.functional.cross_entropy(rows.float(), wanted.to(rows.device), reduction="none").cpu()
        for rows, wanted in zip(logits.split(_POSITIONS), targets.flatten().split(_POSITIONS), strict=True)
    ]
    return (torch.cat(costs).view(len(batch), width).double() * counts).sum(1).tolist()


def lm_eval_tasks(
    model,
    tokenizer,
    tasks: Sequence[str],
    *,
    include_path: str | Path | None = None,
    chat: bool = False,
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores of lm-evaluation-harness tasks on the model in memory, one row a task, filter and metric.

    Columns: task, version, filter, metric, estimate, stderr, low, high (estimate -+ 1.96 stderr), n, seed.
    Needs the extra `lmeval`; built-in tasks (tmmluplus, kobest, cmmlu, belebele, ...) download their data.
    include_path: a folder with task files of your own. chat: ask through the chat template.
    limit: only so many questions a task, for a first try.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ImportError("lm_eval_tasks needs lm-eval: pip install 'chatvec_lab[lmeval]'") from error
    results = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size),
        tasks=list(tasks),
        task_manager=TaskManager(include_path=None if include_path is None else str(include_path)),
        apply_chat_template=chat,
        limit=limit,
        bootstrap_iters=1000,
        **{f"{what}_seed": seed for what in ("random", "numpy_random", "torch_random", "fewshot_random")},
    )
    rows = []
    for task, scores in results["results"].items():
        about = {"task": task, "version": str(results["versions"].get(task, ""))}
        asked = {"n": results["n-samples"].get(task, {}).get("effective"), "seed": seed}
        for key, estimate in scores.items():
            metric, _, name = key.partition(",")
            if name and not metric.endswith("_stderr"):
                stderr = scores.get(f"{metric}_stderr,{name}")
                stderr = stderr if isinstance(stderr, float) else np.nan  # "N/A" where it is unknown
                ends = {"low": estimate - 1.96 * stderr, "high": estimate + 1.96 * stderr}
                found = {"filter": name, "metric": metric, "estimate": estimate, "stderr": stderr}
                rows.append(about | found | ends | asked)
    return pd.DataFrame(rows)


class LmEvalTask:
    """One task of lm-evaluation-harness as a probe of the model in memory."""

    def __init__(self, task: str, *, include_path: str | Path | None = None, limit: int | None = None):
        if include_path and not Path(include_path).is_dir():
            raise FileNotFoundError(f"no folder {include_path} with tasks of lm-eval for {task!r}")
        try:
            self.version = f"lm-eval {metadata.version('lm-eval')}"
        except metadata.PackageNotFoundError as error:
            raise ImportError(f"knowledge:{task} needs lm-eval: pip install 'chatvec_lab[lmeval]'") from error
        self.name, self._options = task, {"include_path": include_path, "limit": limit}

    def read(self, model, tokenizer) -> pd.DataFrame:
        return lm_eval_tasks(model, tokenizer, [self.name], **self._options)
