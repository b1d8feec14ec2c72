"""Which release a rollback returns to: one for all nodes, whatever each of them ran before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError


def release_before(nodes: Mapping[str, Sequence[str]]) -> str:
    """Return the release that ran before the newest one.

    `nodes`: of each the current release, the previous one ("" where it is unknown), and all that it has. A
    node that a broken off deployment did not reach, or that a broken off rollback has done already, runs what
    the others ran before. Raises AnsibleFilterError when none, or more than one, is the one before.
    """
    links = {name: (current, before) for name, (current, before, *_) in nodes.items()}
    previous = {before for _, before in links.values()}
    newest = {link for link in links.values() if link[0] not in previous}
    if len(newest) == 1:
        ((_, before),) = newest
        if before:
            return before
    listed = "; ".join(
        f"{name} runs {current} and before that {before or 'an unknown one'}"
        for name, (current, before) in links.items()
    )
    everywhere = set.intersection(*(set(releases) for _, _, *releases in nodes.values()))
    raise AnsibleFilterError(
        f"It is not clear which release to return to: {listed}. Nothing was changed. Name one by"
        f" rollback_release; all nodes have {', '.join(sorted(everywhere))}."
    )


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        """Return them by name."""
        return {"release_before": release_before}
