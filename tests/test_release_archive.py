"""The archive of a release is named after its content, and is there whole or not at all."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import RunModule, load_module

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


class Build:
    """A release that is built without a registry; `commands` are those that were run."""

    def __init__(self, source: Path, folder: Path, run_module: RunModule) -> None:
        self.commands: list[list[str]] = []
        self.archives = folder / "archives"
        self.run_module = run_module
        self.parameters: dict[str, Any] = {
            "source": str(source),
            "archives": str(self.archives),
            "python_version": "3.11",
            "platforms": ["manylinux_2_28_x86_64"],
        }
        for name in ("requirements", "installer"):
            self.parameters[name] = str(folder / f"{name}.txt")
            (folder / f"{name}.txt").write_text(f"{name}==1.0\n")

    def run_command(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        """Stand for pip and build: both write into a folder of wheels."""
        self.commands.append(command)
        (wheels,) = (
            Path(word.partition("=")[2]) for word in command if word.startswith(("--dest=", "--outdir="))
        )
        wheels.mkdir(exist_ok=True)
        (wheels / f"{len(self.commands)}.whl").touch()
        return subprocess.CompletedProcess(command, 0, "")

    def run(self, **changes: Any) -> dict[str, Any]:
        return self.run_module(release_archive, {**self.parameters, **changes})


@pytest.fixture
def build(source: Path, tmp_path: Path, run_module: RunModule, monkeypatch: pytest.MonkeyPatch) -> Build:
    made = Build(source, tmp_path, run_module)
    monkeypatch.setattr(release_archive.subprocess, "run", made.run_command)
    return made


def test_archive_holds_all_wheels_and_the_requirements(build: Build) -> None:
    answer = build.run()
    with tarfile.open(answer["path"]) as archive:
        names = {name.removeprefix("wheels/") for name in archive.getnames()}
    assert {"1.whl", "2.whl", "3.whl", "requirements.txt"} <= names
    assert [path.name for path in build.archives.iterdir()] == [f"timestamp-service-{answer['version']}.tar"]


def test_archive_is_built_once_for_each_content(build: Build) -> None:
    first = build.run()
    assert (first["built"], build.run()["built"]) == (True, False)
    assert len(build.commands) == 3


def rewrite(name: str) -> Callable[[Build], dict[str, Any]]:
    def change(build: Build) -> dict[str, Any]:
        Path(build.parameters[name]).write_text("other==2.0\n")
        return {}

    return change


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(rewrite("requirements"), id="requirements"),
        pytest.param(rewrite("installer"), id="installer"),
        pytest.param(lambda _: {"python_version": "3.12"}, id="python_version"),
        pytest.param(lambda _: {"platforms": ["manylinux_2_28_aarch64"]}, id="platforms"),
    ],
)
def test_all_that_goes_in_makes_another_release(
    build: Build, change: Callable[[Build], dict[str, Any]]
) -> None:
    first = build.run()["version"]
    assert build.run(**change(build))["version"] != first


def test_only_wheels_whose_hashes_are_pinned_are_downloaded(build: Build) -> None:
    build.run()
    downloads = [command for command in build.commands if "download" in command]
    assert [command[-1] for command in downloads] == [
        f"--requirement={build.parameters[name]}" for name in ("requirements", "installer")
    ]
    for command in downloads:
        assert {"--require-hashes", "--no-deps", "--only-binary=:all:", "--python-version=3.11"} <= set(
            command
        )
        assert "--platform=manylinux_2_28_x86_64" in command


def test_archive_that_is_being_written_has_another_name(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(archive: tarfile.TarFile, *_: object, **__: object) -> None:
        assert archive.fileobj is not None
        archive.fileobj.write(b"x" * 512)
        raise OSError("No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "add", fill_the_disk)
    assert "No space left" in build.run()["msg"]
    assert list(build.archives.iterdir()) == []
