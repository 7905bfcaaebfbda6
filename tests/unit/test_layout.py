"""The shape of the repository that everything else relies on."""

import operator
import sysconfig
from pathlib import Path

import pytest

import dynamollm
from lab.paths import REPOSITORY

SOURCE_ROOT = REPOSITORY / "operator"
PACKAGES = sorted(path.parent for path in (SOURCE_ROOT / "dynamollm").rglob("__init__.py"))


def test_the_source_root_is_no_package() -> None:
    # The standard library owns the module name: a package here would take its place for whoever runs from the root.
    assert not (SOURCE_ROOT / "__init__.py").exists()
    assert Path(operator.__file__).parent == Path(sysconfig.get_path("stdlib"))
    assert Path(dynamollm.__file__).parent == SOURCE_ROOT / "dynamollm"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_says_what_lives_there(package: Path) -> None:
    assert (package / "__init__.py").read_text().startswith('"""')


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_folder_of_source_is_a_package(package: Path) -> None:
    folders = [path for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert [folder.name for folder in folders if not (folder / "__init__.py").exists()] == []


def test_files_stay_small_enough_to_hold_one_concept() -> None:
    files = [*SOURCE_ROOT.rglob("*.py"), *(REPOSITORY / "hack").rglob("*.py")]
    lines = {file.name: len(file.read_text().splitlines()) for file in files if not file.name.endswith("_pb2.py")}
    assert {name: count for name, count in lines.items() if count > 400} == {}


def test_names_of_test_files_are_unique_over_folders() -> None:
    """pytest imports them by that name alone, and which two meet in one worker is chance."""
    names = [path.name for path in (REPOSITORY / "tests").rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
