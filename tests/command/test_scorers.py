"""`scorers`: the list, and what it refuses before it asks anybody."""

import pytest

from chatvec_lab.command.main import main


def test_the_list_names_what_each_scorer_needs(capsys):
    assert main(["scorers"]) == 0
    said = capsys.readouterr().out
    assert "judge:paper: judge_paper, 1 to 10" in said and "needs: a judge, prompts with a reference" in said
    assert "safety_price" in said and "FILE.py" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--check", "judge:paper"],
            "--check tries scorers of toxicity, on labelled sentences; 'judge:paper' is none",
        ),
        (
            ["--check", "toxicity:perspectiv"],
            "no scorer 'toxicity:perspectiv'; did you mean 'toxicity:perspective'?",
        ),
        (
            ["--check", "toxicity:perspective", "--service", "toxicity_url"],
            "--service toxicity_url: NAME=VALUE",
        ),
        (["--check", "toxicity:perspective", "--service", "toxicity_urls=x"], "did you mean 'toxicity_url'?"),
        (["--check", "toxicity:perspective"], "PERSPECTIVE_API_KEY holds no key: export it"),
        (["--check", "toxicity:owner/model"], "needs services: toxicity_languages"),
    ],
)
def test_what_cannot_be_tried_is_refused(capsys, monkeypatch, arguments, told):
    monkeypatch.delenv("PERSPECTIVE_API_KEY", raising=False)
    assert main(["scorers", *arguments]) == 1
    assert told in capsys.readouterr().err
