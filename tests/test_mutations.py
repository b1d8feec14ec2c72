"""Each wrong change of `make mutation` still applies to the code, so that the list does not rot."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from scripts import mutation
from scripts.mutation import Change, MutationError

CHANGES = mutation.read_changes()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: f"{change.file}: {change.wrong}")
def test_change_applies_and_names_tests(change: Change) -> None:
    changed = change.apply(mutation.PROJECT)
    # A file that cannot be read is noticed by any test, and says nothing about it.
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse((mutation.PROJECT / change.file).read_text()))
    assert change.tests
    assert all((mutation.PROJECT / test.partition("::")[0]).is_file() for test in change.tests)
    assert len({test.startswith("app/") for test in change.tests}) == 1


def test_no_change_is_listed_twice() -> None:
    assert len({(change.file, change.old, change.new) for change in CHANGES}) == len(CHANGES)


@pytest.mark.parametrize("text", ["", "x = 1\nx = 1\n"])
def test_change_that_does_not_apply_exactly_once_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.py").write_text(text)
    with pytest.raises(MutationError, match=r"a\.py has \d times, not once"):
        Change("a.py", "wrong", "x = 1\n", "x = 2\n", ("test_a.py",)).apply(tmp_path)
