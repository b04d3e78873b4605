"""Resolves the user and groups of a container from the image's USER and the securityContext. Pure.

The caller reads the image's /etc/passwd and /etc/group.
"""

from __future__ import annotations

from dataclasses import dataclass

from transship.api.container import SecurityContext
from transship.api.reasons import Reason
from transship.common.errors import InvalidInput


@dataclass(frozen=True)
class Identity:
    uid: int
    gid: int
    additional_gids: tuple[int, ...] = ()
    home: str = "/"


@dataclass(frozen=True)
class _User:
    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True)
class _Group:
    name: str
    gid: int
    members: tuple[str, ...]


@dataclass(frozen=True)
class Accounts:
    """The text of /etc/passwd and /etc/group in the image; empty when it has none."""

    passwd: str = ""
    group: str = ""

    def users(self) -> list[_User]:
        rows = (line.split(":") for line in self.passwd.splitlines())
        return [
            _User(row[0], int(row[2]), int(row[3]), row[5])
            for row in rows
            if len(row) >= 6 and row[2].isdigit() and row[3].isdigit()
        ]

    def groups(self) -> list[_Group]:
        rows = (line.split(":") for line in self.group.splitlines())
        return [
            _Group(row[0], int(row[2]), tuple(filter(None, row[3].split(","))))
            for row in rows
            if len(row) >= 4 and row[2].isdigit()
        ]


def resolve(image_user: str, *, context: SecurityContext, accounts: Accounts) -> Identity:
    """Resolve the identity: runAsUser overrides the image's USER, runAsGroup the group of either.

    As in other container runtimes, supplementary groups come from /etc/group by the user's name,
    unless the image's USER names a group itself. Raises InvalidInput.
    """
    user_word, _, group_word = image_user.partition(":")
    if context.run_as_user is not None:
        user_word, group_word = str(context.run_as_user), ""
    user = _user(user_word or "0", accounts=accounts)
    gid = _gid(group_word, accounts=accounts) if group_word else user.gid
    if context.run_as_group is not None:
        gid = context.run_as_group
    extra = [] if group_word else [g.gid for g in accounts.groups() if user.name in g.members]
    return Identity(user.uid, gid, tuple(sorted({*extra} - {gid})), user.home)


def _user(word: str, *, accounts: Accounts) -> _User:
    for user in accounts.users():
        if word == user.name or (word.isdigit() and int(word) == user.uid):
            return user
    if word.isdigit():
        return _User("", int(word), 0, "/")
    raise InvalidInput(
        f"the image's USER is {word!r}, which its /etc/passwd does not have",
        reason=Reason.INVALID_IMAGE,
        hint="set spec.container.securityContext.runAsUser to a number",
    )


def _gid(word: str, *, accounts: Accounts) -> int:
    for group in accounts.groups():
        if word == group.name:
            return group.gid
    if word.isdigit():
        return int(word)
    raise InvalidInput(
        f"the image's USER names the group {word!r}, which its /etc/group does not have",
        reason=Reason.INVALID_IMAGE,
        hint="set spec.container.securityContext.runAsGroup to a number",
    )
