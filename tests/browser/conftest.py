import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.comfyui.editor import RENDERERS, Editor, chromium, find_chromium
from tools.comfyui.server import ComfyServer

INSTALL_SECONDS = 240  # for each of two steps
# No questions, and no waiting for a network that is not there.
APT = ("env", "DEBIAN_FRONTEND=noninteractive", "timeout", str(INSTALL_SECONDS), "apt-get", "-yq")
APT += ("-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10")
APT += ("-o", "DPkg::Lock::Timeout=20")


@pytest.fixture(scope="session")
def browser() -> str:
    """Where Chromium is, installed if need be; what needs it is skipped if that fails."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = find_chromium() or playwrights_chromium()
    if path is None:
        failure = install_chromium()
        path = find_chromium()
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


@pytest.fixture(scope="session")
def opened(comfy: ComfyServer, browser: str) -> Iterator[Editor]:
    """ComfyUI's page; loading it takes longer than most tests."""
    with chromium(browser, has_touch=True) as page:
        editor = Editor(page, comfy)
        editor.open()
        yield editor


@pytest.fixture
def editor(opened: Editor) -> Iterator[Editor]:
    """The page, in the classic rendering; the test fails if a script of the page does."""
    opened.errors.clear()
    opened.render("classic")
    yield opened
    assert opened.errors == []


@pytest.fixture(params=RENDERERS)
def rendered(editor: Editor, request) -> Editor:
    """The page, in each of its renderings."""
    editor.render(request.param)
    return editor
