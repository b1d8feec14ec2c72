"""Pages are true: each link leads somewhere, and each path and target of make that they name exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PAGES = [
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((PROJECT / "docs").glob("*.md")),
]
# The changelog also names what no longer exists.
CURRENT_PAGES = [page for page in PAGES if page.name != "CHANGELOG.md"]
FOLDERS = (
    *("app", "bench", "cli", "docs", "inventories", "molecule", "playbooks"),
    *("requirements", "roles", "scripts", "tests"),
)
# The reader's own copy of inventories/production.
READERS_INVENTORY = "inventories/mine"
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(rf"(?<![\w./~<-])(?:{'|'.join(FOLDERS)})/[\w./*-]*")
MAKE = re.compile(r"\bmake(?: -\w+)* ([a-z][a-z-]*)")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
each_current_page = pytest.mark.parametrize("page", CURRENT_PAGES, ids=lambda page: page.name)


def code(text: str) -> str:
    """Return what stands between backticks, one piece per line."""
    return "\n".join([*FENCE.findall(text), *INLINE_CODE.findall(FENCE.sub("", text))])


def links(text: str) -> list[str]:
    """Return the targets of all links that lead to this repository."""
    targets = LINK.findall(INLINE_CODE.sub("code", FENCE.sub("", text)))
    return [target for target in targets if "://" not in target]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    names = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in names}


def targets_of_make() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))


def is_ignored_by_git(path: str) -> bool:
    # With the slash, also a folder that does not exist yet matches its pattern.
    command = ["git", "-C", str(PROJECT), "check-ignore", "--quiet", f"{path.rstrip('/')}/"]
    return subprocess.run(command, check=False).returncode == 0


@each_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for link in links(page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    assert broken == []


@each_current_page
def test_paths_of_the_repository_exist(page: Path) -> None:
    missing = []
    for name in PATH.findall(code(page.read_text())):
        path = name.rstrip(".")
        exists = any(PROJECT.glob(path))
        # What a command writes is named in .gitignore.
        if not exists and not path.startswith(READERS_INVENTORY) and not is_ignored_by_git(path):
            missing.append(path)
    assert missing == []


@each_current_page
def test_targets_of_make_exist(page: Path) -> None:
    named = set(MAKE.findall(code(page.read_text())))
    assert named - targets_of_make() == set()


def test_readme_links_to_every_page() -> None:
    linked = {PROJECT / link.partition("#")[0] for link in links((PROJECT / "README.md").read_text())}
    assert set(PAGES) - linked == {PROJECT / "README.md"}
