import socket
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from lab import loopback
from lab.errors import LabError
from lab.loopback import Subnet


@pytest.fixture
def subnets() -> Iterator[list[Subnet]]:
    taken: list[Subnet] = []
    yield taken
    for subnet in taken:
        subnet.holder.close()


def test_no_two_clusters_get_the_same_addresses(subnets: list[Subnet]) -> None:
    subnets += [Subnet.reserve("same-name") for _ in range(5)]
    assert len({subnet.control_plane for subnet in subnets}) == 5


def test_a_name_gets_its_addresses_again_once_they_are_free(subnets: list[Subnet]) -> None:
    first = Subnet.reserve("a-name-of-this-test")
    first.holder.close()
    subnets.append(Subnet.reserve("a-name-of-this-test"))
    assert subnets[0].octet == first.octet


def test_all_taken(subnets: list[Subnet], monkeypatch: pytest.MonkeyPatch) -> None:
    subnets.append(Subnet.reserve("first"))
    monkeypatch.setattr(loopback, "FIRST", subnets[0].octet)
    monkeypatch.setattr(loopback, "COUNT", 1)
    with pytest.raises(LabError, match="1 local clusters are up: take one down"):
        Subnet.reserve("second")


def test_the_parts_of_a_subnet_do_not_overlap(subnets: list[Subnet]) -> None:
    subnets.append(Subnet.reserve("parts"))
    pods = [ip_network(subnets[0].node_pods(index)) for index in range(100)] + [ip_network(subnets[0].simulated_pods)]
    assert not any(one.overlaps(other) for index, one in enumerate(pods) for other in pods[:index])
    nodes = {ip_address(subnets[0].node_address(index)) for index in range(100)}
    assert len(nodes) == 100
    assert not any(address in network for network in pods for address in {*nodes, ip_address(subnets[0].control_plane)})


def test_a_busy_port_is_passed_over_and_none_is_given_twice(subnets: list[Subnet]) -> None:
    subnets.append(Subnet.reserve("ports"))
    with socket.create_server(("0.0.0.0", 0)) as busy:
        port = busy.getsockname()[1]
        first, second = subnets[0].free_port(port), subnets[0].free_port(port)
    assert port < first < second


def test_a_port_with_lingering_connections_is_free(subnets: list[Subnet]) -> None:
    subnets.append(Subnet.reserve("lingering"))
    address = subnets[0].control_plane
    with socket.create_server((address, 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection((address, port))
        accepted, _ = server.accept()
        accepted.close()  # the side that closes first keeps the port in TIME_WAIT
        client.close()
    assert subnets[0].free_port(port) == port


def test_many_busy_ports(subnets: list[Subnet], monkeypatch: pytest.MonkeyPatch) -> None:
    subnets.append(Subnet.reserve("busy"))
    monkeypatch.setattr(loopback, "_PORTS_TRIED", 1)
    with socket.create_server(("0.0.0.0", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(LabError, match=f"ports {port} to {port} are all busy on 127"):
            subnets[0].free_port(port)
