import os
import subprocess
import sys

from transship.memory.transfer.packing import Packer, Unpacker


def test_what_was_packed_fills_its_rooms_again() -> None:
    data = os.urandom(1000) + bytes(5000) + os.urandom(10)
    rooms = [memoryview(bytearray(size)) for size in (10, 0, 5000, 1000)]
    assert Unpacker().unpack(memoryview(Packer().pack(data)), rooms)
    assert b"".join(rooms) == data


def test_apart_it_fills_its_rooms_too_and_leaves_them_alone_when_it_cannot() -> None:
    data = os.urandom(1000) + bytes(5000) + os.urandom(10)
    rooms = [memoryview(bytearray(size)) for size in (10, 0, 5000, 1000)]
    packed = memoryview(Packer().pack(data))
    assert not Unpacker().unpack_apart(packed, rooms[:3])
    assert not Unpacker().unpack_apart(packed[:-10], rooms)
    assert b"".join(rooms) == bytes(len(data))
    assert Unpacker().unpack_apart(packed, rooms)
    assert b"".join(rooms) == data


def test_a_page_server_starts_without_the_models_of_the_api() -> None:
    """They cost it 0.2 s of processor time, which every move waits for."""
    program = (
        "import transship.memory.page_server.process, sys; sys.exit('pydantic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
