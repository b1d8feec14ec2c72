"""The archive of a release is named after its content, and is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import load_module

release_archive = load_module("timestamp", "release_archive")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    package = tmp_path / "app" / "timestamp_service"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "app" / "pyproject.toml").write_text("[project]\n")
    return tmp_path / "app"


def version(source: Path, settings: list[str] | None = None) -> str:
    return str(release_archive.release_version(source, [], settings or ["3.11"]))


def test_name_holds_the_version_and_the_content(source: Path) -> None:
    first = version(source)
    assert first.startswith("1.2.3-")
    assert version(source) == first
    (source / "timestamp_service" / "more.py").write_text("x = 1\n")
    assert version(source) != first


def test_name_depends_on_the_settings(source: Path) -> None:
    assert version(source, ["3.11"]) != version(source, ["3.12"])


def test_compiled_files_do_not_count(source: Path) -> None:
    first = version(source)
    cache = source / "timestamp_service" / "__pycache__"
    cache.mkdir()
    (cache / "__init__.cpython-311.pyc").write_bytes(b"x")
    assert version(source) == first


def test_package_without_a_version_is_refused(source: Path) -> None:
    (source / "timestamp_service" / "__init__.py").write_text("")
    with pytest.raises(release_archive.BuildError, match="__version__"):
        version(source)


def test_failed_build_leaves_nothing(source: Path, tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("no-hash-here==1.0\n")
    archive = tmp_path / "archives" / "release.tar"
    parameters = {
        "source": str(source),
        "requirements": str(requirements),
        "installer": str(requirements),
        "python_version": "3.11",
        "platforms": ["manylinux_2_28_x86_64"],
    }
    with pytest.raises(
        release_archive.BuildError, match=r"Downloading the wheels of .*requirements\.txt failed"
    ):
        release_archive.build(parameters, archive)
    assert list(archive.parent.iterdir()) == []
