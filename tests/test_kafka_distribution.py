"""Kafka's archive holds just the listed jars, is always the same bytes, and is used only when complete."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from conftest import load_module

kafka_distribution = load_module("kafka_distribution", "kafka_distribution")
pinned_wheel = load_module("kafka_distribution", "pinned_wheel")

# Copies the jars of the folder JARS, as Maven would those of the registry.
MAVEN = """#!/bin/sh
for argument; do case $argument in -DoutputDirectory=*) libs=${argument#*=} ;; esac; done
mkdir -p "$libs" && cp %s/* "$libs"
"""


@pytest.fixture
def jars(tmp_path: Path) -> Path:
    folder = tmp_path / "jars"
    folder.mkdir()
    (folder / "a.jar").write_bytes(b"a" * 100_000)
    (folder / "b.jar").write_bytes(b"b")
    return folder


@pytest.fixture
def source(tmp_path: Path, jars: Path) -> Path:
    folder = tmp_path / "files"
    for part in ("bin", "config"):
        (folder / part).mkdir(parents=True)
    (folder / "pom.xml").write_text("<project/>")
    (folder / "bin/kafka-topics.sh").write_text("#!/bin/sh\n")
    (folder / "config/log4j2.yaml").write_text("Configuration:\n")
    lines = [f"{kafka_distribution.sha256_of(jar)}  libs/{jar.name}\n" for jar in sorted(jars.iterdir())]
    (folder / "jars.sha256").write_text("".join(lines))
    return folder


@pytest.fixture
def maven(tmp_path: Path, jars: Path) -> str:
    script = tmp_path / "mvn"
    script.write_text(MAVEN % jars)
    script.chmod(0o755)
    return str(script)


def make(root: Path, source: Path, maven: str) -> tuple[object, str]:
    root.mkdir(exist_ok=True)
    place = kafka_distribution.Place(root, "kafka_2.13-1.0")
    wanted = kafka_distribution.wanted_files(source)
    return place, kafka_distribution.build(place, source, maven, wanted)


def test_archive_has_the_layout_of_apaches(tmp_path: Path, source: Path, maven: str) -> None:
    make(tmp_path / "cache", source, maven)
    with tarfile.open(tmp_path / "cache/kafka_2.13-1.0.tgz") as archive:
        modes = {entry.name: entry.mode for entry in archive if entry.isfile()}
    assert modes == {
        "kafka_2.13-1.0/bin/kafka-topics.sh": 0o755,
        "kafka_2.13-1.0/config/log4j2.yaml": 0o644,
        "kafka_2.13-1.0/libs/a.jar": 0o644,
        "kafka_2.13-1.0/libs/b.jar": 0o644,
    }


def test_same_files_give_the_same_archive(tmp_path: Path, source: Path, maven: str) -> None:
    _, first = make(tmp_path / "one", source, maven)
    _, second = make(tmp_path / "two", source, maven)
    assert first == second


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda jars: (jars / "c.jar").write_bytes(b"c"), r"unexpected \['libs/c.jar'\]"),
        (lambda jars: (jars / "a.jar").unlink(), r"missing \['libs/a.jar'\]"),
        (lambda jars: (jars / "b.jar").write_bytes(b"x"), r"of other content \['libs/b.jar'\]"),
    ],
)
def test_other_jars_than_the_listed_are_refused(
    tmp_path: Path, source: Path, maven: str, jars: Path, change: object, complaint: str
) -> None:
    assert callable(change)
    change(jars)
    with pytest.raises(kafka_distribution.BuildError, match=complaint):
        make(tmp_path / "cache", source, maven)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: (root / "kafka_2.13-1.0.json").unlink(),
        lambda root: (root / "kafka_2.13-1.0.json").write_text("{"),
        lambda root: (root / "kafka_2.13-1.0.json").write_text(json.dumps({"files": {}})),
        lambda root: (root / "kafka_2.13-1.0.tgz").write_bytes(b"cut"),
        lambda root: (root / "kafka_2.13-1.0/libs/a.jar").write_bytes(b"other"),
        lambda root: (root / "kafka_2.13-1.0/libs/a.jar").unlink(),
        lambda root: (root / "kafka_2.13-1.0/libs/more.jar").write_bytes(b"more"),
    ],
)
def test_damaged_archive_is_not_used_and_can_be_made_anew(
    tmp_path: Path, source: Path, maven: str, damage: object
) -> None:
    place, checksum = make(tmp_path / "cache", source, maven)
    wanted = kafka_distribution.wanted_files(source)
    assert kafka_distribution.built_checksum(place, wanted) == checksum
    assert callable(damage)
    damage(tmp_path / "cache")
    assert kafka_distribution.built_checksum(place, wanted) is None
    make(tmp_path / "cache", source, maven)
    assert kafka_distribution.built_checksum(place, wanted) == checksum


def test_changed_wrapper_makes_another_archive(tmp_path: Path, source: Path, maven: str) -> None:
    place, _ = make(tmp_path / "cache", source, maven)
    (source / "bin/kafka-topics.sh").write_text("#!/bin/sh\nexit 1\n")
    wanted = kafka_distribution.wanted_files(source)
    assert kafka_distribution.built_checksum(place, wanted) is None


def test_leftovers_of_a_killed_build_are_removed(tmp_path: Path, source: Path, maven: str) -> None:
    (tmp_path / "cache/.build-kafka_2.13-1.0-x/libs").mkdir(parents=True)
    make(tmp_path / "cache", source, maven)
    assert not list((tmp_path / "cache").glob(".build-*"))


@pytest.mark.parametrize(
    ("proxies", "options"),
    [
        ({}, []),
        ({"no": "example.com"}, []),
        ({"http": "http://proxy:3128"}, ["-Dhttp.proxyHost=proxy", "-Dhttp.proxyPort=3128"]),
        ({"https": "proxy"}, ["-Dhttps.proxyHost=proxy", "-Dhttps.proxyPort=80"]),
        (
            {"https": "http://me:secret@proxy:3128/", "no": "localhost, .example.com,"},
            [
                "-Dhttps.proxyHost=proxy",
                "-Dhttps.proxyPort=3128",
                "-Dhttp.nonProxyHosts=localhost|*.example.com",
            ],
        ),
    ],
)
def test_maven_is_told_of_the_proxies(proxies: dict[str, str], options: list[str]) -> None:
    assert kafka_distribution.proxy_options(proxies) == options


def test_maven_gets_the_proxies_of_the_environment(
    tmp_path: Path, source: Path, maven: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    script = Path(maven)
    text = script.read_text()
    script.write_text(text.replace("\n", f'\necho "$@" > {tmp_path}/arguments\n', 1))
    make(tmp_path / "cache", source, maven)
    assert "-Dhttps.proxyHost=proxy -Dhttps.proxyPort=3128" in (tmp_path / "arguments").read_text()


def test_absent_maven_is_named(tmp_path: Path, source: Path) -> None:
    with pytest.raises(kafka_distribution.BuildError, match="apt-get install maven"):
        make(tmp_path / "cache", source, str(tmp_path / "no-mvn"))


def test_users_archive_must_be_the_expected_one(tmp_path: Path) -> None:
    archive = tmp_path / "kafka.tgz"
    archive.write_bytes(b"kafka")
    checksum = kafka_distribution.sha256_of(archive)
    assert kafka_distribution.check_own_archive(archive, f"sha256:{checksum}") == checksum
    for expected in (None, "", checksum, f"md5:{checksum}", "sha256:" + "0" * 64):
        with pytest.raises(kafka_distribution.BuildError, match="kafka_archive"):
            kafka_distribution.check_own_archive(archive, expected)


REQUIREMENTS = """click==8.5.1 \\
    --hash=sha256:{other}
    # via uvicorn
confluent-kafka==2.16.1 \\
    --hash=sha256:{wanted} \\
    --hash=sha256:{other}
    # via -r nodes.in
falcon==4.4.0 \\
    --hash=sha256:{other}
"""


def test_wheel_is_taken_only_with_a_listed_hash_python_and_platform(tmp_path: Path) -> None:
    wheel = tmp_path / "confluent_kafka-2.16.1-cp311-cp311-manylinux_2_28_x86_64.whl"
    wheel.write_bytes(b"wheel")
    wanted = kafka_distribution.sha256_of(wheel)
    text = REQUIREMENTS.format(wanted=wanted, other="f" * 64)
    requirement = pinned_wheel.find_requirement("confluent-kafka", text)
    assert requirement.version == "2.16.1"
    assert requirement.digests == {wanted, "f" * 64}
    assert requirement.text.count("--hash") == 2

    def find(platform: str, python: str = "3.11") -> object:
        return pinned_wheel.find_wheel(tmp_path, requirement, "confluent-kafka", python, [platform])

    assert find("manylinux_2_28_x86_64") == wheel
    assert find("manylinux_2_28_aarch64") is None
    assert find("manylinux_2_28_x86_64", "3.13") is None
    wheel.write_bytes(b"damaged")
    assert find("manylinux_2_28_x86_64") is None


def test_requirement_without_hashes_is_refused() -> None:
    for text in ("confluent-kafka==2.16.1\n", "confluent-kafka>=2\n", ""):
        with pytest.raises(pinned_wheel.WheelError, match="not pinned"):
            pinned_wheel.find_requirement("confluent-kafka", text)
