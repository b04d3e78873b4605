"""The states of a container's record in an agent's journal, and the source's verdict.

The source's record is the only arbiter: a target runs its copy only on the verdict Released, or
when an administrator has fenced the source's node (Fenced).
"""

from __future__ import annotations

from enum import StrEnum


class RecordState(StrEnum):
    """What this agent's journal records of its copy of a container."""

    RUNNING = "Running"  # it owns the container: this is the copy that runs
    STOPPED = "Stopped"  # it owns the container, which does not run (by its spec, or it has ended)
    FROZEN = "Frozen"  # source: stopped in mid-handover, undecided
    RELEASED = "Released"  # source: promised never to run its copy again
    INCOMING = "Incoming"  # target: preparing
    HELD = "Held"  # target: restored, not yet allowed to run


class Verdict(StrEnum):
    """What the source's record says of one migration."""

    UNDECIDED = "Undecided"
    RELEASED = "Released"
    ABORTED = "Aborted"
    FENCED = "Fenced"  # the operator's word in the source's place: its node was fenced
    UNKNOWN = "Unknown"  # no record of it: never a permission to run


class SideState(StrEnum):
    """How far one side of a migration is."""

    PREPARING = "Preparing"
    PREPARED = "Prepared"  # target: the source may begin
    COPYING = "Copying"  # source: files and memory, while the container runs
    FROZEN = "Frozen"  # source
    HELD = "Held"  # target
    RELEASED = "Released"  # source: decided; the target may not have the verdict yet
    RUNNING = "Running"  # target: owner now
    DONE = "Done"  # source: its copy is destroyed
    FAILED = "Failed"  # over for this side, nothing is left; source: the container runs on here
    CANCELLED = "Cancelled"

    @property
    def finished(self) -> bool:
        return self in {self.RUNNING, self.DONE, self.FAILED, self.CANCELLED}


class RunState(StrEnum):
    """What the kernel says of a container's processes."""

    ABSENT = "Absent"
    CREATING = "Creating"
    RUNNING = "Running"
    FROZEN = "Frozen"
    EXITED = "Exited"
