"""The first cases of every campaign; the long form is `python -m tests.campaigns --long`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaigns import damages, disks, fuzzing, kills
from tests.campaigns.outcomes import Campaign
from tests.support.warm_python import WarmPython


@pytest.mark.parametrize(
    "campaign", [damages.CAMPAIGN, fuzzing.CAMPAIGN, disks.CAMPAIGN], ids=lambda campaign: campaign.name
)
def test_faults_are_refused_by_name_or_answered_rightly(campaign: Campaign, tmp_path: Path) -> None:
    state = campaign.prepare(tmp_path)
    assert {n: wrong for n in range(campaign.short) if (wrong := campaign.case(state, n, tmp_path))} == {}


def test_what_was_killed_ends_as_what_was_not(warm: WarmPython, tmp_path: Path) -> None:
    state = kills.prepare(tmp_path, warm)
    assert {n: wrong for n in range(kills.CAMPAIGN.short) if (wrong := kills.case(state, n, tmp_path))} == {}
    assert state.counts
