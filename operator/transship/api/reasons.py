"""The one table of reasons: stable words in conditions, events, migrations and error replies.

A reason is an API constant: it may be added, never renamed or reused. Each has one sentence of
meaning and, where the user can do something, a hint.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """The word (CamelCase, the member's own name), what it means, and what the user can do."""

    meaning: str
    hint: str

    def __new__(cls, word: str, meaning: str, hint: str = "") -> Self:
        reason = str.__new__(cls, word)
        reason._value_ = word
        reason.meaning = meaning
        reason.hint = hint
        return reason

    # what a placement goes through
    PLACED = ("Placed", "A node was chosen for the placement.")
    STARTING = ("Starting", "The container is being started.")
    CONTAINER_READY = (
        "ContainerReady",
        "The container runs, and its readiness probe, where it has one, succeeds.",
    )
    CONTAINER_NOT_READY = (
        "ContainerNotReady",
        "The container runs, but its readiness or startup probe does not succeed.",
        "see the probe's answer in the message, and the container's log",
    )
    CONTAINER_EXITED = (
        "ContainerExited",
        "The container's main process has ended.",
        "see status.container.lastExit and the container's log",
    )
    CONTAINER_RESTARTED = (
        "ContainerRestarted",
        "The container ended and was started again.",
        "a move that this has ended is tried again; see status.container.lastExit",
    )
    CONTAINER_FROZEN = (
        "ContainerFrozen",
        "All tasks of the container are frozen, because spec.state says so.",
        "set spec.state to Running to thaw it",
    )
    CONTAINER_STOPPED = (
        "ContainerStopped",
        "The container was ended, because spec.state says so.",
        "set spec.state to Running to start it",
    )
    CONTAINER_START_FAILED = (
        "ContainerStartFailed",
        "The runtime could not start the container.",
        "see the runtime's words in the message: often the command does not exist in the image",
    )
    CONTAINER_LOST = (
        "ContainerLost",
        "The agent no longer has the container, for instance after its node restarted.",
        "it is started anew unless spec.container.restartPolicy is Never",
    )
    CRASH_LOOP_BACK_OFF = (
        "CrashLoopBackOff",
        "The container keeps ending; the next start waits for a while.",
        "see status.container.lastExit and the container's log",
    )
    DELETING = ("Deleting", "The placement is being deleted: its container ends first.")

    # choosing a node
    NODE_NOT_FOUND = (
        "NodeNotFound",
        "No NodeAgent has the name in spec.targetNode.",
        "write one of the names that kubectl get nodeagents shows",
    )
    NODE_NOT_READY = (
        "NodeNotReady",
        "The node's agent is not ready.",
        "see the conditions of its NodeAgent",
    )
    NODE_UNSCHEDULABLE = (
        "NodeUnschedulable",
        "The node takes no containers now.",
        "set spec.unschedulable of its NodeAgent to false, or choose another node",
    )
    NODE_LOST = (
        "NodeLost",
        "The node that runs the container does not answer: its container may still run.",
        "bring the node or its agent back; if it is off for good, set the taint "
        "node.kubernetes.io/out-of-service on its Node, or delete its NodeAgent",
    )
    NODE_FENCED = (
        "NodeFenced",
        "An administrator declared that the node runs nothing any more.",
        "remove the taint node.kubernetes.io/out-of-service once the node is back",
    )
    OWNER_DISPUTED = (
        "OwnerDisputed",
        "An agent says that it owns the container, and no record of the operator does.",
        "nothing is done because of it; see docs/handover.md, Who owns a container",
    )
    OWNER_ADOPTED = (
        "OwnerAdopted",
        "The placement's status was lost; the one agent that has the container owns it again.",
    )
    NO_NODE_MATCHES = (
        "NoNodeMatches",
        "No node has the labels of spec.nodeSelector.",
        "label a NodeAgent, or change the selector",
    )
    FAILED_SCHEDULING = (
        "FailedScheduling",
        "None of the nodes that have the labels can take the container, each for its own reason.",
        "see the reasons in the message: one node that is ready and has room is enough",
    )
    INSUFFICIENT_CPU = (
        "InsufficientCPU",
        "The node has less CPU left than the container requests.",
        "lower spec.container.resources.requests.cpu, or choose another node",
    )
    INSUFFICIENT_MEMORY = (
        "InsufficientMemory",
        "The node has less memory left than the container requests, or less free than it uses.",
        "lower spec.container.resources.requests.memory, or choose another node",
    )
    INSUFFICIENT_PIDS = (
        "InsufficientPIDs",
        "The node can have fewer processes than the containers on it request.",
        "lower spec.container.resources.requests.pids, or choose another node",
    )
    INSUFFICIENT_DISK = (
        "InsufficientDisk",
        "The node has less disk space free than the container's files need.",
        "choose another node, or free space on this one",
    )

    # what a container needs
    INVALID_IMAGE = (
        "InvalidImage",
        "The image reference, or the image's own configuration, cannot be read.",
        "write REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST of an OCI or Docker image",
    )
    IMAGE_PULL_FAILED = (
        "ImagePullFailed",
        "The node could not pull the image.",
        "check the reference, and that the node reaches the registry",
    )
    SECRET_NOT_FOUND = (
        "SecretNotFound",
        "A Secret that the container needs, or its key, does not exist.",
        "create it in the placement's namespace",
    )
    CONFIG_MAP_NOT_FOUND = (
        "ConfigMapNotFound",
        "A ConfigMap that the container needs, or its key, does not exist.",
        "create it in the placement's namespace",
    )
    HOST_PATH_NOT_FOUND = (
        "HostPathNotFound",
        "A hostPath volume's directory does not exist on the node.",
        "make it there, or choose a node that has it",
    )
    HOST_PATH_REFUSED = (
        "HostPathRefused",
        "A hostPath volume would give the container what belongs to the node's agent.",
        "choose a directory that neither lies in the agent's own directories nor holds them",
    )
    VOLUME_MOUNT_FAILED = ("VolumeMountFailed", "A volume could not be mounted on the node.")
    POOL_NOT_FOUND = (
        "PoolNotFound",
        "The AddressPool does not exist.",
        'create it; "default" is used where spec.network.addressPool is not set',
    )
    POOL_EXHAUSTED = (
        "PoolExhausted",
        "All addresses of the AddressPool are taken.",
        "delete placements, or name another pool in spec.network.addressPool",
    )
    ADDRESS_TAKEN = (
        "AddressTaken",
        "Another placement holds the address in spec.network.address.",
        "choose another address, or delete the other placement",
    )
    ADDRESS_NOT_IN_POOL = (
        "AddressNotInPool",
        "The address in spec.network.address is not one that the pool gives out.",
        "write an address inside the pool's cidr that is not in its spec.excluded",
    )
    IP_FAMILY_NOT_IN_POOL = (
        "IPFamilyNotInPool",
        "The AddressPool has no network of an IP family in spec.network.ipFamilies.",
        "add such a network to the pool's cidrs, or leave the IP family out",
    )
    ADDRESS_ALLOCATED = ("AddressAllocated", "The placement got its address.")

    # moving
    MIGRATION_PENDING = ("MigrationPending", "The move waits for its turn or for its target.")
    MIGRATION_STARTED = ("MigrationStarted", "The move has begun; the container runs on.")
    MIGRATION_IN_PROGRESS = ("MigrationInProgress", "The container is being moved.")
    MIGRATION_SUCCEEDED = ("MigrationSucceeded", "The container runs on the target.")
    MIGRATION_FAILED = (
        "MigrationFailed",
        "The move failed; the container runs on where it was.",
        "see the migration's reason and hint",
    )
    MIGRATION_CANCELLED = (
        "MigrationCancelled",
        "The move was cancelled; the container runs on where it was.",
    )
    MIGRATION_SUPERSEDED = (
        "MigrationSuperseded",
        "The target changed while the container was being moved.",
    )
    RELEASED = ("Released", "The source promised durably never to run its copy again.")
    TARGET_UNREACHABLE = (
        "TargetUnreachable",
        "The source could not reach the target's agent.",
        "check the network between the two nodes, and the target's agent",
    )
    SOURCE_UNREACHABLE = (
        "SourceUnreachable",
        "The target could not reach the source's agent.",
        "check the network between the two nodes, and the source's agent",
    )
    AGENT_UNREACHABLE = (
        "AgentUnreachable",
        "The operator could not reach a node's agent.",
        "check that agent, and the network between the operator and its node",
    )
    DEADLINE_EXCEEDED = (
        "DeadlineExceeded",
        "A step took longer than it may.",
        "raise spec.migration.deadlineSeconds, or find what is slow: times are in status.steps",
    )
    DOWNTIME_TOO_LONG = (
        "DowntimeTooLong",
        "The container changes its memory too fast to be handed over within the limit.",
        "raise spec.migration.maxDowntimeMilliseconds, allow postCopy, or try a quieter hour",
    )
    BACKOFF_LIMIT_EXCEEDED = (
        "BackoffLimitExceeded",
        "The move failed as often as spec.migration.backoffLimit allows.",
        "remove the cause, then edit the spec: set spec.targetNode back and to the target again, "
        "or raise spec.migration.backoffLimit",
    )
    DUMP_FAILED = (
        "DumpFailed",
        "CRIU could not dump the container.",
        "see the migration's message and logTail",
    )
    RESTORE_FAILED = (
        "RestoreFailed",
        "CRIU could not restore the container on the target.",
        "see the migration's message and logTail",
    )
    TRANSFER_FAILED = ("TransferFailed", "Memory or files could not be sent to the target.")

    # whether it can be moved
    MIGRATABLE = ("Migratable", "Nothing known speaks against moving the container.")
    CPU_FEATURES_MISSING = (
        "CPUFeaturesMissing",
        "The target's CPU lacks features that the source's has and programs may be using.",
        "choose a node with the same or a newer CPU, or use the strategy Cold",
    )
    IP_FAMILY_MISSING = (
        "IPFamilyMissing",
        "The target node has no address of an IP family that the placement has.",
        "give the link between the nodes such an address, and restart the agent",
    )
    ARCHITECTURE_DIFFERS = (
        "ArchitectureDiffers",
        "Source and target have different machine architectures.",
        "choose a node of the same architecture",
    )
    CGROUP_VERSION_DIFFERS = (
        "CgroupVersionDiffers",
        "One node uses cgroup v1, the other v2.",
        "choose a node with the same cgroup version",
    )
    CRIU_TOO_OLD = (
        "CRIUTooOld",
        "The target's CRIU is older than the source's.",
        "upgrade CRIU on the target",
    )
    KERNEL_FEATURE_MISSING = (
        "KernelFeatureMissing",
        "A kernel lacks what the chosen strategy needs.",
        "use the strategy Auto, or see the features of the NodeAgents",
    )
    AWAITING_MEMORY = (
        "AwaitingMemory",
        "The container is on the target, and the rest of its memory follows.",
    )
    MEMORY_UNREACHABLE = (
        "MemoryUnreachable",
        "The container has left a node that still has some of its memory and does not answer.",
        "bring the source's node back: the container waits unharmed; if it is off for good, set "
        "the taint node.kubernetes.io/out-of-service on its Node, or delete its NodeAgent: the "
        "container is then started anew from its image",
    )
    LANDLOCK_NOT_REFUSED = (
        "LandlockNotRefused",
        "The container was started by an older agent, which let programs restrict themselves by"
        " Landlock: after a live move they would not be restricted any more.",
        "restart it (set spec.state to Stopped and then to Running), or use the strategy Cold",
    )

    # agents and pools
    AGENT_READY = ("AgentReady", "The agent answers and can run and move containers.")
    AGENT_STARTING = ("AgentStarting", "The agent has not finished its start.")
    AGENT_NOT_RENEWING = (
        "AgentNotRenewing",
        "The agent no longer renews its lease.",
        "check the agent and its node",
    )
    SELF_TEST_PASSED = ("SelfTestPassed", "A real dump and restore of a small process succeeded.")
    SELF_TEST_FAILED = (
        "SelfTestFailed",
        "A dump and restore of a small process failed: the node cannot take part in moves.",
        "see the NodeAgent's status.selfTest.message",
    )
    POOL_READY = ("PoolReady", "The pool gives out addresses.")
    INVALID_CIDR = (
        "InvalidCIDR",
        "The pool's cidr is not a network.",
        "write a network such as 10.0.128.0/17 or fd00:200:0:1::/64",
    )

    # what an agent's record of a container forbids
    AWAITING_ORDER = (
        "AwaitingOrder",
        "The node restarted: the container waits until the operator wants it here again.",
        "see that the operator runs; a fenced node's containers may run elsewhere by now",
    )
    PULLING_IMAGE = ("PullingImage", "The node pulls the image and unpacks it.")
    CONTAINER_UNHEALTHY = (
        "ContainerUnhealthy",
        "The container's liveness or startup probe failed: it is restarted.",
        "see the probe's answer in the message, and the container's log",
    )
    STALE_EPOCH = ("StaleEpoch", "The request is about an earlier owner of the container.")
    IN_MIGRATION = (
        "InMigration",
        "The container is being moved: it cannot be changed until that is decided.",
        "cancel the migration, or wait for its end",
    )
    ALREADY_RELEASED = (
        "AlreadyReleased",
        "The source has promised never to run its copy again.",
    )
    ALREADY_ABORTED = ("AlreadyAborted", "The source has aborted this migration for good.")
    ALREADY_HERE = ("AlreadyHere", "The target already has this container.")
    NOT_PERMITTED = ("NotPermitted", "Only the source's verdict Released permits a copy to run.")
    WRONG_STATE = ("WrongState", "The container's record does not allow this step now.")
    QUARANTINED = (
        "Quarantined",
        "The agent's record of the container is damaged: nobody knows what was promised.",
        "look at the file in the journal's quarantine, then remove it and restart the agent",
    )
    RECORD_DAMAGED = (
        "RecordDamaged",
        "A record of the agent's journal is torn, or its checksum is wrong.",
        "look at the file in the journal's quarantine, then remove it and restart the agent",
    )
    RECORD_FOREIGN = (
        "RecordForeign",
        "A record of the agent's journal was written for another container or by another node.",
        "was the node's disk cloned? remove the file from the journal's quarantine and restart the "
        "agent",
    )
    RECORD_VERSION_UNKNOWN = (
        "RecordVersionUnknown",
        "A record of the agent's journal was written by a newer agent.",
        "move the file from the journal's quarantine back into the journal, and start the newer "
        "agent",
    )
    NODE_HEALTHY = (
        "NodeHealthy",
        "Journal, disk, file descriptors and certificate are as they should be.",
    )
    DISK_FULL = (
        "DiskFull",
        "The node's disk for containers is nearly full.",
        "remove what is not needed there, or containers that have grown",
    )
    DESCRIPTORS_SHORT = (
        "DescriptorsShort",
        "The agent has opened nearly all the files that it may open.",
        "raise its limit (LimitNOFILE), and report this",
    )
    CERTIFICATE_EXPIRES = (
        "CertificateExpires",
        "The agent's certificate ends soon.",
        "renew it; the agent takes the new file up by itself",
    )
    CERTIFICATE_EXPIRED = (
        "CertificateExpired",
        "The agent's certificate has ended: neither operator nor agents can speak to it.",
        "renew it; the agent takes the new file up by itself. Its containers run on",
    )
    JOURNAL_UNWRITABLE = (
        "JournalUnwritable",
        "The agent cannot write down its promises, so it makes none.",
        "free space on the node's disk, and see that it is writable",
    )

    # what CRIU could not do, and why
    IO_URING_IN_USE = (
        "IoUringInUse",
        "A process of the container uses io_uring, which CRIU cannot dump.",
        "keep the program from using it (for instance UV_USE_IO_URING=0 for Node.js, "
        "innodb_use_native_aio=0 for MariaDB)",
    )
    UNSUPPORTED_FILE = (
        "UnsupportedFile",
        "A process of the container has something open that CRIU cannot dump.",
        "devices, perf events and BPF objects cannot move: close them, or use the strategy Cold",
    )
    MPTCP_SOCKET = (
        "MPTCPSocket",
        "A process of the container has a Multipath TCP socket, which CRIU cannot dump.",
        "set GODEBUG=multipathtcp=0 in its environment (Go opens such listeners by default)",
    )
    UNSUPPORTED_SOCKET = (
        "UnsupportedSocket",
        "A process of the container has a socket of a family or protocol that CRIU cannot dump.",
        "TCP, UDP, Unix, packet and netlink sockets can be moved; others only Cold",
    )
    TRACED = (
        "Traced",
        "A process of the container is being traced, by a debugger or by strace.",
        "end the debugger, or use the strategy Cold",
    )
    MESSAGE_QUEUE = (
        "MessageQueue",
        "The container has a POSIX message queue, which CRIU cannot dump.",
        "remove it (mq_unlink) and close it, use System V queues, or use the strategy Cold",
    )
    MAIN_THREAD_ENDED = (
        "MainThreadEnded",
        "The main thread of a process has ended while others run on, which CRIU cannot dump.",
        "let the main thread wait for the others, or use the strategy Cold",
    )
    THREAD_STOPPED = (
        "ThreadStopped",
        "Single threads of a process are stopped while others run, which CRIU cannot dump.",
        "end the debugger that stopped them, or use the strategy Cold",
    )
    FOREIGN_PROCESS = (
        "ForeignProcess",
        "A process from outside is in the container, or one in it has a handle of one outside.",
        "end what was started in the container by hand (runc exec), or use the strategy Cold",
    )
    TERMINAL_FULL = (
        "TerminalFull",
        "A terminal of the container holds output that nobody has read.",
        "let the program behind the terminal read, or use the strategy Cold",
    )
    NETLINK_UNREAD = (
        "NetlinkUnread",
        "A netlink socket of the container holds messages that the program has not read.",
        "it is tried again; a program that never reads has to close the socket",
    )
    DESCRIPTOR_IN_FLIGHT = (
        "DescriptorInFlight",
        "A descriptor was under way from one process of the container to another.",
        "it is tried again",
    )
    UNSUPPORTED_MOUNT = (
        "UnsupportedMount",
        "A process of the container has mounted something that CRIU cannot dump.",
        "unmount it, make it a volume, or use the strategy Cold",
    )
    UNSUPPORTED_NETWORK_DEVICE = (
        "UnsupportedNetworkDevice",
        "A process of the container has made a network device that CRIU cannot dump.",
        "remove it, or use the strategy Cold",
    )
    FILE_WATCH = (
        "FileWatch",
        "A process of the container watches a file that CRIU cannot find again.",
        "watch files of the container's own file system or of its volumes, not of /proc or /sys",
    )
    FILE_LOCK = (
        "FileLock",
        "A process of the container shares a file lock with a process outside of it.",
        "do not lock files that other containers or the node lock as well",
    )
    EXTERNAL_CONNECTION = (
        "ExternalConnection",
        "A process of the container is connected to a process outside of it by a Unix socket.",
        "close the connection, or talk over TCP",
    )
    FOREIGN_FILE = (
        "ForeignFile",
        "A process of the container has a file open that lies outside of the container.",
        "it was handed in by a process of the node: close it, or start the container anew",
    )
    NESTED_NAMESPACE = (
        "NestedNamespace",
        "A process of the container has made namespaces of its own.",
        "containers inside of containers, and browsers with their sandbox, can be moved only Cold",
    )
    CONNECTION_IN_FLIGHT = (
        "ConnectionInFlight",
        "The program had not accepted a connection yet at the moment of the dump.",
        "it is tried again: a program that accepts nothing for long is not moved",
    )
    FILE_LOCKS_LOST = (
        "FileLocksLost",
        "CRIU could not keep a process's lock on a file that it maps as well.",
        "move it with strategy Cold; on x86-64 such locks are set again",
    )
    LIMITS_UNREADABLE = (
        "LimitsUnreadable",
        "The agent may not read the resource limits of the container's processes.",
        "the agent needs the capability SYS_RESOURCE to move processes that are not root's",
    )
    DELETED_FILE_TOO_LARGE = (
        "DeletedFileTooLarge",
        "A process of the container has a large file open that was deleted.",
        "let the program close deleted files (rotated logs, temporary files)",
    )
    STATE_TOO_LARGE = (
        "StateTooLarge",
        "What CRIU's images have of the container is more than one move may send in its freeze.",
        "let the program close deleted files and unlock memory, share memory with a strategy other"
        " than StopAndCopy, or use the strategy Cold",
    )
    LINK_LOST = (
        "LinkLost",
        "An open file's name was removed, and its other names could not be used in its place.",
        "let the program close deleted files",
    )
    VDSO_DIFFERS = (
        "VDSODiffers",
        "The two kernels' vDSOs do not fit together.",
        "run the same kernel on both nodes, or a newer CRIU",
    )
    PID_IN_USE = (
        "PIDInUse",
        "A process id of the container is taken on the target.",
        "the container has to have a PID namespace of its own",
    )
    ADDRESS_MISSING = (
        "AddressMissing",
        "A socket of the container is bound to an address that the target does not have.",
        "bind to 0.0.0.0 or to the placement's address",
    )
    CONNECTION_NOT_RESTORED = (
        "ConnectionNotRestored",
        "A TCP connection of the container could not be put together again on the target.",
        "see the migration's logTail",
    )
    FILES_DIFFER = (
        "FilesDiffer",
        "A file of the container is not on the target as it was at the dump.",
        "a volume that is not moved with the container has to have the same content on both nodes",
    )
    OUT_OF_SPACE = (
        "OutOfSpace",
        "There is no room for the images of the container's memory.",
        "they lie in the agent's runtime directory, a tmpfs: enlarge it, or free memory",
    )
    FREEZE_TIMED_OUT = (
        "FreezeTimedOut",
        "Some task of the container could not be frozen in time.",
        "it waits in the kernel, often for a network file system or a disk",
    )
    DUMP_TIMED_OUT = (
        "DumpTimedOut",
        "The dump took longer than it may.",
        "a faster link, or a strategy that copies memory while the container runs",
    )
    RESTORE_TIMED_OUT = ("RestoreTimedOut", "The restore took longer than it may.")
    NOT_HELD = (
        "NotHeld",
        "The restored copy did not stand still, so it was ended.",
        "see the agent's log on the target",
    )
    NOT_FROZEN = (
        "NotFrozen",
        "The container did not stand still after its dump, so the dump is worth nothing.",
    )
    PAGES_LOST = (
        "PagesLost",
        "Pages of the container's memory are missing: not arrived, or lost at the source.",
        "check the network between the nodes, and the room for images on the target",
    )
    PAGE_SERVER_SILENT = (
        "PageServerSilent",
        "The process that gives a moved container its memory does not answer as it should.",
        "see page-server.log among the container's images; is the node overloaded?",
    )
    STILL_MOUNTED = ("StillMounted", "Something is mounted where files were to be deleted.")
    CRIU_FAILED = ("CRIUFailed", "CRIU failed.", "see the agent's log")
    CRIU_MISSING = (
        "CRIUMissing",
        "CRIU is not installed on the node.",
        "install CRIU 4.2 or newer",
    )

    # what an agent meets on its node
    AGENT_RESTARTED = ("AgentRestarted", "The agent was restarted in the middle of a move.")
    NODE_RESTARTED = ("NodeRestarted", "The container ended because its node was restarted.")
    VANISHED = (
        "Vanished",
        "The container's main process is gone, and nothing saw how it ended.",
        "look for the kernel's out-of-memory messages on the node",
    )
    HELD = ("Held", "The copy is restored and waits for the source's verdict.")
    NO_NETWORK = ("NoNetwork", "The container has no network on this node.")
    NETWORK_FAILED = ("NetworkFailed", "The kernel refused a change of the node's network.")
    ADDRESS_DIFFERS = ("AddressDiffers", "The container has another address on this node.")
    NO_NEXT_HOP = ("NoNextHop", "The other node has no address that packets could be sent to.")
    LINK_NOT_FOUND = (
        "LinkNotFound",
        "The node has no network interface of the name given.",
        "name the one with the node's address in the agent's --underlay",
    )
    FILE_COPY_FAILED = ("FileCopyFailed", "Files could not be copied to the target.")
    IMAGES_DAMAGED = ("ImagesDamaged", "The images of a dump did not arrive as they were sent.")

    # the lab's
    DAEMON_NOT_RUNNING = ("DaemonNotRunning", "A program of the lab does not run.")
    UNKILLABLE = ("Unkillable", "A process of the lab outlived SIGKILL.")

    # errors that name no better reason
    INTERNAL_ERROR = ("InternalError", "Something unforeseen went wrong.", "see the program's log")
    INVALID_INPUT = ("InvalidInput", "The request cannot be accepted as it is.")
    REFUSED = ("Refused", "The request is well formed, but the present state forbids it.")
    NOT_FOUND = ("NotFound", "The thing asked for does not exist.")
    UNREACHABLE = ("Unreachable", "A peer did not answer; it may have acted all the same.")
    CONFLICT = ("Conflict", "Someone else was faster.")
    RECREATED = ("Recreated", "The object was deleted, and another one has its name.")
    ALREADY_EXISTS = ("AlreadyExists", "An object of this name exists.")
    COMMAND_FAILED = ("CommandFailed", "A program that the agent runs ended badly.")
    API_SERVER_UNREACHABLE = (
        "APIServerUnreachable",
        "The API server does not answer.",
        "check the address in the kubeconfig, and the API server",
    )
    API_SERVER_UNAVAILABLE = (
        "APIServerUnavailable",
        "The API server answers that it cannot serve now.",
    )
    FORBIDDEN = (
        "Forbidden",
        "The API server does not allow it.",
        "bind one of the project's ClusterRoles to the user in the message",
    )
    UNAUTHORIZED = (
        "Unauthorized",
        "The API server does not know the credentials.",
        "check the user in the kubeconfig",
    )
    TASK_ENDED = (
        "TaskEnded",
        "A task that lives as long as its process has ended: the process ends, to be started anew.",
        "see the program's log",
    )
    PORT_UNAVAILABLE = (
        "PortUnavailable",
        "The program cannot serve on the port that it was given.",
        "end what serves there, or choose another port",
    )
    NOT_LEADING = ("NotLeading", "Another operator may lead by now: this one sends nothing more.")
    LEASE_HELD = ("LeaseHeld", "Another process holds the lease.")
    NO_CLUSTER = (
        "NoCluster",
        "No cluster is configured.",
        "set KUBECONFIG, or give --kubeconfig FILE",
    )
    UNKNOWN = ("Unknown", "Not observed yet.")
