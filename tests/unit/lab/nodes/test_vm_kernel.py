from transship.lab.nodes.vm_kernel import needed

DEPENDENCIES = """\
kernel/net/veth.ko:
kernel/net/virtio_net.ko.xz: kernel/net/failover/net_failover.ko.xz
kernel/net/failover/net_failover.ko.xz: kernel/net/core/failover.ko.xz
kernel/net/core/failover.ko.xz:
kernel/net/ipv4/tcp-diag.ko: kernel/net/ipv4/inet_diag.ko
kernel/net/ipv4/inet_diag.ko:
"""


def test_modules_come_with_all_that_they_need() -> None:
    assert needed(("virtio_net", "tcp_diag"), DEPENDENCIES) == {
        "kernel/net/virtio_net.ko.xz",
        "kernel/net/failover/net_failover.ko.xz",
        "kernel/net/core/failover.ko.xz",
        "kernel/net/ipv4/tcp-diag.ko",
        "kernel/net/ipv4/inet_diag.ko",
    }


def test_what_is_built_into_the_kernel_needs_no_file() -> None:
    assert needed(("ext4",), DEPENDENCIES) == set()
