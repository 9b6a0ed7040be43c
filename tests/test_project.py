"""What is said twice about the project is said alike."""

import sys
from glob import glob
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


def requirements(name: str) -> list[str]:
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def test_pip_and_comfyui_manager_install_the_same_packages():
    assert requirements("requirements.txt") == PROJECT["dependencies"]


def test_installing_the_pack_leaves_torch_and_numpy_alone_and_caps_nothing():
    for requirement in requirements("requirements.txt"):
        assert not requirement.startswith(("torch", "numpy"))
        assert "<" not in requirement and "==" not in requirement


def test_tests_run_on_pinned_versions():
    assert all("==" in requirement for requirement in requirements("requirements-dev.txt"))


def test_the_citation_names_this_version():
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_file_of_the_package_is_installed_with_it():
    package = ROOT / "flexedit"
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["flexedit"]
    shipped = {
        Path(name) for one in patterns for name in glob(one, root_dir=package, recursive=True)
    }
    files = (file for file in package.rglob("*") if file.is_file())
    others = {file.relative_to(package) for file in files if file.suffix not in (".py", ".pyc")}
    assert others and others <= shipped
