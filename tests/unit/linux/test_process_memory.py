from transship.linux.process_memory import Mapping, mappings

MAPS = """\
55d0c0000000-55d0c0002000 r--p 00000000 08:01 12 /usr/bin/a program
55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000010000 rw-s 00000000 00:01 9 /dev/shm/shared
7f0000020000-7f0000021000 rw-p 00000000 00:06 3 /dev/nvidia0
7f0000030000-7f0000031000 rw-p 00000000 00:06 3 /dev/zero
7ffd00000000-7ffd00004000 r--p 00000000 00:00 0 [vvar]
7ffd00004000-7ffd00006000 r-xp 00000000 00:00 0 [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
"""


def test_shared_mappings_devices_and_the_kernels_own_are_left_out() -> None:
    assert mappings(MAPS) == (
        Mapping(0x55D0C0000000, 0x55D0C0002000),
        Mapping(0x55D0C1000000, 0x55D0C1021000),
        Mapping(0x7F0000030000, 0x7F0000031000),
    )
