"""No file of a study holds a secret of the environment, whatever wrote it and whatever the secret's characters."""

import html
import json
import os
import stat

import pandas as pd
import pytest

TOKENS = ["hf_" + "Secret01" * 4, "q\"uo\\te's<&>_^~{}%12", "sk-ключ-日本-1234"]
LEAVES = """
import os, json, gzip, pandas as pd
from pathlib import Path
from chatvec_lab import study, secrets
out = study.output(out_dir)
token = os.environ[variable].strip()
secrets.name_secret(variable)  # as an Endpoint does with its key_env
print('asked with', token); print(repr(token), json.dumps({'a': token}))
import sys; print(token, file=sys.stderr)
table = pd.DataFrame({'error': ['refused ' + token], 'n': [1]})
study.save_table(out, 't', table, caption='asked with ' + token)
study.save_summary(
    out, question='q', answer='a ' + token, claims=[study.claim('c ' + token, 1.0)], more={token: [token]}
)
import matplotlib.pyplot as plt
figure, axes = plt.subplots()
axes.set_title('x' + token)
study.save_figure(out, 'f', figure, caption='c ' + token, alt='a ' + token)
table.to_parquet(Path(out_dir) / 'mine.parquet'); table.to_html(Path(out_dir) / 'mine.html')
(Path(out_dir) / 'mine.csv.gz').write_bytes(gzip.compress(table.to_csv().encode()))
(Path(out_dir) / 'mine.txt').write_text(token)
table
"""


RAISES = """
import os
from chatvec_lab import secrets
secrets.name_secret(variable)
raise RuntimeError('refused with ' + os.environ[variable].strip())
"""


def spellings(token):
    page = html.escape(token)
    found = (
        token,
        json.dumps(token)[1:-1],
        json.dumps(token, ensure_ascii=False)[1:-1],
        repr(token)[1:-1],
        page,
    )
    return {text.encode() for text in (*found, page.replace("&#x27;", "&#39;"))}


def test_a_secret_is_in_no_file_of_a_study_and_not_printed(lab):
    """Three of them, each in a cell that leaves it everywhere and in one that raises it."""
    secret = dict(zip(("HF_TOKEN", "JUDGE_KEY", "MY_JUDGE"), TOKENS, strict=True))
    lab.environment |= {variable: token + "\n" for variable, token in secret.items()}
    lab.notebook("leaves", "variable: str = ''", LEAVES)
    lab.notebook("raises", "variable: str = ''", RAISES)
    grid = f"{{grid: {{variable: [{', '.join(secret)}]}}}}"
    lab.study(f"notebooks:\n  leaves.ipynb: {grid}\n  raises.ipynb: {grid}\n")
    status, said = lab.run("--workers", "1")
    assert status == 1
    files = {path: path.read_bytes() for path in lab.out.rglob("*") if path.is_file()}
    assert {path.name for path in files} >= {"index.html", "run.json", "t.parquet", "f.svg", "mine.txt"}
    for variable, token in secret.items():
        assert token not in said and f"<{variable}>" in said
        for path, content in files.items():
            assert not [s for s in spellings(token) if s in content], path
    records = {path: record for path, record in lab.records().items() if record["status"] == "done"}
    assert {record["parameters"]["variable"] for record in records.values()} == set(secret)
    for path, record in records.items():
        variable, folder = record["parameters"]["variable"], (lab.out / path).parent
        assert record["hidden"] == [variable], "the record says that something was hidden, not what"
        for table in (folder / "tables/t.parquet", folder / "mine.parquet"):
            assert pd.read_parquet(table).error[0] == f"refused <{variable}>"


def test_a_cells_folder_is_ones_own_until_it_is_redacted(lab):
    lab.notebook("n", "a: int = 1", "import os\nprint(oct(os.stat(out_dir).st_mode & 0o777))")
    lab.study("notebooks:\n  n.ipynb:\n")
    status, said = lab.run("--workers", "1")
    assert status == 0, said
    (log,) = lab.out.rglob("run.log")
    assert log.read_text().startswith("0o700")
    mask = os.umask(0o022)
    os.umask(mask)
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o777 & ~mask


SETS = """
import os, sys
from pathlib import Path
from chatvec_lab import secrets, study
{sets}
token = "hf_" + "SetInside01" * 3
print(token, file=sys.stderr); (Path(out_dir) / "mine.txt").write_text(token)
os.environ.pop("LATER_TOKEN", None)
{ends}
"""
SETTINGS = {
    "assigned": ("os.environ['LATER_TOKEN'] = 'hf_' + 'SetInside01' * 3", "LATER_TOKEN"),
    "by a magic": ("%env LATER_TOKEN=hf_SetInside01SetInside01SetInside01", "LATER_TOKEN"),
    "named later": (
        "os.environ.update(MY_JUDGE='hf_' + 'SetInside01' * 3); del study; secrets.name_secret('MY_JUDGE')", "MY_JUDGE"
    ),
    "in an address": (
        "os.environ['STORE'] = 'https://me:hf_SetInside01SetInside01SetInside01@host/x'", "STORE"
    ),
}  # fmt: skip
ENDS = {
    "well": "",
    "raises": "error = ValueError(token); error.add_note(token); raise RuntimeError('refused ' + token) from error",
    "kills its kernel": "sys.stderr.flush(); os.kill(os.getpid(), 9)",
    "kills its worker": "sys.stderr.flush(); os.kill(os.getppid(), 9); import time; time.sleep(60)",
}


@pytest.mark.parametrize(
    ("sets", "ends"),
    [
        ("named later", "raises"),
        pytest.param("assigned", "kills its worker", marks=pytest.mark.slow),
        pytest.param("by a magic", "kills its kernel", marks=pytest.mark.slow),
        pytest.param("in an address", "well", marks=pytest.mark.slow),
    ],
)
def test_a_secret_that_the_notebook_itself_sets_is_in_no_file(lab, sets, ends):
    code, variable = SETTINGS[sets]
    lab.notebook("n", "a: int = 1", SETS.format(sets=code, ends=ENDS[ends]))
    lab.study("notebooks:\n  n.ipynb:\n")
    status, said = lab.run("--workers", "1", "--retries", "0")
    assert status == (ends != "well") and "SetInside01" * 3 not in said
    assert next(lab.out.rglob("mine.txt")).read_text() == f"<{variable}>"
    for path in lab.out.rglob("*"):
        assert not path.is_file() or b"SetInside01" * 3 not in path.read_bytes(), path
    assert not list(lab.out.rglob(".secrets"))


@pytest.mark.parametrize("mask", ["000", "077"])
def test_whatever_the_umask_nobody_reads_a_secret_and_results_have_its_modes(lab, mask):
    """000 lets everybody write, 077 nobody else read: while it runs a cell is its user's alone, and afterwards as asked."""
    lab.notebook(
        "n",
        "a: int = 1",
        """
        import os, pathlib, pandas
        from chatvec_lab import study
        folder = pathlib.Path(out_dir)
        (folder / "token.txt").write_text(os.environ["MY_TOKEN"])
        print(oct(folder.stat().st_mode & 0o777))
        out = study.output(out_dir)
        study.save_table(out, "t", pandas.DataFrame({"x": [1.0]}), caption="c")
        study.save_summary(out, question="q", answer="a")
        """,
    )
    lab.study("notebooks: {n.ipynb: {}}")
    lab.environment |= {"MY_TOKEN": TOKENS[1]}
    process = lab.start("--workers", "1", preexec_fn=lambda: os.umask(int(mask, 8)))
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    assert "0o700" in next(lab.out.glob("cells/n/*/run.log")).read_text()
    expected = {True: 0o777 & ~int(mask, 8), False: 0o666 & ~int(mask, 8)}
    for path in [lab.out, *lab.out.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == expected[path.is_dir()], path
        assert path.is_dir() or TOKENS[1].encode() not in path.read_bytes(), path


def test_a_key_that_no_variable_holds_is_in_no_file_either(lab):
    """Typed into the notebook, or in an exception of a client that read it from a place of its own."""
    token = "ghp_" + "aB3dE" * 8
    lab.notebook(
        "n",
        "a: int = 1",
        f"""
        import pandas, pathlib
        from chatvec_lab import study
        token = "{token}"
        (pathlib.Path(out_dir) / "mine.json").write_text('{{"headers": ["Bearer ' + token + '"]}}')
        study.save_table(study.output(out_dir), "t", pandas.DataFrame({{"error": [token]}}), caption=token)
        raise RuntimeError(f"401 for https://me:Pa55word@host/v1?api_key={{token[4:]}} with Bearer {{token}}")
        """,
    )
    lab.study("notebooks: {n.ipynb: {}}")
    status, said = lab.run("--workers", "1")
    assert status == 1 and "401 for https://me:<password in an address>@host/v1?api_key=<key in a" in said, (
        said
    )
    for path in [path for path in lab.out.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        assert not [s for s in (token[4:], "Pa55word") if s.encode() in content], path
    (record,) = lab.records().values()
    assert {"GitHub token", "password in an address"} <= set(record["hidden"])
