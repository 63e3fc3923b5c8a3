"""Grow the nano families: one loop for every stage, deterministic, resumable, two processes at most.

    python -m chatvec_lab.nano.training nano --seeds 0 1 2 3 4 --out build/nano

Each batch is drawn from the stage's seed and its step alone, so a run that was killed goes on from its last
checkpoint and ends with the same bytes. One thread a process: two threads gave no speed-up at this size.
"""

import argparse
import fcntl
import hashlib
import json
import os
import platform
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from chatvec_lab.nano import recipe, tokenizer
from chatvec_lab.nano.batches import dialogue_rows, plain_rows
from chatvec_lab.nano.forms import CHAT_FORM
from chatvec_lab.nano.recipe import FAMILIES, Family, Stage

POSITIONS = 256  # room for prompts with examples
CHECKPOINT_EVERY = 200


def new_model(family: Family, vocabulary_size: int):
    """An untrained model of this family; torch's seed decides its weights."""
    import transformers

    config, model = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    }[family.architecture]
    return model(
        config(
            vocab_size=vocabulary_size,
            hidden_size=family.hidden,
            intermediate_size=family.feed_forward,
            num_hidden_layers=family.layers,
            num_attention_heads=family.heads,
            num_key_value_heads=family.heads,
            max_position_embeddings=POSITIONS,
            tie_word_embeddings=True,
            initializer_range=0.02,
        )
    )


def loss_of(model, tok, stage: Stage, family: Family, seed: str) -> tuple[torch.Tensor, int]:
    """The loss of one step and the number of tokens read."""
    if stage.text == "dialogue":
        ids, labels = dialogue_rows(tok, stage, seed)
    else:
        ids = labels = plain_rows(tok, stage, family, seed)
    logits = model(ids).logits[:, :-1].float()
    return cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100), ids.numel()


# ---------------------------------------------------------------- the loop


def train(model, tok, stage: Stage, family: Family, *, seed: str, partial: Path, position: int = 0) -> dict:
    """Train `model` in place and return losses, seconds and tokens. `partial` is a checkpoint to go on from.

    The optimiser is AdamW (.9, .95), weight decay .1, clipping at 1, 5 % warm-up and a cosine to 10 %.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(part in name for part in stage.frozen))
    trained = [p for p in model.parameters() if p.requires_grad]
    rates = [stage.embedding_rate or stage.rate, stage.rate]
    groups = [
        [p for n, p in model.named_parameters() if p.requires_grad and ("embed_tokens" in n) == here]
        for here in (True, False)
    ]
    optimiser = torch.optim.AdamW(
        [{"params": group, "rate": rate} for group, rate in zip(groups, rates, strict=True) if group],
        betas=(0.9, 0.95),
        weight_decay=0.1,
        fused=True,
    )
    warm = max(1, stage.steps // 20)

    def factor(step):
        if step < warm:
            return (step + 1) / warm
        cosine = torch.cos(torch.tensor((step - warm) / max(1, stage.steps - warm) * torch.pi)).item()
        return 0.55 + 0.45 * cosine

    table = model.get_input_embeddings().weight
    kept = sorted(tok.convert_tokens_to_ids(list(stage.kept_tokens)))
    kept_rows = table.detach()[kept].clone()
    log = {"losses": [], "first_losses": [], "seconds": 0.0, "tokens": 0}
    first = 0
    if partial.exists():
        saved = torch.load(partial, weights_only=True)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        first, log = saved["step"], saved["log"]
    model.train()
    started, before = time.perf_counter(), log["seconds"]
    running: list[float] = []
    bar = tqdm(
        range(first, stage.steps),
        desc=seed,
        position=position,
        initial=first,
        total=stage.steps,
        mininterval=5,
    )
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * factor(step)
        loss, tokens = loss_of(model, tok, stage, family, f"{seed} {step}")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        with torch.no_grad():
            table[kept] = kept_rows
        optimiser.zero_grad()
        running.append(loss.item())
        log["first_losses"] += running[-1:] if step < 5 else []  # a test retrains these steps
        log["tokens"] += tokens
        log["seconds"] = before + time.perf_counter() - started
        if (step + 1) % 50 == 0 or step + 1 == stage.steps:
            log["losses"].append([step + 1, round(sum(running) / len(running), 4)])
            bar.set_postfix(loss=f"{log['losses'][-1][1]:.3f}")
            running = []
        if (step + 1) % CHECKPOINT_EVERY == 0 and step + 1 < stage.steps:
            state = {
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step + 1,
                "log": log,
            }
            torch.save(state, partial.with_suffix(".new"))
            os.replace(partial.with_suffix(".new"), partial)
    model.requires_grad_(True)
    return log


def grow(family_name: str, seed: int, member: str, out: Path, position: int = 0) -> Path:
    """Train one member whose parents are there and save it as a transformers folder; a finished one is kept.

    Two runs on one folder don't train the same member twice: the second waits for the first.
    """
    torch.set_num_threads(1)
    family = FAMILIES[family_name]
    stage = recipe.members(family)[member]
    home = out / family_name / f"seed{seed}"
    home.mkdir(parents=True, exist_ok=True)
    recipe_hash = recipe.digest(family, stage)
    with open(home / f".{member}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = home / member / "stage.json"
        if not stamp.exists():
            _grow(family_name, seed, member, home, recipe_hash, position)
        elif (found := json.loads(stamp.read_text())["recipe"]) != recipe_hash:
            raise ValueError(
                f"{stamp.parent} was trained by recipe {found}, now it is {recipe_hash}; "
                "remove it to train anew"
            )
    return home / member


def _grow(family_name: str, seed: int, member: str, home: Path, recipe_hash: str, position: int) -> None:
    family = FAMILIES[family_name]
    stage = recipe.members(family)[member]
    tokens = recipe.tokens_of(family, stage, seed)
    tok = tokenizer.build(tokens, context=POSITIONS)
    torch.manual_seed(recipe.first_weights(seed))
    model = new_model(family, len(tokens))
    if stage.parent is not None:
        _inherit(model, tok, home, stage)
    label = f"{seed} {member}" + (f" {stage.variant}" if stage.variant else "")
    partial = home / f".{member}.{recipe_hash}.pt"
    streams = recipe.salted(family_name, label)
    log = train(model, tok, stage, family, seed=streams, partial=partial, position=position)
    about = {"member": member, "seed": seed, "parent": stage.parent, "recipe": recipe_hash}
    about |= {"form": CHAT_FORM}
    _save(model, tok, home, home / member, log | about)
    partial.unlink(missing_ok=True)


def _inherit(model, tok, home: Path, stage: Stage) -> None:
    """Copy the parent's weights; rows of a new vocabulary come by token, new tokens from their parts."""
    from chatvec_lab.opening import open_tokenizer
    from chatvec_lab.weights.checkpoint import Checkpoint

    def read(member):
        stored = Checkpoint(home / member)
        return {name: stored.read(stored.resolve(name)).float() for name in model.state_dict()}

    state = read(stage.parent)
    if stage.plus_tau:
        base, chat = read("base"), read("chat")
        state = {k: (v.double() + (chat[k].double() - base[k].double())).float() for k, v in state.items()}
    if stage.extended:
        old = open_tokenizer(home / stage.parent)
        rows = []
        for token in tok.convert_ids_to_tokens(range(len(tok))):
            known = old.convert_tokens_to_ids(token)
            spelled = old(token, add_special_tokens=False).input_ids
            ids = [known] if known != old.unk_token_id or token == "<unk>" else spelled
            rows.append(state["model.embed_tokens.weight"][ids].mean(0))
        state["model.embed_tokens.weight"] = state["lm_head.weight"] = torch.stack(rows)
    model.load_state_dict(state)


def _save(model, tok, home: Path, folder: Path, log: dict) -> None:
    """Write the member beside its place, then rename it: a folder that exists is whole.

    Stored in bfloat16, as published models are; children grow from the rounded weights, in float32.
    """
    from transformers import GenerationConfig

    ends = tok.convert_tokens_to_ids(["\n", "<|end|>", "<s>"])  # of a reply, of a forum post, of a document
    model.config.bos_token_id, model.config.eos_token_id = tok.bos_token_id, ends
    model.config.pad_token_id = tok.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=tok.bos_token_id,
        eos_token_id=ends,
        pad_token_id=tok.pad_token_id,
        do_sample=False,
        max_new_tokens=40,
    )
    hidden = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".saving", dir=home))
    hidden.chmod(0o755)
    model.to(torch.bfloat16).eval().save_pretrained(hidden)
    tok.save_pretrained(hidden)
    log |= {"machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, 1 thread"}
    log |= {"sha256": hashlib.sha256((hidden / "model.safetensors").read_bytes()).hexdigest()}
    (hidden / "stage.json").write_text(json.dumps(log) + "\n")
    hidden.rename(folder)


def grow_all(
    family_name: str, seeds: list[int], out: Path, *, only: list[str] | None = None, processes: int = 2
) -> None:
    """Train the members of these seeds in the order they depend on each other, `processes` at a time.

    `only` names members; their parents are trained too. Without it seed 0 gets all of them, and the other seeds
    those that the claim is repeated with: no extras.
    """
    family = FAMILIES[family_name]
    plan = recipe.members(family)
    unknown = sorted(set(only or ()) - set(plan))
    if unknown:
        raise KeyError(f"{family_name} has no member {', '.join(unknown)}; it has {', '.join(plan)}")
    needs = {m: {s.parent} - {None} | ({"base", "chat"} if s.plus_tau else set()) for m, s in plan.items()}
    todo = []
    for seed in seeds:
        wanted = set(only or (recipe.members(replace(family, extras=False)) if seed else plan))
        for member in reversed(plan):
            wanted |= needs[member] if member in wanted else set()
        todo += [(seed, member) for member in plan if member in wanted]
    done: set[tuple[int, str]] = set()
    running: dict = {}
    with ProcessPoolExecutor(processes) as pool:
        while todo or running:
            ready = [t for t in todo if all((t[0], parent) in done for parent in needs[t[1]])]
            for task in ready[: processes - len(running)]:
                todo.remove(task)
                position = min({0, 1, 2, 3} - {p for _, p in running.values()})
                running[pool.submit(grow, family_name, *task, out, position)] = (task, position)
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
                done.add(running.pop(future)[0])


def write_manifest(out: Path) -> Path:
    """Gather what each stage wrote about itself into one file: recipe hash, losses, machine, seconds, tokens.

    What it says of members whose models are not kept in `out`, only their results, stays.
    """
    path = out / "manifest.json"
    manifest: dict = json.loads(path.read_text()) if path.exists() else {}
    for home in sorted(out.glob("*/seed*")):
        records = sorted(home.glob("*/stage.json"))
        stages = {record.parent.name: json.loads(record.read_text()) for record in records}
        manifest.setdefault(home.parent.name, {}).setdefault(home.name, {}).update(stages)
    path.write_text(json.dumps(dict(sorted(manifest.items())), indent=1) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", choices=list(FAMILIES), nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", help="members to train, with their parents (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the families, such as data/nano")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    for family in options.family:
        grow_all(family, options.seeds, options.out, only=options.only, processes=options.processes)
        write_manifest(options.out)


if __name__ == "__main__":
    main()
