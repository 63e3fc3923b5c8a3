"""The options of a Slurm job and sbatch's answers: checked before a job is sent, and sent as they are written."""

import difflib
import functools
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from chatvec_lab.secrets import looks_secret, secrets_of
from chatvec_lab.study.asks import number_of

TARGETS = {"hours": "time", "memory_gb": "mem", "gpus": "gpus-per-node", "cpus": "cpus-per-task"}
OURS = (*TARGETS, "at_once", "setup", "python")
# What the engine itself says to sbatch, or what would keep its jobs from being jobs.
RESERVED = (
    "array",
    "output",
    "error",
    "wrap",
    "parsable",
    "test-only",
    "wait",
    "help",
    "usage",
    "version",
    "quiet",
)
# sbatch's own options (Slurm 25.05); those of a site's plugins are read from `sbatch --help`.
SBATCH = frozenset(
    re.findall(
        r"\S+",
        """
        account acctg-freq batch bb bbf begin chdir cluster-constraint clusters comment consolidate-segments constraint
        container container-id contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline
        delay-boot dependency distribution exclude exclusive export export-file extra extra-node-info get-user-env gid
        gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint hold ignore-pbs input
        job-name kill-on-invalid-dep licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus
        network nice no-kill no-requeue nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node
        ntasks-per-socket open-mode overcommit oversubscribe partition power prefer priority profile propagate qos
        reboot requeue reservation resv-ports segment signal sockets-per-node spread-job stepmgr switches thread-spec
        threads-per-core time time-min tmp tres-bind tres-per-task uid use-min-nodes verbose wait-all-nodes wckey
        """,
    )
)
FLAGS = frozenset(
    re.findall(
        r"\S+",
        "contiguous exclusive get-user-env hold ignore-pbs no-kill no-requeue overcommit oversubscribe reboot requeue "
        "resv-ports spread-job stepmgr use-min-nodes verbose",
    )
)
_TIME = re.compile(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|unlimited|infinite", re.IGNORECASE)

REFUSALS = {  # a part of sbatch's message: what to do; the first that is in it counts
    "accounting/qos policy": "A limit of your account or qos: ask for fewer or smaller jobs at a time (at_once=).",
    "invalid partition": "partition= names one of: {partitions}.",
    "invalid account": "account= names one that you may use; `sacctmgr show associations user=$USER` lists them.",
    "node configuration is not available": "No node has as much: lower memory_gb, gpus or cpus (`sinfo -N -l`).",
    "memory specification": "No node has as much memory: lower memory_gb (`sinfo -N -o '%N %m'`).",
    "invalid generic resource": "This cluster names its GPUs otherwise: `sinfo -o %G` says how; gres=NAME:N asks so.",
    "time limit": "The partition gives less time (`sinfo -o '%P %l'`): lower hours, or take another partition.",
    "qos": "qos= and the limits behind it do not allow that: `sacctmgr show qos` lists them.",
    "reservation": "reservation= is not known or not yours: `scontrol show reservation`.",
    "wckey": "This cluster wants wckey=, or does not know that one.",
    "invalid feature": "constraint= names what no node has: `sinfo -o '%N %f'`.",
    "authentication": "Your login has likely run out: log in again (kinit), then give the same command.",
    "permission denied": "Your login has likely run out: log in again (kinit), then give the same command.",
    "unable to contact": "The controller does not answer: wait a little, then give the same command.",
    "node count specification": "Lower nodes= or take another partition.",
    "no such file or directory: 'sbatch'": "--engine slurm needs sbatch on the PATH: start the study on a login node.",
    "unrecognized option": "This Slurm does not know that option; `sbatch --help` lists those that it knows.",
}


class SlurmError(RuntimeError):
    """What Slurm refused, or how a job ended; `again`: another attempt may succeed."""

    def __init__(self, text: str, *, again: bool = True):
        super().__init__(text)
        self.again = again


def read_options(options: Mapping[str, Any]) -> tuple[dict[str, str], int | None, list[str], str]:
    """Options of sbatch by name with their text, how many run at once, lines of setup, and how Python is started.

    >>> read_options({"hours": "0.01", "account": "00123", "memory_gb": "1.5"})[0]
    {'time': '1', 'mem': '1536M', 'account': '00123'}
    """
    given: dict[str, Any] = {}
    for name, value in options.items():
        plain = name.strip().lstrip("-")
        key = plain if plain in OURS else plain.replace("_", "-")
        if key in given:
            raise ValueError(f"--slurm {key} is given twice.")
        given[key] = value
    setup = given.pop("setup", [])
    setup = [setup] if isinstance(setup, str) else list(setup)
    python = str(given.pop("python", shlex.quote(sys.executable))).strip()
    at_once = given.pop("at_once", None)
    found: dict[str, str] = {}
    for name, target in TARGETS.items():
        if name in given:
            value = given.pop(name)
            if clash := [other for other in _SAME[target] if other in given]:
                raise ValueError(f"--slurm {name} and {clash[0]} say the same thing: give one of them.")
            if (text := _ours(name, value, f"--slurm {name}={value}")) is not None:
                found[target] = text
    unknown = [name for name in given if name not in SBATCH and name not in RESERVED]
    if unknown:
        unknown = [name for name in unknown if name not in _site_options()]
    if unknown:
        raise ValueError("\n".join(_unknown(name) for name in unknown))
    for name, value in given.items():
        found |= _option(name, value)
    for text in [*setup, python]:
        if not text.strip() or "\n" in text or "\0" in text:
            raise ValueError(f"--slurm setup= and python= are one line of shell each, got {text!r}.")
    for text in [*setup, python, *(f"{name}={value}" for name, value in given.items())]:
        _refuse_secret(text)
    at_once = None if at_once is None else int(number_of("at_once", at_once, f"--slurm at_once={at_once}"))
    return found, at_once, setup, python


def with_asks(options: Mapping[str, str], asks: Mapping[str, str], said: Collection[str]) -> dict[str, str]:
    """Options of sbatch with what a notebook asks for; what the command says of the same thing (`said`) wins.

    >>> with_asks({"mem-per-cpu": "2G"}, {"hours": "2", "memory_gb": "8"}, {"mem-per-cpu"})
    {'time': '120', 'mem-per-cpu': '2G'}
    """
    more: dict[str, str] = {}
    for name, value in asks.items():
        target = TARGETS[name]
        is_said = {name, target, *_SAME[target]} & {*said}
        if not is_said and (text := _ours(name, value, name)) is not None:
            more[target] = text
    return more | options


def _refuse_secret(text: str) -> None:
    """A script lies on a shared disk, and sbatch hands the environment on anyway."""
    assigned = re.findall(r"""(?<![\w$])([A-Za-z_]\w*)=(?!["']?[$`])[^\s;&|,]""", text)
    if names := [name for name in assigned if looks_secret(name)] or secrets_of(text):
        raise ValueError(
            f"--slurm: {', '.join(names)} looks like a secret, which would stand in a script on a shared disk. Leave it "
            "out and set it in your own environment, which sbatch hands on to the job."
        )


_SAME = {
    "time": ("time",),
    "mem": ("mem", "mem-per-cpu", "mem-per-gpu"),
    "gpus-per-node": ("gpus-per-node", "gpus", "gpus-per-task", "gres"),
    "cpus-per-task": ("cpus-per-task", "cpus-per-gpu"),
}


def _ours(name: str, value: Any, said: str) -> str | None:
    """The text that sbatch wants for one of our own words; None for no GPU."""
    number = number_of(name, value, said)
    if name == "hours":
        return str(max(1, math.ceil(60 * number - 1e-9)))  # in minutes; 0 would be no limit
    if name == "memory_gb":
        return f"{max(1, math.ceil(1024 * number - 1e-9))}M"
    if not number:
        return None
    return str(value) if ":" in str(value) else str(number)  # a100:2


def _option(name: str, value: Any) -> dict[str, str]:
    """An option of sbatch as it is sent: its text, "" for a bare flag; none where a flag is switched off."""
    text = str(value)
    if name in RESERVED:
        raise ValueError(f"--slurm {name}: the engine itself says that to sbatch; leave it out.")
    if not text.isprintable():
        raise ValueError(f"--slurm {name}={text!r}: a line break or another character that cannot be sent.")
    if name in FLAGS and text.lower() in ("true", "yes", "1", ""):
        return {name: ""}
    if name in FLAGS and text.lower() in ("false", "no", "0"):
        return {}
    if not text:
        raise ValueError(f"--slurm {name}= has no value.")
    if name in ("time", "time-min") and not _TIME.fullmatch(text):
        raise ValueError(
            f"--slurm {name}={text} is no time of Slurm: minutes, H:M:S or D-H:M:S; hours=0.5 is half an hour."
        )
    return {name: text}


def minutes(text: str) -> float:
    """A time of Slurm in minutes; infinity for no limit and for what is no time.

    >>> minutes("90"), minutes("1:30:00"), minutes("2-0"), minutes("5:30"), minutes("infinite")
    (90.0, 90.0, 2880.0, 5.5, inf)
    """
    text = text.strip()
    if not _TIME.fullmatch(text) or not text[0].isdigit():
        return math.inf
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    weights = (60, 1, 1 / 60) if dash or len(parts) == 3 else (1, 1 / 60)
    return 1440.0 * int(days or 0) + sum(part * weight for part, weight in zip(parts, weights, strict=False))


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name.replace("-", "_"), OURS, n=1) or difflib.get_close_matches(
        name, SBATCH, n=1
    )
    hint = f"did you mean {near[0]}=?" if near else "`sbatch --help` lists sbatch's own."
    return f"--slurm {name}=: neither {', '.join(OURS)} nor an option of sbatch; {hint}"


@functools.cache
def _site_options() -> frozenset[str]:
    """Options that sbatch knows at this site, plugins' (such as pyxis' --container-image) included."""
    return frozenset(re.findall(r"--([a-z][a-z0-9-]+)", ask(["sbatch", "--help"]).stdout))


def line(name: str, value: str) -> str:
    """The line of a batch script that says an option; the value is quoted where sbatch would cut it."""
    if re.fullmatch(r"[\w@%+=:,./-]*", value):
        return f"#SBATCH --{name}" + (f"={value}" if value else "")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'#SBATCH --{name}="{escaped}"'


def submit(script: Path) -> str:
    """The id of the array that sbatch made of a script."""
    answer = ask(["sbatch", str(script)])
    found = re.search(r"Submitted batch job (\d+)|^(\d+)(?:;\S*)?$", answer.stdout, re.MULTILINE)
    if answer.returncode or not found:
        raise SlurmError(refusal(clean(answer.stderr or answer.stdout), script))
    return found[1] or found[2]


def refusal(said: str, script: Path | None = None) -> str:
    """sbatch's refusal in one paragraph, with what to do about it."""
    hint = next((hint for part, hint in REFUSALS.items() if part in said.lower()), "")
    if "{partitions}" in hint:
        known = sorted(set(ask(["sinfo", "--noheader", "--format=%R"]).stdout.split()))
        hint = hint.format(partitions=", ".join(known) or "those that `sinfo` lists")
    where = f" The script: {script}." if script else ""
    end = " Nothing was submitted; jobs sent before go on." if script else ""
    text = f"sbatch refused the job: {said.rstrip('.') or 'it gave no reason'}. {hint}{where}{end}"
    return text.replace("  ", " ").strip()


def ask(command: list[str], input: str | None = None) -> subprocess.CompletedProcess:
    """Run one of Slurm's tools; a tool that is missing or hangs is one that failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120, check=False,
                              input=input, stdin=None if input is not None else subprocess.DEVNULL)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]}: {error}")


def clean(said: str) -> str:
    """A tool's message on one line, without its own name before every sentence."""
    lines = [re.sub(r"^(sbatch|squeue|scontrol): (error: )?", "", line.strip()) for line in said.splitlines()]
    return "; ".join(dict.fromkeys(filter(None, lines)))
