"""Damaged weight files, configs and tokenizers: the right weights, or an error that names the file (see `mutations`)."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
from mutations import Campaign

ROOT = Path(__file__).resolve().parents[2]
BAD = ("unnamed", "traceback", "hang", "silent")


def counts(kind, tmp_path, numbers, seed=0):
    """How often each outcome came; a bad one fails with its seed, number and what was said."""
    if kind == "gguf":
        pytest.importorskip("gguf")
    campaign, found = Campaign(kind, tmp_path, seed), Counter()
    for number in numbers:
        outcome, said = campaign.trial(number)
        found[outcome] += 1
        assert outcome not in BAD, f"seed {seed}, {kind} {number}: {outcome}: {said}"
    return found


@pytest.mark.parametrize("kind", Campaign.KINDS)
def test_a_damaged_file_is_right_or_refused(kind, tmp_path):
    assert counts(kind, tmp_path, range(10))["refused"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", Campaign.KINDS)
def test_a_sample_of_the_damages(kind, tmp_path):
    assert counts(kind, tmp_path, range(Campaign.KINDS[kind][2] // 5), seed=1)["refused"]


@pytest.mark.campaign
@pytest.mark.parametrize("kind", Campaign.KINDS)
def test_all_the_damages(kind, tmp_path):
    """The full counts, kept in build/campaigns; trials that this version of the package has done are not done again."""
    files = sorted((ROOT / "chatvec_lab" / "weights").rglob("*.py"))
    version = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    log = ROOT / "build" / "campaigns" / f"weight-files-{kind}-{version}.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = log.read_text("utf-8").splitlines() if log.exists() else []
    done = {row["number"]: row for row in map(json.loads, lines)}
    campaign = Campaign(kind, tmp_path)
    with log.open("a", encoding="utf-8") as out:
        for number in range(campaign.count):
            if number not in done:
                outcome, said = campaign.trial(number)
                done[number] = {"seed": campaign.seed, "number": number, "outcome": outcome, "said": said}
                out.write(json.dumps(done[number], ensure_ascii=False) + "\n")
                out.flush()
    found = Counter(row["outcome"] for row in done.values())
    print(f"{kind}: {campaign.count} trials, seed {campaign.seed}: {dict(found)}; see {log}")
    assert not sum(found[outcome] for outcome in BAD), found
