from __future__ import annotations

import pytest

from transship.api.container import SecurityContext
from transship.common.errors import InvalidInput
from transship.runtime.users import Accounts, Identity, resolve

ACCOUNTS = Accounts(
    passwd="root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n#broken\n",
    group="root:x:0:\napp:x:1001:\nextra:x:2000:root,app\nlog:x:2001:app\n",
)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", Identity(0, 0, (2000,), "/root")),
        ("app", Identity(1000, 1001, (2000, 2001), "/home/app")),
        ("1000", Identity(1000, 1001, (2000, 2001), "/home/app")),
        ("app:log", Identity(1000, 2001, (), "/home/app")),
        ("5000", Identity(5000, 0, (), "/")),
        ("5000:6000", Identity(5000, 6000, (), "/")),
    ],
)
def test_the_user_of_the_image_is_looked_up_in_it(user: str, expected: Identity) -> None:
    assert resolve(user, context=SecurityContext(), accounts=ACCOUNTS) == expected


def test_run_as_user_beats_the_image() -> None:
    context = SecurityContext(run_as_user=1000)
    assert resolve("root:log", context=context, accounts=ACCOUNTS).uid == 1000
    assert resolve("root:log", context=context, accounts=ACCOUNTS).gid == 1001


def test_run_as_group_beats_the_group_of_the_user() -> None:
    context = SecurityContext(run_as_group=7)
    assert resolve("app", context=context, accounts=ACCOUNTS).gid == 7


def test_an_image_from_scratch_has_numbers_only() -> None:
    assert resolve("3", context=SecurityContext(), accounts=Accounts()) == Identity(3, 0)


@pytest.mark.parametrize("user", ["nobody", "app:nogroup"])
def test_unknown_names_are_refused_with_a_remedy(user: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        resolve(user, context=SecurityContext(), accounts=ACCOUNTS)
    assert "securityContext" in caught.value.hint
