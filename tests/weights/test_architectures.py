"""The whole package on every class of transformers that can be built small; see `architecture_sweep`."""

import os
import random
from pathlib import Path

import architecture_sweep as sweep
import architectures
import pytest

SEED = int(os.environ.get("CHATVEC_SEED", "0"))
# one of each kind: tables of many names, fused experts, a vision tower, a recurrence, tied and untied
ALWAYS = ["GPT2LMHeadModel", "Qwen3MoeForCausalLM", "LlavaForConditionalGeneration", "Mamba2ForCausalLM"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALWAYS + random.Random(SEED).sample(architectures.class_names(), 6))
def test_a_sample_of_classes_is_right_or_refused(kind, tmp_path):
    found = sweep.examine(kind, tmp_path)
    print(f"CHATVEC_SEED={SEED} {kind}: {found}")
    assert "WRONG" not in str(found) and "failed: " not in str(found)
    if kind in ALWAYS:
        steps = {step: value for step, value in found.items() if step != "respond"}
        assert sweep.is_right(steps)


@pytest.mark.slow
def test_an_element_that_is_not_the_nearest_is_counted():
    import torch

    p, c, b = (torch.tensor([x], dtype=torch.bfloat16) for x in (1.0, 0.5, 0.25))
    right = torch.tensor([1.0 + 0.7 * 0.25]).bfloat16()
    assert sweep.wrong_elements(right, p, c, b) == 0
    assert sweep.wrong_elements((right.view(torch.int16) + 1).view(torch.bfloat16), p, c, b) == 1


@pytest.mark.campaign
def test_every_class(tmp_path):
    out = Path(os.environ.get("CHATVEC_SWEEP", tmp_path / "sweep"))  # a folder that stays makes it resumable
    kinds = architectures.class_names()
    sweep.sweep(out, kinds)
    found = sweep.results(out)
    groups = sweep.sort(found)
    page = Path(__file__).parents[2] / "docs" / "architectures.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text(sweep.report(found))
    assert set(found) == set(kinds)
    built = len(found) - len(groups["unbuilt"])
    assert built >= 260
    assert not groups["wrong"], groups["wrong"]
    assert len(groups["right"]) >= 0.9 * built, sorted(set(found) - set(groups["right"]))
