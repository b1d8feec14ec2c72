"""Runs the module of this name, and compares the clock of the node with that of this computer."""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase


def ahead(node: float, before: float, after: float) -> float:
    """Return the seconds that a clock is certainly ahead (or, negative, behind).

    It was read at some moment between the question and the answer, so that this time is no difference.
    """
    return max(node - after, min(0.0, node - before))


class ActionModule(ActionBase):  # type: ignore[misc]
    """The action."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the module returns, with `ahead`."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        before = time.time()
        result.update(self._execute_module(task_vars=task_vars))
        if "time" in result:
            result["ahead"] = ahead(result["time"], before, time.time())
        return result
