"""Hooking a Label Studio project up to this backend, and finding out what is wrong with the hook-up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import httpx

from backend.domain import LookhereError
from backend.labelstudio.access import BasicAuth
from backend.labelstudio.client import (
    LOWEST_SCORE_FIRST,
    UNCERTAINTY_SAMPLING,
    VIEW_TITLE,
    ConnectedBackend,
    LabelStudioClient,
    LabelStudioError,
    ProjectState,
)
from backend.labelstudio.labelconfig import LabelConfigError, Roles, read_roles, with_heat
from backend.settings import Settings

_PROBE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Connected:
    """A project that is hooked up.

    Attributes:
        project: the project as it stands now, with the heat-map's link in its label config.
        roles: what the tags of its label config are for.
        steps: what was done, one line each, for people; also what was already there.
    """

    project: ProjectState
    roles: Roles
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """What the doctor says of one thing.

    Attributes:
        check: what was looked at.
        ok: whether it is as it should be.
        detail: how it is.
        remedy: what to do about it; empty where nothing is to be done.
    """

    check: str
    ok: bool
    detail: str
    remedy: str = ""


def webhook_address(settings: Settings) -> str:
    """Where Label Studio posts events; it registers the same address by itself when a backend is connected."""
    return f"{settings.url_for_label_studio}/webhook"


def connect(
    client: LabelStudioClient,
    number: int,
    settings: Settings,
    heat_link: Callable[[str], str],
    *,
    basic_auth: BasicAuth | None = None,
    webhook_headers: Mapping[str, str] | None = None,
) -> Connected:
    """Do the whole Label Studio side of the hook-up of an existing project. Done twice, it changes nothing more.

    The backend must be running: Label Studio calls its ``/health`` and ``/setup``. Scoring comes afterwards.

    Args:
        client: speaks as a user who may change the project.
        number: Label Studio's project id.
        settings: the backend's addresses.
        heat_link: task-data field of the image → link of the heat-map beside it.
        basic_auth: user and password that Label Studio is to send to the backend.
        webhook_headers: headers that Label Studio is to send with each event, such as a secret.

    Raises:
        LabelConfigError: the label config cannot work; says which tag is missing.
        LabelStudioError: Label Studio refuses a step; those before it stay done.
    """
    project = client.project(number)
    roles = read_roles(project.label_config)
    steps = [f"Project {number} {project.title!r}: an image in {roles.image_field!r}, {len(roles.classes)} classes."]

    url = settings.url_for_label_studio
    backend, changed = client.ensure_backend(number, url, basic_auth=basic_auth)
    steps.append(_step(changed, f"backend {url} connected and interactive"))
    first = client.backends(number)[0]
    if first.id != backend.id:
        steps.append(f"Beware: {_not_first(first)}")

    hook = webhook_address(settings)
    steps.append(_step(client.ensure_webhook(number, hook, webhook_headers), f"one webhook {hook} for all events"))

    with_link = with_heat(project.label_config, heat_link(roles.image_field))
    if with_link != project.label_config:
        client.set_label_config(number, with_link)
    steps.append(_step(with_link != project.label_config, "heat-map beside the image in the label config"))

    if project.sampling != UNCERTAINTY_SAMPLING:
        client.set_sampling(number)
    steps.append(_step(project.sampling != UNCERTAINTY_SAMPLING, f"sampling {UNCERTAINTY_SAMPLING!r}"))

    steps.append(_step(client.ensure_view(number), f"view {VIEW_TITLE!r}, lowest score first"))
    return Connected(project=client.project(number), roles=roles, steps=tuple(steps))


def diagnose(
    client: LabelStudioClient,
    number: int,
    settings: Settings,
    heat_link: Callable[[str], str],
    *,
    ours: Callable[[str], bool],
    fetch: Callable[[str], object],
    basic_auth: BasicAuth | None = None,
    webhook_headers: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Look for each known misconfiguration of a project's hook-up. Changes nothing.

    Args:
        client: speaks as the user whose token the backend uses.
        number: Label Studio's project id.
        settings: the backend's addresses.
        heat_link: task-data field of the image → link of the heat-map beside it.
        ours: tells by its name whether a model version is one of ours.
        fetch: image reference of a task → anything; raises ``LookhereError`` where the image cannot be read.
        basic_auth: user and password that Label Studio must send to the backend; None for any.
        webhook_headers: headers that the webhook must send; None for any.

    Returns:
        the findings in the order in which to mend them. It ends early where nothing more can be seen: at a Label
        Studio that does not answer, a token that is refused, a project that is not there.
    """
    findings: list[Finding] = []
    try:
        for finding in _examine(client, number, settings, heat_link, ours, fetch, basic_auth, webhook_headers):
            findings.append(finding)  # noqa: PERF402 - what was found before an error is kept
    except LabelStudioError as error:
        check = "token" if error.status == 401 else "project" if findings else "Label Studio"
        findings.append(Finding(check, False, str(error), error.remedy))
    return findings


def _examine(
    client: LabelStudioClient,
    number: int,
    settings: Settings,
    heat_link: Callable[[str], str],
    ours: Callable[[str], bool],
    fetch: Callable[[str], object],
    basic_auth: BasicAuth | None,
    webhook_headers: Mapping[str, str] | None,
) -> Iterator[Finding]:
    yield Finding("token", True, f"{client.url} knows it as {client.whoami().email}'s")
    project = client.project(number)
    yield Finding("project", True, f"{number} {project.title!r}")
    yield from _public_address(settings, basic_auth)
    yield from _private_addresses(client, number, settings)
    backends = client.backends(number)
    yield from _backend(number, backends, settings, basic_auth)
    yield from _webhook(client, number, settings, backends, webhook_headers)
    roles: Roles | None = None
    try:
        roles = read_roles(project.label_config)
    except LabelConfigError as error:
        yield Finding("label config", False, str(error), "Change it in the project's settings, Labeling Interface.")
    if roles is not None:
        yield _heat(project, heat_link(roles.image_field))
        yield _image(client, number, roles.image_field, fetch)
    yield from _order(client, project, backends, ours)


def _public_address(settings: Settings, basic_auth: BasicAuth | None) -> Iterator[Finding]:
    url = settings.public_url
    try:
        status = httpx.get(f"{url}/health", timeout=_PROBE_TIMEOUT_S).status_code
        came = f"answered {status}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        status, came = 0, f"did not answer: {error}"
    remedy = "Start it with `lookhere serve`; LOOKHERE_PUBLIC_URL must be its address as annotators' browsers reach it."
    yield Finding("public address", status == 200, f"{url} {came}", "" if status == 200 else remedy)
    if status == 200 and basic_auth is not None:
        yield _secret(url, basic_auth)
    if settings.label_studio_url.startswith("https:") and url.startswith("http:"):
        detail = (
            f"Label Studio is at {settings.label_studio_url}, but the heat-maps at {url}: browsers refuse the mixture"
        )
        yield Finding("encryption", False, detail, "Put the backend behind https and set LOOKHERE_PUBLIC_URL.")


def _secret(url: str, basic_auth: BasicAuth) -> Finding:
    auth = (basic_auth.user, basic_auth.password.get_secret_value())
    try:
        status = httpx.get(f"{url}/versions", auth=auth, timeout=_PROBE_TIMEOUT_S).status_code
    except httpx.HTTPError as error:
        return Finding("secret", False, f"{url} did not answer: {error}", "Try again.")
    if status == 200:
        return Finding("secret", True, "the backend accepts what Label Studio is to send")
    detail = f"the backend at {url} answers {status} to what Label Studio is to send: it has another secret"
    remedy = "Give `lookhere serve` and this command the same LOOKHERE_SECRET, or the same LOOKHERE_DATA_DIR."
    return Finding("secret", False, detail, remedy)


def _private_addresses(client: LabelStudioClient, number: int, settings: Settings) -> Iterator[Finding]:
    probes = {
        "predictions allowed": (client.check_backend_address, settings.url_for_label_studio),
        "events allowed": (client.check_webhook_address, webhook_address(settings)),
    }
    for check, (probe, url) in probes.items():
        try:
            probe(number, url)
        except LabelStudioError as error:
            yield Finding(check, False, f"Label Studio may not call {url}: {error.came}", error.remedy)
        else:
            yield Finding(check, True, f"Label Studio may call {url}")


def _backend(
    number: int, backends: list[ConnectedBackend], settings: Settings, basic_auth: BasicAuth | None
) -> Iterator[Finding]:
    url = settings.url_for_label_studio
    same = [backend for backend in backends if backend.url == url]
    if not same:
        others = ", ".join(backend.url for backend in backends) or "none"
        yield Finding("backend", False, f"{url} is not connected; connected: {others}", _connect(number))
        return
    backend = same[0]
    faults = []
    if len(same) > 1:
        faults.append(Finding("backend", False, f"{url} is connected {len(same)} times", _connect(number)))
    if backend.state != "CO":
        detail = f"Label Studio does not get through to {url}: {backend.error or f'state {backend.state!r}'}"
        remedy = (
            "See that the backend runs, and that LOOKHERE_BACKEND_URL is its address as Label Studio reaches it; then "
            + _connect(number)
        )
        faults.append(Finding("backend", False, detail, remedy))
    if backends[0].url != url:
        remedy = "Disconnect the first one in the project's settings, Model, if its predictions are not needed."
        faults.append(Finding("backend", False, _not_first(backends[0]), remedy))
    if basic_auth is not None and backend.user != basic_auth.user:
        detail = f"Label Studio does not authenticate at {url} as {basic_auth.user}"
        faults.append(Finding("backend", False, detail, _connect(number)))
    if not backend.interactive:
        faults.append(
            Finding("backend", False, "smart clicks do not reach it: it is not interactive", _connect(number))
        )
    yield from faults or [Finding("backend", True, f"{url} is connected and interactive")]


def _webhook(
    client: LabelStudioClient,
    number: int,
    settings: Settings,
    backends: list[ConnectedBackend],
    headers: Mapping[str, str] | None,
) -> Iterator[Finding]:
    url = webhook_address(settings)
    hooks = client.webhooks(number)
    same = [hook for hook in hooks if hook.url == url]
    if not same:
        others = ", ".join(hook.url for hook in hooks) or "none"
        yield Finding("webhook", False, f"no event reaches {url}; webhooks: {others}", _connect(number))
    elif len(same) > 1:
        yield Finding("webhook", False, f"each event reaches {url} {len(same)} times", _connect(number))
    elif not same[0].active:
        yield Finding("webhook", False, f"the webhook {url} is switched off", _connect(number))
    elif not (same[0].payload and same[0].all_actions):
        yield Finding(
            "webhook", False, f"the webhook {url} does not send every event with its payload", _connect(number)
        )
    elif not same[0].complete(headers):
        yield Finding("webhook", False, f"the webhook {url} does not send the headers that it should", _connect(number))
    else:
        yield Finding("webhook", True, f"one, to {url}")
    registered = {f"{backend.url}/webhook" for backend in backends}
    for hook in hooks:
        if hook.url != url and hook.url.endswith("/webhook") and hook.url not in registered:
            detail = f"events also go to {hook.url}, which belongs to no connected backend"
            remedy = "Label Studio leaves it behind when a backend is disconnected. Delete it in Settings, Webhooks."
            yield Finding("left webhook", False, detail, remedy)


def _heat(project: ProjectState, link: str) -> Finding:
    if with_heat(project.label_config, link) != project.label_config:
        return Finding(
            "heat-map", False, "the label config has no heat-map, or an outdated link of it", _connect(project.number)
        )
    return Finding("heat-map", True, "the label config shows it beside the image")


def _image(client: LabelStudioClient, number: int, image_field: str, fetch: Callable[[str], object]) -> Finding:
    task = next(islice(client.tasks(number, page_size=1), 1), None)
    if task is None:
        return Finding("image", True, "the project has no tasks yet")
    reference = task["data"].get(image_field)
    if not isinstance(reference, str):
        detail = f"task {task['id']} has no image in {image_field!r}"
        return Finding("image", False, detail, "Import tasks whose data hold what the Image tag's value names.")
    try:
        fetch(reference)
    except LookhereError as error:
        remedy = "See that the token's user may see it; other hosts must be named in LOOKHERE_IMAGE_HOSTS."
        return Finding("image", False, f"the image of task {task['id']} cannot be read: {error}", remedy)
    return Finding("image", True, f"the image of task {task['id']} can be read")


def _order(
    client: LabelStudioClient, project: ProjectState, backends: list[ConnectedBackend], ours: Callable[[str], bool]
) -> Iterator[Finding]:
    number, current = project.number, project.model_version
    score = f"Run `lookhere score --project {number}`."
    stored = client.predicted_versions(number)
    if current and current in {backend.title for backend in backends} - stored.keys():
        detail = f"the project's model version is {current!r}, a backend's title: no stored score counts"
        yield Finding("model version", False, detail, score)
    elif not any(ours(version) for version in stored):
        yield Finding("model version", False, "no predictions of ours are stored", score)
    elif current not in stored or not ours(current):
        detail = f"the project's model version is {current!r}, but ours are stored as {sorted(filter(ours, stored))}"
        yield Finding("model version", False, detail, score)
    else:
        yield Finding("model version", True, f"{current!r} with {stored[current]} predictions")
        if old := sorted(version for version in stored if ours(version) and version != current):
            yield Finding("old predictions", False, f"predictions of {old} are left beside the current ones", score)
    if not project.shows_predictions:
        detail = "predictions are not shown to annotators, and none are asked for"
        yield Finding("predictions shown", False, detail, "Switch it on in the project's settings, Annotation.")
    if project.sampling == UNCERTAINTY_SAMPLING:
        yield Finding("sampling", True, "the lowest score is served first")
    else:
        yield Finding("sampling", False, f"it is {project.sampling!r}: tasks are not served by score", _connect(number))
    if project.overlap > 1:
        detail = (
            f"{project.overlap} annotations a task: Label All Tasks first serves tasks that others have begun, in any "
            f"order; its entry Label Tasks As Displayed, in the view {VIEW_TITLE!r}, keeps to the scores"
        )
        yield Finding("overlap", True, detail)
    view = next((view for view in client.views(number) if view.title == VIEW_TITLE), None)
    if view is None:
        yield Finding("view", False, f"there is no view {VIEW_TITLE!r}", _connect(number))
    elif view.ordering != (LOWEST_SCORE_FIRST,):
        yield Finding("view", False, f"the view {VIEW_TITLE!r} is not sorted by score, lowest first", _connect(number))
    else:
        detail = (
            f"{VIEW_TITLE!r}, lowest score first; several annotators at once use Label All Tasks, since Label Tasks As "
            "Displayed gives all of them the same task"
        )
        yield Finding("view", True, detail)


def _connect(number: int) -> str:
    return f"Run `lookhere connect --project {number}`; it may be run again at any time."


def _not_first(first: ConnectedBackend) -> str:
    return f"{first.url} ({first.title!r}) was connected first, and Label Studio asks only the first for predictions"


def _step(changed: bool, what: str) -> str:
    return f"{'Done' if changed else 'Already there'}: {what}."
