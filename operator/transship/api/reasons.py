"""All reasons: stable words in conditions, events, migrations and error replies.

A reason is an API constant. Add new ones; never rename or reuse one. Each has a meaning in plain
sentences and, where the user can do something, a hint. docs/api.md is generated from this table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """A CamelCase word (the member's own name), its meaning, and a hint for the user."""

    meaning: str
    hint: str

    def __new__(cls, word: str, meaning: str, hint: str = "") -> Self:
        reason = str.__new__(cls, word)
        reason._value_ = word
        reason.meaning = meaning
        reason.hint = hint
        return reason

    # the states of a placement
    PLACED = ("Placed", "A node was chosen for the placement.")
    STARTING = ("Starting", "The container is being started.")
    CONTAINER_READY = (
        "ContainerReady",
        "The container runs. Its readiness probe, if it has one, succeeds.",
    )
    CONTAINER_NOT_READY = (
        "ContainerNotReady",
        "The container runs, but its readiness or startup probe does not succeed.",
        "see the probe's result in the message, and the container's log",
    )
    CONTAINER_EXITED = (
        "ContainerExited",
        "The container's main process has ended.",
        "see status.container.lastExit and the container's log",
    )
    CONTAINER_RESTARTED = (
        "ContainerRestarted",
        "The container ended and was started again.",
        "a move that was interrupted by the restart is tried again; see status.container.lastExit",
    )
    CONTAINER_FROZEN = (
        "ContainerFrozen",
        "All tasks of the container are frozen, because spec.state is Frozen.",
        "set spec.state to Running to thaw it",
    )
    CONTAINER_STOPPED = (
        "ContainerStopped",
        "The container was stopped, because spec.state is Stopped.",
        "set spec.state to Running to start it",
    )
    CONTAINER_START_FAILED = (
        "ContainerStartFailed",
        "The runtime could not start the container.",
        "see the runtime's error in the message; often the command does not exist in the image",
    )
    CONTAINER_LOST = (
        "ContainerLost",
        "The agent no longer has the container, for instance after its node restarted.",
        "the container is started anew unless spec.container.restartPolicy is Never",
    )
    CRASH_LOOP_BACK_OFF = (
        "CrashLoopBackOff",
        "The container ends again and again. The agent waits before the next start.",
        "see status.container.lastExit and the container's log",
    )
    DELETING = ("Deleting", "The placement is being deleted. Its container is stopped first.")

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
        "The node accepts no new containers.",
        "set spec.unschedulable of its NodeAgent to false, or choose another node",
    )
    NODE_LOST = (
        "NodeLost",
        "The node that runs the container does not answer. The container may still run there.",
        "bring the node or its agent back; if it is off for good, set the taint "
        "node.kubernetes.io/out-of-service on its Node, or delete its NodeAgent",
    )
    NODE_FENCED = (
        "NodeFenced",
        "An administrator declared that nothing runs on the node any more.",
        "remove the taint node.kubernetes.io/out-of-service once the node is back",
    )
    OWNER_DISPUTED = (
        "OwnerDisputed",
        "An agent reports that it owns the container, but the operator's records name another "
        "owner.",
        "the operator acts on its own records; see docs/handover.md, Who owns a container",
    )
    OWNER_ADOPTED = (
        "OwnerAdopted",
        "The placement's status was lost. The only agent that has the container owns it again.",
    )
    NO_NODE_MATCHES = (
        "NoNodeMatches",
        "No node has the labels of spec.nodeSelector.",
        "label a NodeAgent, or change the selector",
    )
    FAILED_SCHEDULING = (
        "FailedScheduling",
        "No node that has the labels can take the container.",
        "see the reason for each node in the message; one ready node with enough room is "
        "sufficient",
    )
    INSUFFICIENT_CPU = (
        "InsufficientCPU",
        "The node has less CPU left than the container requests.",
        "lower spec.container.resources.requests.cpu, or choose another node",
    )
    INSUFFICIENT_MEMORY = (
        "InsufficientMemory",
        "The node has less memory left than the container requests, or less free memory than the "
        "container uses.",
        "lower spec.container.resources.requests.memory, or choose another node",
    )
    INSUFFICIENT_PIDS = (
        "InsufficientPIDs",
        "The node has fewer process ids left than the container requests.",
        "lower spec.container.resources.requests.pids, or choose another node",
    )
    INSUFFICIENT_DISK = (
        "InsufficientDisk",
        "The node has less free disk space than the container's files need.",
        "choose another node, or free space on this one",
    )

    # images, volumes and addresses
    INVALID_IMAGE = (
        "InvalidImage",
        "The image reference, or the image's own configuration, is not valid.",
        "write REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST of an OCI or Docker image",
    )
    IMAGE_PULL_FAILED = (
        "ImagePullFailed",
        "The node could not pull the image.",
        "check the reference, and that the node can reach the registry",
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
        "create it there, or choose a node that has it",
    )
    HOST_PATH_REFUSED = (
        "HostPathRefused",
        "A hostPath volume would give the container access to the agent's own files.",
        "choose a directory that neither contains the agent's own directories nor lies in them",
    )
    VOLUME_MOUNT_FAILED = ("VolumeMountFailed", "A volume could not be mounted on the node.")
    POOL_NOT_FOUND = (
        "PoolNotFound",
        "The AddressPool does not exist.",
        'create it; the pool named "default" is used where spec.network.addressPool is not set',
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
        "choose an address inside the pool's cidr that is not in its spec.excluded",
    )
    IP_FAMILY_NOT_IN_POOL = (
        "IPFamilyNotInPool",
        "The AddressPool has no network of an IP family in spec.network.ipFamilies.",
        "add such a network to the pool's cidrs, or leave the IP family out",
    )
    ADDRESS_ALLOCATED = ("AddressAllocated", "The placement has its address.")

    # migrations
    MIGRATION_PENDING = ("MigrationPending", "The move waits for its turn or for its target node.")
    MIGRATION_STARTED = ("MigrationStarted", "The move has begun. The container keeps running.")
    MIGRATION_IN_PROGRESS = ("MigrationInProgress", "The container is being moved.")
    MIGRATION_SUCCEEDED = ("MigrationSucceeded", "The container runs on the target.")
    MIGRATION_FAILED = (
        "MigrationFailed",
        "The move failed. The container still runs on the source node.",
        "see the migration's reason and hint",
    )
    MIGRATION_CANCELLED = (
        "MigrationCancelled",
        "The move was cancelled. The container still runs on the source node.",
    )
    MIGRATION_SUPERSEDED = (
        "MigrationSuperseded",
        "The target node was changed while the container was being moved.",
    )
    RELEASED = ("Released", "The source has durably promised never to run its copy again.")
    TARGET_UNREACHABLE = (
        "TargetUnreachable",
        "The source could not reach the target's agent.",
        "check the network between the two nodes, and the agent on the target",
    )
    SOURCE_UNREACHABLE = (
        "SourceUnreachable",
        "The target could not reach the source's agent.",
        "check the network between the two nodes, and the agent on the source",
    )
    AGENT_UNREACHABLE = (
        "AgentUnreachable",
        "The operator could not reach a node's agent.",
        "check that agent, and the network between the operator and its node",
    )
    DEADLINE_EXCEEDED = (
        "DeadlineExceeded",
        "A step took longer than its time limit.",
        "raise spec.migration.deadlineSeconds, or find the slow step: status.steps has the times",
    )
    DOWNTIME_TOO_LONG = (
        "DowntimeTooLong",
        "The container changes its memory too fast to be handed over within the limit.",
        "raise spec.migration.maxDowntimeMilliseconds, set spec.migration.postCopy to Allowed, or "
        "move it when it is less busy",
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
    TRANSFER_FAILED = (
        "TransferFailed",
        "Memory or files could not be sent to the target.",
        "the move is tried again; check the network between the two nodes",
    )

    # checks before a move, and memory that follows it
    MIGRATABLE = ("Migratable", "No known obstacle prevents moving the container.")
    CPU_FEATURES_MISSING = (
        "CPUFeaturesMissing",
        "The target's CPU lacks features that the source's CPU has and that programs may be using.",
        "choose a node with the same or a newer CPU, or use the strategy Cold",
    )
    IP_FAMILY_MISSING = (
        "IPFamilyMissing",
        "The target node has no address of an IP family that the placement has.",
        "give the node's underlay interface such an address, and restart the agent",
    )
    ARCHITECTURE_DIFFERS = (
        "ArchitectureDiffers",
        "The source and the target have different machine architectures.",
        "choose a node of the same architecture",
    )
    CGROUP_VERSION_DIFFERS = (
        "CgroupVersionDiffers",
        "One node uses cgroup v1, the other one cgroup v2.",
        "choose a node with the same cgroup version",
    )
    CRIU_TOO_OLD = (
        "CRIUTooOld",
        "The target's CRIU is older than the source's.",
        "upgrade CRIU on the target",
    )
    KERNEL_FEATURE_MISSING = (
        "KernelFeatureMissing",
        "A node's kernel lacks a feature that the chosen strategy needs.",
        "use the strategy Auto, or see status.features of the NodeAgents",
    )
    AWAITING_MEMORY = (
        "AwaitingMemory",
        "The container runs on the target. The rest of its memory is still being sent.",
    )
    MEMORY_UNREACHABLE = (
        "MemoryUnreachable",
        "The source node still has some of the container's memory and does not answer.",
        "bring the source node back: the container waits unharmed. If the node is off for good, "
        "set the taint node.kubernetes.io/out-of-service on its Node, or delete its NodeAgent: "
        "the container is then started anew from its image",
    )
    LANDLOCK_NOT_REFUSED = (
        "LandlockNotRefused",
        "The container was started by an older agent, which allowed Landlock. After a live move, "
        "its programs would no longer be restricted by it.",
        "restart it (set spec.state to Stopped and then to Running), or use the strategy Cold",
    )

    # agents and address pools
    AGENT_READY = ("AgentReady", "The agent answers, and can run and move containers.")
    AGENT_STARTING = ("AgentStarting", "The agent has not finished starting.")
    AGENT_NOT_RENEWING = (
        "AgentNotRenewing",
        "The agent no longer renews its lease.",
        "check the agent and its node",
    )
    SELF_TEST_PASSED = (
        "SelfTestPassed",
        "The agent dumped and restored a small process with CRIU.",
    )
    SELF_TEST_FAILED = (
        "SelfTestFailed",
        "The agent could not dump and restore a small process. The node cannot take part in moves.",
        "see the NodeAgent's status.selfTest.message",
    )
    POOL_READY = ("PoolReady", "The pool gives out addresses.")
    INVALID_CIDR = (
        "InvalidCIDR",
        "The pool's cidr is not a valid network.",
        "write a network such as 10.0.128.0/17 or fd00:200:0:1::/64",
    )

    # an agent's journal, its requests and its health
    AWAITING_ORDER = (
        "AwaitingOrder",
        "The node restarted. The container is started once the operator confirms that it belongs "
        "here.",
        "check that the operator runs; if the node was fenced, the container may run on another "
        "node by now",
    )
    PULLING_IMAGE = ("PullingImage", "The node is pulling and unpacking the image.")
    CONTAINER_UNHEALTHY = (
        "ContainerUnhealthy",
        "The container's liveness or startup probe failed. The container is restarted.",
        "see the probe's result in the message, and the container's log",
    )
    STALE_EPOCH = ("StaleEpoch", "The request names an earlier owner of the container.")
    IN_MIGRATION = (
        "InMigration",
        "The container is being moved. It cannot be changed until the move is decided.",
        "cancel the migration, or wait for its end",
    )
    ALREADY_RELEASED = (
        "AlreadyReleased",
        "The source has promised never to run its copy again.",
    )
    ALREADY_ABORTED = (
        "AlreadyAborted",
        "The source has aborted this migration. It cannot be resumed.",
    )
    ALREADY_HERE = ("AlreadyHere", "The target already has this container.")
    NOT_PERMITTED = ("NotPermitted", "A copy may run only after the source's verdict Released.")
    WRONG_STATE = (
        "WrongState",
        "The state of the container's journal record does not allow this step.",
    )
    QUARANTINED = (
        "Quarantined",
        "The agent's journal record of the container is not usable. It is unknown what the agent "
        "had promised.",
        "inspect the file in the journal's quarantine folder, then remove it and restart the agent",
    )
    RECORD_DAMAGED = (
        "RecordDamaged",
        "A record of the agent's journal is incomplete, or its checksum is wrong.",
        "inspect the file in the journal's quarantine folder, then remove it and restart the agent",
    )
    RECORD_FOREIGN = (
        "RecordForeign",
        "A record of the agent's journal belongs to another container or another node.",
        "the node's disk may have been cloned; remove the file from the journal's quarantine "
        "folder and restart the agent",
    )
    RECORD_VERSION_UNKNOWN = (
        "RecordVersionUnknown",
        "A record of the agent's journal was written by a newer agent.",
        "move the file from the journal's quarantine folder back into the journal, and start the "
        "newer agent",
    )
    NODE_HEALTHY = (
        "NodeHealthy",
        "Nothing is wrong with the journal, the disk, the file descriptors and the certificate.",
    )
    DISK_FULL = (
        "DiskFull",
        "The node's disk for containers is nearly full.",
        "remove files that are not needed, or containers that use much space",
    )
    DESCRIPTORS_SHORT = (
        "DescriptorsShort",
        "The agent has opened nearly as many files as its limit allows.",
        "raise its limit (LimitNOFILE), and report this as a bug",
    )
    CERTIFICATE_EXPIRES = (
        "CertificateExpires",
        "The agent's certificate expires soon.",
        "renew it; the agent reads the new file by itself",
    )
    CERTIFICATE_EXPIRED = (
        "CertificateExpired",
        "The agent's certificate has expired. Neither the operator nor other agents can talk to "
        "it.",
        "renew it; the agent reads the new file by itself. Its containers keep running",
    )
    JOURNAL_UNWRITABLE = (
        "JournalUnwritable",
        "The agent cannot write its journal, so it takes part in no move.",
        "free space on the node's disk, and check that it is writable",
    )

    # what CRIU could not dump or restore
    IO_URING_IN_USE = (
        "IoUringInUse",
        "A process of the container uses io_uring, which CRIU cannot dump.",
        "make the program avoid it (for instance UV_USE_IO_URING=0 for Node.js, "
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
        "TCP, UDP, Unix, packet and netlink sockets can move; for others use the strategy Cold",
    )
    TRACED = (
        "Traced",
        "A process of the container is being traced, for instance by a debugger or by strace.",
        "end the tracer, or use the strategy Cold",
    )
    MESSAGE_QUEUE = (
        "MessageQueue",
        "The container has a POSIX message queue, which CRIU cannot dump.",
        "remove it (mq_unlink) and close it, use System V queues, or use the strategy Cold",
    )
    MAIN_THREAD_ENDED = (
        "MainThreadEnded",
        "The main thread of a process has ended while other threads run, which CRIU cannot dump.",
        "let the main thread wait for the others, or use the strategy Cold",
    )
    THREAD_STOPPED = (
        "ThreadStopped",
        "Some threads of a process are stopped while others run, which CRIU cannot dump.",
        "end the debugger that stopped them, or use the strategy Cold",
    )
    FOREIGN_PROCESS = (
        "ForeignProcess",
        "A process from outside is in the container, or a process in it holds a handle of one "
        "outside.",
        "end processes that were started in the container by hand (runc exec), or use the "
        "strategy Cold",
    )
    TERMINAL_FULL = (
        "TerminalFull",
        "A terminal of the container holds output that nobody has read.",
        "let the program that holds the terminal read it, or use the strategy Cold",
    )
    NETLINK_UNREAD = (
        "NetlinkUnread",
        "A netlink socket of the container holds messages that the program has not read.",
        "the move is tried again; a program that never reads its socket has to close it",
    )
    DESCRIPTOR_IN_FLIGHT = (
        "DescriptorInFlight",
        "A file descriptor was being sent from one process of the container to another.",
        "the move is tried again",
    )
    UNSUPPORTED_MOUNT = (
        "UnsupportedMount",
        "A process of the container has mounted a file system that CRIU cannot dump.",
        "unmount it, make it a volume, or use the strategy Cold",
    )
    UNSUPPORTED_NETWORK_DEVICE = (
        "UnsupportedNetworkDevice",
        "A process of the container has created a network device that CRIU cannot dump.",
        "remove it, or use the strategy Cold",
    )
    FILE_WATCH = (
        "FileWatch",
        "A process of the container watches a file that CRIU cannot find again.",
        "watch files of the container's own file system or of its volumes, not of /proc or /sys",
    )
    FILE_LOCK = (
        "FileLock",
        "A process of the container shares a file lock with a process outside the container.",
        "do not lock files that other containers or the node also lock",
    )
    EXTERNAL_CONNECTION = (
        "ExternalConnection",
        "A process of the container is connected by a Unix socket to a process outside the "
        "container.",
        "close the connection, or use TCP",
    )
    FOREIGN_FILE = (
        "ForeignFile",
        "A process of the container has a file open that lies outside the container.",
        "a process of the node passed it in: close it, or start the container anew",
    )
    NESTED_NAMESPACE = (
        "NestedNamespace",
        "A process of the container has created its own namespaces.",
        "for containers inside containers, and browsers with a sandbox, use the strategy Cold",
    )
    CONNECTION_IN_FLIGHT = (
        "ConnectionInFlight",
        "A connection had not been accepted by the program when the container was dumped.",
        "the move is tried again; a program that accepts no connections for long cannot be moved",
    )
    FILE_LOCKS_LOST = (
        "FileLocksLost",
        "CRIU could not keep a process's lock on a file that the process also maps.",
        "use the strategy Cold; on x86-64 Transship sets such locks again",
    )
    LIMITS_UNREADABLE = (
        "LimitsUnreadable",
        "The agent is not allowed to read the resource limits of the container's processes.",
        "give the agent the capability SYS_RESOURCE: it is needed for processes of users other "
        "than root",
    )
    DELETED_FILE_TOO_LARGE = (
        "DeletedFileTooLarge",
        "A process of the container has a large deleted file open.",
        "let the program close deleted files (rotated logs, temporary files)",
    )
    STATE_TOO_LARGE = (
        "StateTooLarge",
        "CRIU's images of the container are larger than a move may send while the container is "
        "frozen.",
        "let the program close deleted files and unlock memory, use another strategy than "
        "StopAndCopy for shared memory, or use the strategy Cold",
    )
    LINK_LOST = (
        "LinkLost",
        "An open file's name was removed, and its other names could not be used instead.",
        "let the program close deleted files",
    )
    VDSO_DIFFERS = (
        "VDSODiffers",
        "The vDSOs of the two kernels are not compatible.",
        "run the same kernel on both nodes, or a newer CRIU",
    )
    PID_IN_USE = (
        "PIDInUse",
        "A process id of the container is already used on the target.",
        "the container must have its own PID namespace",
    )
    ADDRESS_MISSING = (
        "AddressMissing",
        "A socket of the container is bound to an address that the target does not have.",
        "bind to 0.0.0.0, to :: or to the placement's address",
    )
    CONNECTION_NOT_RESTORED = (
        "ConnectionNotRestored",
        "A TCP connection of the container could not be restored on the target.",
        "see the migration's logTail",
    )
    FILES_DIFFER = (
        "FilesDiffer",
        "A file of the container is not the same on the target as it was when the container was "
        "dumped.",
        "a volume that is not copied must have the same content on both nodes",
    )
    OUT_OF_SPACE = (
        "OutOfSpace",
        "There is no room for CRIU's images or for the container's memory.",
        "they lie in the agent's runtime directory, a tmpfs: enlarge it, or free memory",
    )
    FREEZE_TIMED_OUT = (
        "FreezeTimedOut",
        "A task of the container could not be frozen in time.",
        "the task waits in the kernel, often for a network file system or a disk",
    )
    DUMP_TIMED_OUT = (
        "DumpTimedOut",
        "The dump took longer than its time limit.",
        "see the migration's logTail; the move is tried again",
    )
    RESTORE_TIMED_OUT = (
        "RestoreTimedOut",
        "The restore took longer than its time limit.",
        "see the migration's logTail; the move is tried again",
    )
    NOT_HELD = (
        "NotHeld",
        "The restored copy was not frozen, so it was killed.",
        "see the agent's log on the target",
    )
    NOT_FROZEN = (
        "NotFrozen",
        "The container was not frozen after its dump, so the dump cannot be used.",
    )
    PAGES_LOST = (
        "PagesLost",
        "Pages of the container's memory are missing. They did not arrive, or the source lost "
        "them.",
        "check the network between the nodes, and the free memory on the target",
    )
    PAGE_SERVER_SILENT = (
        "PageServerSilent",
        "The page server, which gives a moved container its memory, does not answer correctly.",
        "see page-server.log among the container's images; the node may be overloaded",
    )
    STILL_MOUNTED = (
        "StillMounted",
        "Something is mounted in a directory whose files were to be deleted.",
    )
    CRIU_FAILED = ("CRIUFailed", "CRIU failed.", "see the agent's log")
    CRIU_MISSING = (
        "CRIUMissing",
        "CRIU is not installed on the node.",
        "install CRIU 4.2 or newer",
    )

    # failures on a node
    AGENT_RESTARTED = ("AgentRestarted", "The agent restarted during a move.")
    NODE_RESTARTED = ("NodeRestarted", "The container ended because its node restarted.")
    VANISHED = (
        "Vanished",
        "The container's main process is gone, and its exit status is unknown.",
        "look for the kernel's out-of-memory messages on the node",
    )
    HELD = ("Held", "The copy is restored and waits for the source's verdict.")
    NO_NETWORK = ("NoNetwork", "The container has no network on this node.")
    NETWORK_FAILED = (
        "NetworkFailed",
        "The kernel refused a change of the node's network configuration.",
    )
    ADDRESS_DIFFERS = ("AddressDiffers", "The container has a different address on this node.")
    NO_NEXT_HOP = (
        "NoNextHop",
        "The other node has no address of the IP family to which packets could be forwarded.",
    )
    LINK_NOT_FOUND = (
        "LinkNotFound",
        "The node has no network interface with that name.",
        "give the name of the interface that has the node's address to the agent's flag --underlay",
    )
    FILE_COPY_FAILED = ("FileCopyFailed", "Files could not be copied to the target.")
    IMAGES_DAMAGED = ("ImagesDamaged", "CRIU's images did not arrive as they were sent.")

    # the lab
    DAEMON_NOT_RUNNING = ("DaemonNotRunning", "A program of the lab is not running.")
    UNKILLABLE = ("Unkillable", "A process of the lab survived SIGKILL.")

    # errors without a more specific reason
    INTERNAL_ERROR = (
        "InternalError",
        "An unexpected error occurred.",
        "see the program's log",
    )
    INVALID_INPUT = ("InvalidInput", "The request is not valid.")
    REFUSED = ("Refused", "The request is valid, but the present state does not allow it.")
    NOT_FOUND = ("NotFound", "The requested object does not exist.")
    UNREACHABLE = (
        "Unreachable",
        "A peer did not answer. It may have carried out the request all the same.",
    )
    CONFLICT = ("Conflict", "The object was changed by someone else at the same time.")
    RECREATED = ("Recreated", "The object was deleted, and another one was created with its name.")
    ALREADY_EXISTS = ("AlreadyExists", "An object with this name already exists.")
    COMMAND_FAILED = ("CommandFailed", "A program that the agent runs failed.")
    API_SERVER_UNREACHABLE = (
        "APIServerUnreachable",
        "The API server does not answer.",
        "check the address in the kubeconfig, and the API server",
    )
    API_SERVER_UNAVAILABLE = (
        "APIServerUnavailable",
        "The API server answers that it cannot serve requests now.",
    )
    FORBIDDEN = (
        "Forbidden",
        "The API server does not allow the request.",
        "bind one of the project's ClusterRoles to the user in the message",
    )
    UNAUTHORIZED = (
        "Unauthorized",
        "The API server does not accept the credentials.",
        "check the user in the kubeconfig",
    )
    TASK_ENDED = (
        "TaskEnded",
        "A background task ended that must run as long as its process. The process ends, so that "
        "it is restarted.",
        "see the program's log",
    )
    PORT_UNAVAILABLE = (
        "PortUnavailable",
        "The program cannot listen on the given port.",
        "end the program that uses the port, or choose another port",
    )
    NOT_LEADING = (
        "NotLeading",
        "Another operator may be the leader by now. This one sends no more requests.",
    )
    LEASE_HELD = ("LeaseHeld", "Another process holds the lease.")
    NO_CLUSTER = (
        "NoCluster",
        "No cluster is configured.",
        "set KUBECONFIG, or give --kubeconfig FILE",
    )
    UNKNOWN = ("Unknown", "It has not been observed yet.")
