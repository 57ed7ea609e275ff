"""The models refuse what the API server refuses, in the same words (`tests/cluster/test_crds.py` asks it)."""

import pytest

from feature_rollout.api.base import InvalidObject
from feature_rollout.api.kinds import parse
from unit.api.cases import REFUSALS, VALID, Case, manifest


@pytest.mark.parametrize("kind", VALID)
def test_what_the_cases_start_from_is_accepted(kind: str) -> None:
    assert parse(manifest(kind)).metadata.name


@pytest.mark.parametrize("case", REFUSALS, ids=str)
def test_it_is_refused(case: Case) -> None:
    with pytest.raises(InvalidObject) as refused:
        parse(case.manifest())
    assert case.words in str(refused.value)
