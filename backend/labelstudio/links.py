"""Links to the heat maps, signed.

A browser fetches a heat map without credentials, from a link that stands in the label config. The signature keeps
everybody out who has not seen that config; which images it opens is for the contract to say.
"""

from __future__ import annotations

from backend.labelstudio.access import derived, same

_LENGTH = 32


def sign(secret: bytes, project: int) -> str:
    """The signature of a project's links: 128 bits of HMAC-SHA256, hexadecimal.

    Args:
        secret: the backend's secret.
        project: our own id of the project.
    """
    return derived(secret, f"heat/{project}")[:_LENGTH]


def verify(secret: bytes, project: int, signature: str) -> bool:
    """Whether a signature is the project's, in constant time. Any text may be asked about."""
    return same(sign(secret, project), signature)


def heat_link(public_url: str, project: int, signature: str, image_field: str) -> str:
    """The address of a project's heat maps.

    Args:
        public_url: the backend as browsers reach it.
        project: our own id of the project.
        signature: of that project.
        image_field: the key of the task data whose value Label Studio pastes in.
    """
    return f"{public_url}/heat/{project}/{signature}?src=${image_field}"
