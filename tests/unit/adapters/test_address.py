"""Where a part listens: on all addresses in a cluster, on the pod's own where pods share a network."""

import pytest

from dynamollm.adapters.address import every_address, listening_address

CASES = [
    ({}, "0.0.0.0"),
    ({"POD_IP": "10.244.1.7"}, "0.0.0.0"),
    ({"POD_IP": "fd00:10:244::7"}, "::"),
    ({"POD_IP": "127.64.0.7", "DYNAMOLLM_HOST": "127.64.0.7"}, "127.64.0.7"),
    ({"DYNAMOLLM_HOST": ""}, "0.0.0.0"),
]


@pytest.mark.parametrize(("environ", "address"), CASES, ids=[str(case[0]) for case in CASES])
def test_a_part_listens_where_its_surroundings_say(environ: dict[str, str], address: str) -> None:
    assert listening_address(environ) == address
    assert every_address(address) in {"0.0.0.0", "::"}
