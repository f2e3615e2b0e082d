"""The trials of the group "fault", a few times each."""

from __future__ import annotations

from pathlib import Path

import pytest
from table import few_times, names_of


@pytest.mark.parametrize("name", names_of("fault"))
def test_what_should_hold_holds_every_time(name: str, tmp_path: Path) -> None:
    few_times(name, tmp_path)
