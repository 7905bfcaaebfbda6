"""Words in answers."""

import pytest

from dynamollm.core.words import counted


@pytest.mark.parametrize(("number", "words"), [(0, "0 servers"), (1, "1 server"), (2, "2 servers")])
def test_one_is_no_plural(number: int, words: str) -> None:
    assert counted(number, "server") == words
