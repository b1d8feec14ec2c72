"""schemathesis: requests of all kinds that the OpenAPI document allows or forbids, and what they may give."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.front import front
from tests.integration.service import Running

pytestmark = pytest.mark.integration


def test_both_apis_do_what_their_document_says(running: Running, tmp_path: Path) -> None:
    folder = Path(__file__).parent
    with front(running) as url:
        result = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", folder / "schemathesis.toml"),
                *("run", f"{url}/api/v1/openapi.json", "--checks", "all", "--no-color"),
            ],
            env={
                **os.environ,
                "PYTHONPATH": str(folder.parents[1]),
                "SCHEMATHESIS_HOOKS": "tests.integration.schemathesis_hooks",
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
    (tmp_path / "report.txt").write_text(result.stdout)
    assert result.returncode == 0, result.stdout[-20_000:] + result.stderr[-2000:]
    assert "No issues found" in result.stdout
