import os
import subprocess
import sys

from transship.memory.transfer.packing import Packer, Unpacker


def test_packed_pages_fill_their_rooms_again() -> None:
    data = os.urandom(1000) + bytes(5000) + os.urandom(10)
    rooms = [memoryview(bytearray(size)) for size in (10, 0, 5000, 1000)]
    assert Unpacker().unpack(memoryview(Packer().pack(data)), rooms)
    assert b"".join(rooms) == data


def test_unpacking_apart_fills_rooms_or_leaves_them_alone() -> None:
    data = os.urandom(1000) + bytes(5000) + os.urandom(10)
    rooms = [memoryview(bytearray(size)) for size in (10, 0, 5000, 1000)]
    packed = memoryview(Packer().pack(data))
    assert not Unpacker().unpack_apart(packed, rooms[:3])
    assert not Unpacker().unpack_apart(packed[:-10], rooms)
    assert b"".join(rooms) == bytes(len(data))
    assert Unpacker().unpack_apart(packed, rooms)
    assert b"".join(rooms) == data


def test_the_page_server_does_not_import_pydantic() -> None:
    """The import takes 0.2 s of CPU time, and every move would wait for it."""
    program = (
        "import transship.memory.page_server.process, sys; sys.exit('pydantic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
