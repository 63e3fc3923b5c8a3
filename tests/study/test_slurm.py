"""What is sent to Slurm, and what its answers become for a reader: with tools that answer as recorded.

The scheduler itself is in test_clusters.py; the answers here are those of Slurm 22.05 and 24.11.
"""

import os
import time

import pytest

from chatvec_lab.study import engines, sbatch, slurm, task
from chatvec_lab.study.sbatch import SlurmError

START = "from chatvec_lab import study\nout = study.output(out_dir)"
SUMMARY = "study.save_summary(out, question='Which seed?', answer=f'Seed {seed}.')"


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """`tools(sbatch="shell code", ...)`: programs of Slurm that do so; `tools.calls()` is how they were called."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "SQUEUE_SECONDS", -1)
    monkeypatch.setattr(slurm, "SETTLE_SECONDS", 0.2)
    sbatch._site_options.cache_clear()

    def make(**programs):
        for name, code in ({"sbatch": 'echo "Submitted batch job 7"'} | programs).items():
            (folder / name).write_text(f'#!/bin/bash\necho {name} "$@" >> {folder}/calls\n{code}\n')
            (folder / name).chmod(0o755)
        return make

    make.calls = lambda: (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []
    make.folder = folder
    return make(squeue="", scontrol="exit 1", sacct="exit 1", sinfo="")


def said(engine) -> list[str]:
    """The options in the script of two jobs, without the three that every script has."""
    lines = [
        line for line in engine.script(engine.folder / "x", 2).splitlines() if line.startswith("#SBATCH")
    ]
    assert [line.split("=")[0] for line in lines[:3]] == [
        "#SBATCH --job-name",
        "#SBATCH --array",
        "#SBATCH --output",
    ]
    return [line.removeprefix("#SBATCH ") for line in lines[3:]]


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({}, []),
        ({"account": "00123"}, ["--account=00123"]),
        ({"hours": "0.01"}, ["--time=1"]),
        ({"hours": "1.5", "gpus": "2"}, ["--time=90", "--gpus-per-node=2"]),
        ({"hours": "0.1"}, ["--time=6"]),
        ({"gpus": "a100:1"}, ["--gpus-per-node=a100:1"]),
        ({"gpus": 0, "cpus": 4}, ["--cpus-per-task=4"]),
        ({"memory_gb": "0.5"}, ["--mem=512M"]),
        ({"time": "1-12:00:00", "mem": "64G"}, ["--time=1-12:00:00", "--mem=64G"]),
        ({"gres": "gpu:1", "reservation": "course"}, ["--gres=gpu:1", "--reservation=course"]),
        ({"cpus_per_gpu": "08", "mail-user": "a@b.c"}, ["--cpus-per-gpu=08", "--mail-user=a@b.c"]),
        ({"comment": 'say "two words" # here'}, ['--comment="say \\"two words\\" # here"']),
        ({"exclusive": "", "requeue": "true", "hold": "no"}, ["--exclusive", "--requeue"]),
        ({"exclusive": "user"}, ["--exclusive=user"]),
        ({"job-name": "mine"}, []),
    ],
)  # fmt: skip
def test_options_are_sent_as_they_are_written_and_no_other(tools, tmp_path, options, lines):
    engine = engines.Slurm(tmp_path / "jobs", **options)
    assert said(engine) == lines
    assert ("--job-name=mine" in engine.script(tmp_path, 1)) == ("job-name" in options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu": "1"}, r"--slurm gpu=: neither .* nor an option of sbatch; did you mean gpus=\?"),
        ({"memory": "4"}, r"did you mean memory_gb=\?"),
        ({"reservatoin": "x"}, r"did you mean reservation=\?"),
        ({"hours": "four"}, "--slurm hours=four: there should be a number above 0"),
        ({"hours": "-1"}, "a number above 0"),
        ({"hours": "nan"}, "a number above 0"),
        ({"memory_gb": "0"}, "a number above 0"),
        ({"cpus": "1.5"}, "a whole number of 1 or more"),
        ({"at_once": "0"}, "a whole number of 1 or more"),
        ({"time": "2h"}, "--slurm time=2h is no time of Slurm"),
        ({"hours": "1", "time": "60"}, "hours and time say the same thing"),
        ({"memory_gb": "1", "mem_per_cpu": "2G"}, "memory_gb and mem-per-cpu say the same thing"),
        ({"mem-per-cpu": "1G", "mem_per_cpu": "2G"}, "mem-per-cpu is given twice"),
        ({"array": "0-3"}, "the engine itself says that"),
        ({"account": ""}, "--slurm account= has no value"),
        ({"comment": "one\ntwo"}, "a line break"),
        ({"setup": ["module load cuda", "a\nb"]}, "one line of shell each"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_sent(tools, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        engines.Slurm(tmp_path / "jobs", **options)
    assert not [call for call in tools.calls() if call != "sbatch --help"]


def test_options_of_a_sites_plugins_are_known(tools, tmp_path):
    tools(sbatch='echo "  --container-image=[USER@]...  the image to use"')
    assert said(engines.Slurm(tmp_path, container_image="lab.sqsh")) == ["--container-image=lab.sqsh"]


def test_setup_and_python_come_into_the_script(tools, tmp_path):
    lines = ["module load cuda/12", "export A='b c'"]
    engine = engines.Slurm(
        tmp_path / "a %j b", setup=lines, python="apptainer exec --nv lab.sif python3", at_once=2
    )
    script = engine.script(tmp_path / "a %j b", 9).splitlines()
    assert script[2:4] == ["#SBATCH --array=0-8%2", f'#SBATCH --output="{tmp_path}/a %%j b/%A_%a.log"']
    assert script[5:7] == lines
    assert script[-1].startswith("exec apptainer exec --nv lab.sif python3 -m chatvec_lab.study.task '")


def test_a_script_runs_a_call_and_tells_its_end(tools, tmp_path):
    """sbatch as a shell that runs the array at once: the script, the call and its result are real."""
    run = 'for i in 0 1; do SLURM_CPUS_ON_NODE=3 SLURM_ARRAY_TASK_ID=$i bash "$1"; done >/dev/null 2>&1'
    tools(sbatch=f'{run}\necho "Submitted batch job 12"')
    engine = engines.Slurm(tmp_path / "jobs", setup="export SEEN=setup")
    good = engine.submit(os.makedirs, str(tmp_path / "made"))
    bad = engine.submit(os.listdir, str(tmp_path / "nowhere"))
    assert good.done() and bad.done() and (good.token, bad.token) == ("12_0", "12_1")
    assert good.result() is None and (tmp_path / "made").is_dir()
    with pytest.raises(SlurmError, match=r"FileNotFoundError.*nowhere"):
        bad.result()


def test_threads_are_those_that_the_job_was_given(monkeypatch, tmp_path):
    for name in task.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "3")
    task.write_call(tmp_path, 0, os.makedirs, (str(tmp_path / "made"),))
    assert task.main(str(tmp_path), "0") == 0
    assert {os.environ.pop(name) for name in task.THREAD_VARIABLES} == {"3"}


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (
            "sbatch: error: invalid partition specified: gpux\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified",
            "sbatch refused the job: invalid partition specified: gpux; Batch job submission failed: Invalid partition "
            "name specified. partition= names one of: gpu, main.",
        ),
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
            "account= names one that you may use",
        ),
        (
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates "
            "accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "ask for fewer or smaller jobs at a time (at_once=)",
        ),
        (
            "sbatch: error: Batch job submission failed: Requested node configuration is not available",
            "lower memory_gb, gpus or cpus",
        ),
        ("sbatch: error: Unable to allocate resources: Access/permission denied", "log in again (kinit)"),
        (
            "sbatch: error: Munge encode failed: Expired credential: authentication error",
            "log in again (kinit)",
        ),
        ("slurm_load_partitions: Unable to contact slurm controller (connect failure)", "wait a little"),
        ("sbatch: unrecognized option '--gpus-per-node=1'", "This Slurm does not know that option"),
        ("sbatch: error: site plugin says no", "sbatch refused the job: site plugin says no. The script: "),
        ("", "sbatch refused the job: it gave no reason."),
    ],
)
def test_a_refusal_is_one_paragraph_with_a_way_on(tools, tmp_path, told, sentence):
    tools(sbatch=f"cat >&2 <<'END'\n{told}\nEND\nexit 1", sinfo="printf 'main\\ngpu\\nmain\\n'")
    engine = engines.Slurm(tmp_path / "jobs")
    job = engine.submit(print, "x")
    with pytest.raises(SlurmError) as caught:
        job.done()
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_of_two_arrays_none_is_left_when_the_second_is_refused(tools, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "MOST_IN_ARRAY", 2)
    once = (
        f'if [ -e {tmp_path}/sent ]; then echo "sbatch: error: full" >&2; exit 1; fi; touch {tmp_path}/sent'
    )
    tools(sbatch=f'{once}; echo "Submitted batch job 41"', scancel="")
    engine = engines.Slurm(tmp_path / "jobs")
    jobs = [engine.submit(print, number) for number in range(3)]
    with pytest.raises(SlurmError, match="full"):
        jobs[0].done()
    assert tools.calls()[-1] == "scancel 41"


def test_a_busy_queue_ends_no_job(tools, tmp_path, monkeypatch):
    """squeue that fails for a while: running jobs stay running, and are found again after a restart."""
    queue = tmp_path / "queue"
    tools(squeue=f"cat {queue}")
    engine = engines.Slurm(tmp_path / "jobs")
    assert engine.queued() is None  # no answer
    job = engine.attach("7")
    assert job is not None and not job.done()
    queue.write_text("8 RUNNING 0 None\n")
    assert engine.attach("7") is None and not job.done()  # missing from one list: give it a moment
    queue.write_text("7 RUNNING 0\n")
    time.sleep(0.3)
    assert not job.done()
    queue.unlink()
    assert not job.done()
    queue.write_text("7 COMPLETED 0 None\n")
    assert not job.done()
    time.sleep(0.3)
    assert job.done()
    queue.unlink()
    monkeypatch.setattr(slurm, "SILENT_SECONDS", 0)
    with pytest.raises(SlurmError, match="squeue has not answered"):
        job.done()


def test_it_is_told_why_jobs_wait_and_which_came_back(tools, tmp_path, monkeypatch):
    queue = tmp_path / "queue"
    tools(squeue=f"cat {queue}")
    engine = engines.Slurm(tmp_path / "jobs")
    mine = ["7_0", "7_1", "7_2", "7_3"]
    queue.write_text(
        "7_0 PENDING 0 Priority\n7_1 PENDING 0 Priority\n7_2 RUNNING 0 None\n9_0 PENDING 0 Licenses\n"
        "7_3 PENDING 0 ReqNodeNotAvail, UnavailableNodes:node[1-3]\n"
    )
    assert engine.news(mine) == [
        "  2 jobs wait: Priority (jobs of others are ahead)",
        "  1 job waits: ReqNodeNotAvail (the nodes that fit are down, drained or reserved)",
    ]
    assert engine.news(mine) == [], "told once"
    queue.write_text(
        "7_2 PENDING 1 BeginTime\n7_3 PENDING 0 AssocGrpGRES\n7_1 PENDING 0 QOSMaxJobsPerUserLimit\n"
    )
    back, *others = engine.news(mine)
    assert "put job 7_2 back into the queue" in back and not others, (
        "reasons change often: once a minute will do"
    )
    monkeypatch.setattr(slurm, "NEWS_SECONDS", -1)
    lines = engine.news(mine)
    assert (
        "  1 job waits: AssocGrpGRES (a limit of your account or qos is reached)" in lines and len(lines) == 3
    )
    queue.write_text(
        "7_1 PENDING 0 None\n7_3 PENDING 0 Nodes required for job are DOWN, DRAINED or reserved\n"
    )
    assert engine.news(mine) == ["  1 job waits: Nodes required for job are DOWN, DRAINED or reserved"]
    queue.unlink()
    assert engine.news(mine) == []


def test_a_job_put_back_between_two_answers_is_told(tools, tmp_path):
    """Who asks every few seconds may see it neither running before nor pending after: Slurm's own count says it."""
    queue = tmp_path / "queue"
    tools(squeue=f"cat {queue}")
    engine = engines.Slurm(tmp_path / "jobs")
    told = "  Slurm put job {} back into the queue (node failed, preempted or requeued); it starts anew there"
    wide = "{:64}{:24}{:<12}{}\n"  # as squeue prints it
    queue.write_text(wide.format("7_0", "PENDING", 0, "None") + wide.format("7_1", "RUNNING", 0, "None"))
    assert engine.news(["7_0", "7_1"]) == []
    queue.write_text(
        wide.format("7_0", "REQUEUED", 1, "BeginTime") + wide.format("7_1", "RUNNING", 1, "None")
    )
    assert engine.news(["7_0", "7_1"]) == [told.format("7_0"), told.format("7_1")]
    assert engine.news(["7_0", "7_1"]) == [], "told once"
    queue.write_text(wide.format("7_0", "RUNNING", 1, "None") + wide.format("7_1", "COMPLETING", 3, "None"))
    assert engine.news(["7_0", "7_1"]) == [told.format("7_1")]
    assert engines.Slurm(tmp_path / "jobs").news(["7_0", "8_0"]) == [told.format("7_0")], (
        "also of an earlier call"
    )


SCONTROL = "JobId=19 ArrayJobId=18 ArrayTaskId=0 JobName=chatvec JobState={} Reason={} ExitCode={} TimeLimit=01:00:00"


@pytest.mark.parametrize(
    ("scontrol", "sacct", "sentence", "again"),
    [
        (SCONTROL.format("CANCELLED", "None", "0:15"), "", "was cancelled (scancel)", False),
        (SCONTROL.format("TIMEOUT", "TimeLimit", "0:15"), "", "reached its time limit of 01:00:00", True),
        (SCONTROL.format("OUT_OF_MEMORY", "OutOfMemory", "0:125"), "", "ran out of memory; ask for more", False),
        (SCONTROL.format("NODE_FAIL", "NodeDown", "1:0"), "", "lost its node", True),
        (SCONTROL.format("PREEMPTED", "None", "0:15"), "", "was preempted", True),
        (SCONTROL.format("FAILED", "RaisedSignal:9(Killed)", "0:9"), "", "was killed, as the system does when", True),
        (SCONTROL.format("FAILED", "NonZeroExitCode", "127:0"), "", "ended with exit code 127 and no result", True),
        (SCONTROL.format("FAILED", "RaisedSignal:11", "0:11"), "", "was ended by signal 11", True),
        ("", "OUT_OF_MEMORY|0:125|04:00:00", "ran out of memory", False),
        ("", "CANCELLED by 1000|0:0|04:00:00", "was cancelled", False),
        ("", "TIMEOUT|0:0|00:30:00", "reached its time limit of 00:30:00", True),
        ("", "PREEMPTED|0:15|UNLIMITED\nTIMEOUT|0:0|1-00:00:00", "reached its time limit of 1-00:00:00", True),
        ("", "DEADLINE|0:0|01:00:00", "reached its deadline", False),
        ("", "", "left the queue without a result (neither scontrol nor sacct says why)", True),
    ],
)  # fmt: skip
def test_ends_are_told_apart(tools, tmp_path, scontrol, sacct, sentence, again):
    programs = {"scontrol": scontrol, "sacct": sacct}
    tools(**{name: f"cat <<'END'\n{text}\nEND" if text else "exit 1" for name, text in programs.items()})
    job = engines.Slurm(tmp_path / "jobs").attach("18_0") or slurm._Job(engines.Slurm(tmp_path), "18_0")
    with pytest.raises(SlurmError) as caught:
        job.result()
    assert f"Slurm job 18_0 {sentence}" in str(caught.value) and caught.value.again is again


@pytest.fixture
def cluster(lab, tools):
    """A study of two cells, and a Slurm whose jobs never start."""
    lab.notebook("cell", "seed: int = 0  # seed", START, SUMMARY)
    lab.study("notebooks: {cell.ipynb: {grid: {seed: [0, 1]}}}")
    lab.environment |= {"PATH": os.environ["PATH"]}
    return lab


def test_a_dry_run_shows_and_asks_and_sends_nothing(cluster, tools):
    told = "sbatch: Job 3 to start at 2026-11-28T17:57:48 using 1 processors on nodes n1 in partition main"
    test = (
        f'if [ "$1" = --test-only ]; then cat > {tools.folder}/asked; echo "{told}" >&2; exit 0; fi; exit 1'
    )
    tools(sbatch=test, sinfo="echo 'main* 2:00:00'")
    options = [
        "--slurm",
        "hours=2",
        "--slurm",
        "memory_gb=40",
        "--slurm",
        "gpus=1",
        "--slurm",
        "account=00123",
    ]
    options += ["--slurm", "setup=module load cuda", "--slurm", "setup=ulimit -c 0", "--slurm", "exclusive"]
    status, text = cluster.run("--engine", "slurm", "--dry-run", *options)
    assert status == 0, text
    assert text.count("to run  cell") == 2
    assert "each of these 2 is a job with time=120 minutes, mem=40960M, gpus-per-node=1, one core" in text
    assert "    #SBATCH --account=00123\n    #SBATCH --exclusive\n" in text
    assert "    module load cuda\n    ulimit -c 0\n" in text
    assert "sbatch --test-only takes it: Job 3 to start at 2026-11-28T17:57:48" in text
    asked = (tools.folder / "asked").read_text()
    assert "".join(f"    {line}\n" for line in asked.splitlines()) in text, "what is shown is what is asked"
    assert not cluster.out.exists()

    status, text = cluster.run("--engine", "slurm", "--dry-run", "--slurm", "hours=2.5")
    assert status == 2 and "time=150 is more than the partition gives (main gives 2:00:00)" in text
    tools(sbatch='echo "sbatch: error: invalid partition specified: x" >&2; exit 1')
    status, text = cluster.run("--engine", "slurm", "--dry-run", "--slurm", "partition=x")
    assert status == 2 and "sbatch refused the job: invalid partition specified: x. partition= names" in text
    assert "Traceback" not in text


def test_a_refused_study_is_one_paragraph_and_leaves_no_job(cluster, tools):
    tools(sbatch='echo "sbatch: error: Invalid qos specification" >&2; exit 1')
    status, text = cluster.run("--engine", "slurm", "--slurm", "qos=big")
    assert status == 2 and "Traceback" not in text
    assert text.splitlines()[1].startswith(
        "sbatch refused the job: Invalid qos specification. qos= and the limits"
    )
    assert not list(cluster.out.glob("cells/*/*/job.json")) and not cluster.records()


def test_a_cancelled_job_is_not_sent_again(cluster, tools):
    ended = SCONTROL.format("CANCELLED", "None", "0:15")
    tools(squeue="", scontrol=f"echo '{ended}'")
    engine = cluster.root / "chatvec_lab/study/slurm.py"
    engine.write_text(engine.read_text().replace("SETTLE_SECONDS = 15", "SETTLE_SECONDS = 0.1"))
    status, text = cluster.run("--engine", "slurm", "--retries", "3")
    assert status == 1 and text.count("JobEnded: Slurm job 7_0 was cancelled") == 2, text
    assert sum(call.startswith("sbatch") for call in tools.calls()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--slurm", "hours=1"], "--slurm is for --engine slurm, and this is --engine local."),
        (
            ["--engine", "slurm", "--workers", "2"],
            "--workers is for --engine local, and this is --engine slurm.",
        ),
        (["--scheduler", "tcp://x"], "--scheduler is for --engine dask"),
        (["--engine", "slurm", "--slurm", "hours=1", "--slurm", "hours=2"], "--slurm hours is given twice"),
        (["--set", "seed=1", "--set", "seed=2"], "--set seed is given twice"),
        (["--workers", "0"], "workers must be 1 or more, got 0"),
        (["--retries", "-1"], "--retries -1: there should be 0 or more"),
        (["--engine", "slurm", "--slurm", "gpu=1"], "did you mean gpus=?"),
    ],
)
def test_options_of_another_engine_are_refused(cluster, options, message):
    status, text = cluster.run(*options)
    assert status == 2 and message in text and "Traceback" not in text
    assert not cluster.out.exists()


def test_without_slurm_a_dry_run_shows_the_script_and_a_run_says_what_is_missing(cluster, tools):
    (tools.folder / "sbatch").unlink()
    cluster.environment["PATH"] = str(tools.folder)
    status, text = cluster.run("--engine", "slurm", "--slurm", "hours=1", "--dry-run")
    assert status == 0 and "#SBATCH --time=60" in text
    assert "not checked by Slurm, which does not answer here (" in text
    status, text = cluster.run("--engine", "slurm")
    assert (
        status == 2 and text == "--engine slurm needs sbatch on the PATH: start the study on a login node.\n"
    )


def test_each_notebook_asks_for_its_own_and_the_command_wins(cluster, tools):
    cluster.notebook("other", "seed: int = 0  # seed", START, SUMMARY)
    cluster.study("""
        notebooks:
          cell.ipynb: {grid: {seed: [0, 1]}, hours: 0.5, memory_gb: 1.50, gpus: a100:2}
          other.ipynb: {cpus: 08}
    """)
    tools(sbatch='cat >> $(dirname $0)/seen; echo "sbatch: Job 1 to start"')
    status, text = cluster.run("--engine", "slurm", "--dry-run", "--slurm", "account=007")
    assert status == 0, text
    first, second = text.split("other: each of 1 is a job with ")
    assert "cell: each of 2 is a job with time=30 minutes, mem=1536M, gpus-per-node=a100:2, one core" in first
    assert second.startswith("the partition's own time, the partition's own memory, no GPU, cpus-per-task=8")
    assert "#SBATCH --array=0-1\n" in first and "#SBATCH --array=0-0\n" in second
    assert text.count("#SBATCH --account=007\n") == 2
    assert "cell: sbatch --test-only takes it" in text and "other: sbatch --test-only takes it" in text
    asked = (tools.folder / "seen").read_text()
    assert asked.count("--gpus-per-node=a100:2") == asked.count("--time=30") == 1
    status, text = cluster.run("--engine", "slurm", "--dry-run", "--slurm", "gpus=0", "--slurm", "time=2-0")
    assert status == 0 and "gpus-per-node" not in text and text.count("#SBATCH --time=2-0\n") == 2
    assert "--mem=1536M" in text


def test_a_refusal_names_the_notebook_that_asks_for_too_much(cluster, tools):
    cluster.notebook("other", "seed: int = 0  # seed", START, SUMMARY)
    cluster.study("notebooks:\n  cell.ipynb: {hours: 3}\n  other.ipynb: {hours: 1}\n")
    tools(sinfo='echo "main* 2:00:00"', sbatch='cat > /dev/null; echo "sbatch: Job 1 to start"')
    status, text = cluster.run("--engine", "slurm", "--dry-run")
    assert status == 2 and "cell: time=180 is more than the partition gives" in text
    assert "other: time" not in text and "Traceback" not in text


def test_cells_that_ask_for_different_things_are_different_arrays(tools, tmp_path):
    count = (
        'n=$(cat "$0.n" 2>/dev/null || echo 6); echo $((n+1)) > "$0.n"; echo "Submitted batch job $((n+1))"'
    )
    tools(sbatch=count)
    engine = engines.Slurm(tmp_path / "jobs", hours="1")
    jobs = [
        engine.submit(os.listdir, ".", asks=asks) for asks in ({"gpus": "1"}, {}, {"gpus": "1", "hours": "9"})
    ]
    engine.flush()
    assert [job.token for job in jobs] == ["7_0", "8_0", "7_1"], (
        "the command's hours win, so the third is like the first"
    )
    scripts = sorted(path.read_text() for path in (tmp_path / "jobs").glob("*/script.sh"))
    assert sorted(("--gpus-per-node=1" in text, "--array=0-1" in text) for text in scripts) == [
        (False, False),
        (True, True),
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"setup": "export HF_TOKEN=hf_abcdefghijklmnop"},
        {"setup": ["module load cuda", "JUDGE_KEY='sk-abcdefgh12'"]},
        {"python": "apptainer exec --env OPENAI_API_KEY=sk-abcdefgh12 lab.sif python3"},
        {"export": "ALL,HF_TOKEN=hf_abcdefghijklmnop"},
        {"comment": "run with sesame-open-77"},
    ],
)
def test_a_secret_does_not_come_into_a_script(tools, tmp_path, monkeypatch, options):
    monkeypatch.setenv("SOME_TOKEN", "sesame-open-77")
    with pytest.raises(ValueError, match="looks like a secret, which would stand in a script"):
        engines.Slurm(tmp_path / "jobs", **options)


def test_setup_may_read_a_secret_from_elsewhere(tools, tmp_path):
    lines = ["export HF_TOKEN=$(cat ~/.token)", 'JUDGE_KEY="$OTHER"', "export HF_HOME=/scratch/me"]
    assert engines.Slurm(tmp_path / "jobs", setup=lines).setup == lines


def test_a_jobs_own_log_loses_secrets_when_it_has_ended(tools, tmp_path, monkeypatch):
    """Also where the call that finds it is another one; until then the folder is its owner's alone."""
    monkeypatch.setenv("SOME_TOKEN", "hf_abcdefghijklmnop")
    log = 'log=$(sed -n "s/^#SBATCH --output=//p" "$1" | sed "s/%A/12/; s/%a/$i/")'
    run = f'for i in 0 1; do {log}; SLURM_ARRAY_TASK_ID=$i bash "$1" >"$log" 2>&1; done'
    tools(sbatch=f'{run}\necho "Submitted batch job 12"')
    engine = engines.Slurm(tmp_path / "jobs", setup="echo with $SOME_TOKEN")
    bad = engine.submit(os.listdir, "/nowhere/hf_abcdefghijklmnop")
    engine.submit(os.listdir, str(tmp_path))
    engine.flush()
    (folder,) = (tmp_path / "jobs").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert "with hf_abcdefghijklmnop" in (folder / "12_0.log").read_text()
    with pytest.raises(SlurmError, match="nowhere/<SOME_TOKEN>"):
        bad.result()
    assert (folder / "12_0.log").read_text().startswith("with <SOME_TOKEN>")
    assert "hf_" not in (folder / "0.result.json").read_text()
    assert engines.Slurm(tmp_path / "jobs").attach("12_1") is None, "it has left the queue"
    assert (folder / "12_1.log").read_text() == "with <SOME_TOKEN>\n"
