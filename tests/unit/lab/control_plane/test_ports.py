import socket

from transship.lab.control_plane.ports import FIRST_PORT, LAST_PORT, free_port, is_free

LOCALHOST = "127.0.0.1"


def test_a_free_port_is_free_and_no_port_of_outgoing_connections() -> None:
    port = free_port(address=LOCALHOST)
    assert FIRST_PORT <= port <= LAST_PORT
    assert is_free(port, address=LOCALHOST)


def test_a_preferred_port_is_taken_unless_somebody_listens_there() -> None:
    with socket.create_server((LOCALHOST, 0)) as server:
        taken = server.getsockname()[1]
        assert not is_free(taken, address=LOCALHOST)
        assert free_port(address=LOCALHOST, preferred=taken) != taken
    assert free_port(address=LOCALHOST, preferred=taken) == taken
