"""A JupyterLab server of our own with notebooks copied into it, and a page of Debian's chromium that shows it."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

CHROMIUM = os.environ.get("CHATVEC_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 600  # seconds; a machine on which others train needs minutes to import torch
# asked of the notebook's model: every code cell has finished, or one has failed, which ends a run
_HAVE_RUN = """() => {
  const cells = window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells;
  const code = cells.filter(cell => cell.cell_type === "code");
  const hasFailed = cell => cell.outputs.some(output => output.output_type === "error");
  return code.some(hasFailed) || code.every(cell => cell.execution_count !== null);
}"""
SETTINGS = {
    # no toast that asks whether news may be fetched
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight stay in the page
}


@pytest.fixture(
    scope="module"
)  # playwright runs an event loop in this thread, which other tests must not find
def chromium():
    """A running headless chromium; skips where there is none, or no playwright to drive it."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install 'chatvec_lab[browser]'"
    )
    if CHROMIUM is None:
        pytest.skip("needs chromium (Debian: apt-get install chromium), or its path in CHATVEC_CHROMIUM")
    sync_api.expect.set_options(timeout=PATIENCE * 1000)  # not 5 seconds
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


class Lab:
    """A JupyterLab server: its folder of notebooks, its address, and its token."""

    def __init__(self, folder: Path, url: str, token: str):
        self.folder, self.url, self.token = folder, url, token

    def address(self, notebook: str) -> str:
        return f"{self.url}/lab/tree/{notebook}?reset&token={self.token}"

    def call(self, path: str, method: str = "GET") -> object:
        """What the server's REST interface answers, as data."""
        request = urllib.request.Request(f"{self.url}/api/{path}", method=method)
        request.add_header("Authorization", f"token {self.token}")
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.loads(reply.read() or "null")

    def answers(self) -> bool:
        try:
            return bool(self.call("status"))
        except OSError:
            return False

    def stop_kernels(self) -> None:
        for session in self.call("sessions"):
            self.call(f"sessions/{session['id']}", "DELETE")


@pytest.fixture(scope="module")
def lab(tmp_path_factory, chromium):
    """JupyterLab on a free loopback port, with settings, kernels and notebooks of its own; stopped at the end."""
    home = tmp_path_factory.mktemp("lab")
    folder = home / "notebooks"
    folder.mkdir()
    for name, values in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    places = {"CONFIG": "config", "DATA": "data", "RUNTIME": "runtime"}
    environment = os.environ | {f"JUPYTER_{name}_DIR": str(home / place) for name, place in places.items()}
    environment |= {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_TOKEN": token,
        "HF_HUB_OFFLINE": "1",
    }
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--expose-app-in-browser"),
        *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
        *(f"--ServerApp.root_dir={folder}", "--KernelManager.transport_encryption=auto"),
        *(["--allow-root"] if os.geteuid() == 0 else []),
    ]
    log = home / "lab.log"
    with log.open("wb") as out:
        server = subprocess.Popen(command, env=environment, cwd=home, stdout=out, stderr=subprocess.STDOUT)
    found = Lab(folder, f"http://127.0.0.1:{port}", token)
    try:
        deadline = time.monotonic() + PATIENCE
        while not found.answers():
            assert server.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.2)
        yield found
    finally:
        server.terminate()  # the server ends its kernels
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture
def open_notebook(lab, chromium):
    """`open_notebook(name)` -> the page that shows this notebook of the server's folder, its kernel idle.

    At the end no page may have raised an error in JavaScript.
    """
    errors, pages = [], []

    def opened(name: str, *, width: int = 1280, height: int = 1000):
        page = chromium.new_page(viewport={"width": width, "height": height})
        pages.append(page)
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(lab.address(name))
        page.wait_for_selector("#jupyterlab-splash", state="detached")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        # run-all before the kernel is there would ask which kernel to take, and wait for ever
        page.get_by_text(re.compile(r"Python 3.*\| Idle")).wait_for()
        return page

    yield opened
    for page in pages:
        page.close()
    lab.stop_kernels()
    assert not errors, errors


@pytest.fixture
def run_all():
    """`run_all(page)`: run every cell, and return when the last one has finished."""

    def ran(page) -> None:
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        page.wait_for_function(_HAVE_RUN)
        page.get_by_text(re.compile(r"Python 3.*\| Idle")).wait_for()

    return ran
