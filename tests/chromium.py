"""Finds Chromium for the tests that need a browser, and installs it where there is none."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

from tools.comfyui.editor import find_chromium

INSTALL_SECONDS = 240  # for each of two steps
# No questions, and no waiting for a network that is not there.
APT = ("env", "DEBIAN_FRONTEND=noninteractive", "timeout", str(INSTALL_SECONDS), "apt-get", "-yq")
APT += ("-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10")
APT += ("-o", "DPkg::Lock::Timeout=20")


def chromium_path() -> str:
    """Where Chromium is, installed if need be; what needs it is skipped if that fails."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with FileLock(Path(tempfile.gettempdir()) / "flexedit-chromium.lock"):  # tests run side by side
        path = find_chromium() or playwrights_chromium()
        failure = "" if path else install_chromium()
    path = path or find_chromium()
    if path is None:
        pytest.skip(f"no Chromium is installed: {failure}")
    return path


def playwrights_chromium() -> str | None:
    """The one that `playwright install chromium` puts into the home folder."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def install_chromium() -> str:
    """Installs Debian's or Ubuntu's package → "", or the last line of what failed."""
    if shutil.which("apt-get") is None:
        return "there is no apt-get here to install it"
    is_root = os.geteuid() == 0
    if not is_root and shutil.which("sudo") is None:
        return "installing it needs root"
    command = [*(() if is_root else ("sudo", "-n")), *APT]  # -n: it never asks for a password
    subprocess.run([*command, "update"], stdin=subprocess.DEVNULL, capture_output=True)
    done = subprocess.run(
        [*command, "install", "--no-install-recommends", "chromium"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode == 0:
        return ""
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines else f"apt-get was not done after {INSTALL_SECONDS} s"
