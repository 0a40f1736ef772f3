"""The table of docs/security.md: who may call what."""

from __future__ import annotations

from pathlib import Path

from backend.labelstudio.access import basic_auth, webhook_headers
from tests.security.test_hostile import basic

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
HEAD, *ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith(("| route |", "| `GET", "| `POST", "| `PATCH", "| anything"))
]
TABLE = {row[0].strip("`"): dict(zip(HEAD[1:], row[1:], strict=True)) for row in ROWS}
NOBODY, WEBHOOK, STUDIO, OWNER = HEAD[1:]


def headers(secret: bytes, who: str, project: int) -> dict[str, str]:
    """What somebody sends along: of a project's two keys, that of the project with this ``Project.key``."""
    auth = basic_auth(secret, project)
    return {
        NOBODY: {},
        WEBHOOK: webhook_headers(secret, project),
        STUDIO: {"Authorization": basic(auth.user, auth.password.get_secret_value())},
        OWNER: {"Authorization": f"Bearer {secret.decode()}"},
    }[who]


def assert_true(route: str, who: str, own: int, other: int) -> None:
    """What the table says of a route is what came of asking with the keys of a project.

    Args:
        route: a row of the table.
        who: a column of it.
        own: the status when asked about the keys' own project.
        other: the status when asked about another one.
    """
    said = TABLE[route][who]
    if said == "yes":
        assert own in (200, 201)
        assert other in (200, 201)
    elif said == "its project":
        assert own in (200, 201)
        # Versions are told of the key's own project, whichever is meant.
        assert other == (own if route == "GET /versions" else 403)
    elif said == "its link":
        assert (own, other) == (404, 403), "404: no task shows the image that was not named"
    else:
        assert (str(own), str(other)) == (said, said)
