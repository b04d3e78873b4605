"""How a restored container is kept from running: what CRIU is told to do just before it lets go.

CRIU calls a script at each stage of a restore. At `pre-resume` all tasks are restored and in
ptrace's hands; frozen there, they are let go into a frozen cgroup, and run when that is thawed.
Nothing has run then, no signal was sent, stopped tasks are still stopped, and neither the agent's,
nor conmon's, nor CRIU's death sets them free. The alternative, CRIU's `leave-stopped`, sends
SIGSTOP and needs SIGCONT, which shells see, and which wakes what had been stopped before.

- runc has put CRIU itself into the container's cgroup, where it would freeze too. It is moved out
  of the freezer at `setup-namespaces`, in the background, since a move waits 20 ms for the kernel.
- A script that fails up to `post-restore` makes CRIU undo the restore. A failure at `pre-resume` is
  only logged, so the script itself then kills what it could not freeze.
- Seen: 1.5 ms for each of the seven calls, and 4 ms from thawing to the first output.

Pure: the texts of the script and of CRIU's configuration.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from transship.runtime.dump_options import GHOST_LIMIT_BYTES
from transship.runtime.externals import DEVICES_KEY
from transship.runtime.freezer import Freezer

_SCRIPT = """\
#!/bin/sh
# CRIU's streams are the container's own
exec </dev/null >/dev/null 2>&1
cgroup={cgroup}
refuge={refuge}

leave() {{ echo "$PPID" >"$refuge/cgroup.procs"; }}

inside() {{
    while read -r pid; do
        [ "$pid" = "$PPID" ] && return 0
    done <"$cgroup/cgroup.procs"
    return 1
}}

frozen() {{
    while read -r word; do
        [ "$word" = {frozen_word} ] && return 0
    done <"$cgroup/{state_file}"
    return 1
}}

end() {{
    while read -r pid; do
        kill -KILL "$pid"
    done <"$cgroup/cgroup.procs"
    exit 1
}}

case $CRTOOLS_SCRIPT_ACTION in
setup-namespaces)
    leave &
    ;;
post-restore)
    if inside; then leave || exit 1; fi
    ! inside && [ -w "$cgroup/{control_file}" ]
    ;;
pre-resume)
    echo {freeze_word} >"$cgroup/{control_file}" && frozen || end
    ;;
esac
"""


def script(freezer: Freezer, *, refuge: Path) -> str:
    """The action script. `refuge` is the cgroup that CRIU is moved to."""
    return _SCRIPT.format(
        cgroup=shlex.quote(str(freezer.path)),
        refuge=shlex.quote(str(refuge)),
        control_file=freezer.control.name,
        freeze_word=freezer.freeze_word,
        state_file="cgroup.events" if freezer.unified else "freezer.state",
        frozen_word="'frozen 1'" if freezer.unified else "FROZEN",
    )


def configuration(script_path: Path, *, devices: Path) -> str:
    """CRIU's configuration for a restore; runc hands it over by an annotation of the bundle."""
    return "\n".join((
        "network-lock skip",
        "tcp-established",
        "ext-unix-sk",
        "file-locks",
        "link-remap",
        f"ghost-limit {GHOST_LIMIT_BYTES}",
        f"external mnt[{DEVICES_KEY}]:{devices}",
        f"action-script {script_path}",
        "",
    ))  # fmt: skip
