"""Names that a person types."""

import pytest

from dynamollm.core.errors import InvalidInputError
from dynamollm.core.names import known_name

KNOWN = ("all", "SinglePool", "SinglePoolElastic", "Joint")


@pytest.mark.parametrize(
    ("text", "name"), [("Joint", "Joint"), ("joint", "Joint"), (" SINGLEPOOL ", "SinglePool"), ("All", "all")]
)
def test_any_letter_case_is_the_name(text: str, name: str) -> None:
    assert known_name(text, KNOWN, field="--policy") == name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("joit", "--policy 'joit': did you mean Joint? Use one of all, SinglePool, SinglePoolElastic, Joint"),
        ("SinglePol", "--policy 'SinglePol': did you mean SinglePool? Use one of"),
        ("fastest", "--policy 'fastest': use one of all, SinglePool, SinglePoolElastic, Joint"),
        ("", "--policy '': use one of"),
    ],
)
def test_another_is_answered_with_the_one_that_was_meant(text: str, says: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        known_name(text, KNOWN, field="--policy")
    assert str(refused.value).startswith(says)
