"""Speaking to Label Studio: pull tasks, push predictions, switch versions, connect.

Everything goes through one HTTP client that carries the credential. The SDK uses it for users, backends and webhooks.
The rest is asked directly: the SDK has no method for it, or its typed models drop what we need, or its pager takes a
project that does not exist for one without tasks. Label Studio's behaviour is that of 1.23.2.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.types import MlBackend as SdkBackend
from pydantic import SecretStr

from backend.domain import LookhereError
from backend.labelstudio.access import BasicAuth

logger = logging.getLogger(__name__)

UNCERTAINTY_SAMPLING = "Uncertainty sampling"
"""The sampling under which Label Studio serves the task with the lowest prediction score first."""
VIEW_TITLE = "Label next"
"""Title of the Data Manager view that shows the order."""
LOWEST_SCORE_FIRST = "tasks:predictions_score"
"""Ordering of that view, as the Data Manager names it."""

_TOKEN_RENEWED_AFTER_S = 200.0  # of the 300 s that an access token lives; an image download may take the rest
_READINGS = 10  # of a project's tasks, each begun because tasks were deleted during the one before
_PUSH_CHUNK = 500  # the size in which Label Studio itself stores imported predictions
_BULK_TIMEOUT_S = (
    900.0  # deleting 10,000 predictions takes half a minute on SQLite, and more when annotators are saving
)


class LabelStudioError(LookhereError):
    """Label Studio did not do what it was asked.

    Attributes:
        asked: what was asked of it.
        status: HTTP status of its answer, None where none came.
        came: its answer, or the cause of there being none; never holds a credential.
        remedy: what to do about it.
    """

    def __init__(self, asked: str, status: int | None, came: str, remedy: str) -> None:
        answer = f"answered {status}: {came}" if status is not None else f"did not answer: {came}"
        super().__init__(f"Label Studio was asked to {asked} and {answer.rstrip('. ')}. {remedy}")
        self.asked = asked
        self.status = status
        self.came = came
        self.remedy = remedy

    @property
    def passing(self) -> bool:
        """Whether asking again later may help: it did not answer, or is in trouble itself."""
        return self.status is None or self.status == 429 or self.status >= 500


@dataclass(frozen=True)
class User:
    """The user whose token this is."""

    id: int
    email: str


@dataclass(frozen=True)
class ProjectState:
    """A project as it stands in Label Studio. Its secret token is not kept.

    Attributes:
        number: Label Studio's project id.
        title: its title.
        label_config: its label config, XML.
        created_at: when it was made.
        model_version: the version whose predictions count for the order and are shown; "" for none. It may also be
            the title of a backend, in which case no stored prediction counts.
        sampling: "Sequential sampling", "Uniform sampling" or "Uncertainty sampling".
        shows_predictions: whether annotators see predictions at all; if not, Label Studio asks for none either.
        overlap: how many annotations each task is to get.
    """

    number: int
    title: str
    label_config: str
    created_at: datetime
    model_version: str
    sampling: str
    shows_predictions: bool
    overlap: int


@dataclass(frozen=True)
class ConnectedBackend:
    """An ML backend that is connected to a project.

    Attributes:
        id: Label Studio's id of it.
        url: its address as Label Studio reaches it, without a trailing slash.
        title: its title.
        state: "CO" connected, "DI" disconnected, "ER" error, "TR" training, "PR" predicting; Label Studio looks anew
            each time that the backends are listed.
        error: what Label Studio says of a state of error, "" otherwise.
        interactive: whether smart clicks reach it.
        model_version: what its ``/setup`` answered last.
        user: the name with which Label Studio authenticates there, "" where it does not.
    """

    id: int
    url: str
    title: str
    state: str
    error: str
    interactive: bool
    model_version: str
    user: str = ""


@dataclass(frozen=True)
class ConnectedWebhook:
    """A webhook of a project.

    Attributes:
        id: Label Studio's id of it.
        url: where it posts to.
        active: whether it posts at all.
        payload: whether it posts more than the name of the action.
        all_actions: whether it posts every action.
        headers: extra headers that it sends; may hold a secret, hence not shown by ``repr``.
    """

    id: int
    url: str
    active: bool
    payload: bool
    all_actions: bool
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        return f"ConnectedWebhook(id={self.id}, url={self.url!r}, active={self.active}, headers={sorted(self.headers)})"

    def complete(self, headers: Mapping[str, str] | None = None) -> bool:
        """Whether it posts everything, with these headers where any are asked for."""
        return self.active and self.payload and self.all_actions and (headers is None or self.headers == headers)


@dataclass(frozen=True)
class DataManagerView:
    """A tab of the Data Manager.

    Attributes:
        id: Label Studio's id of it.
        title: its title.
        data: its columns, filters and ordering, as the Data Manager keeps them.
    """

    id: int
    title: str
    data: Mapping[str, Any]

    @property
    def ordering(self) -> tuple[str, ...]:
        """Columns by which it is sorted; a leading ``-`` turns the direction."""
        return tuple(self.data.get("ordering") or ())


@dataclass(frozen=True)
class Published:
    """What :meth:`LabelStudioClient.publish_predictions` left behind.

    Attributes:
        version: the current version.
        pushed: how many predictions of it were stored.
        removed: the versions of ours whose predictions are gone.
    """

    version: str
    pushed: int
    removed: tuple[str, ...]


class LabelStudioClient:
    """A Label Studio server, seen by one user. Threads may share it.

    Args:
        url: address of Label Studio as this machine reaches it, sub-path included.
        api_key: a personal access token or a legacy token.
        timeout: longest time in seconds to wait for an ordinary answer; bulk work may take longer.
    """

    def __init__(self, url: str, api_key: SecretStr, timeout: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._credential = _Credential(self.url, api_key, timeout)
        # A redirect is not followed: what changes its method on the way, or ends at a login page, only hides the
        # mistake in the configured address.
        self._http = httpx.Client(auth=self._credential, timeout=timeout, follow_redirects=False)
        # The SDK's types are complete but for this one constructor.
        self._sdk = LabelStudio(  # type: ignore[no-untyped-call]
            base_url=self.url, api_key="carried by the HTTP client", httpx_client=self._http, timeout=timeout
        )

    def __enter__(self) -> LabelStudioClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LabelStudioClient({self.url!r})"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # Who speaks

    def authorization(self) -> dict[str, str]:
        """Headers that authorise a request to this Label Studio for at least the next minute.

        Send them to ``self.url`` only: they are as powerful as the user.

        Raises:
            LabelStudioError: the personal access token was refused, or Label Studio could not be reached.
        """
        with self._asking("accept the personal access token"):
            return {"Authorization": self._credential.header()}

    def whoami(self) -> User:
        """The user whose token this is.

        Raises:
            LabelStudioError: Label Studio cannot be reached or refuses the token.
        """
        with self._asking("say whose token this is"):
            user = self._sdk.users.whoami()
        return User(id=user.id or 0, email=user.email or "")

    # The project

    def project(self, number: int) -> ProjectState:
        """The project as it stands now.

        Raises:
            LabelStudioError: there is no such project, or this user may not see it.
        """
        asked = f"show project {number}"
        with self._asking(asked):
            return _project_state(self._call("GET", f"/api/projects/{number}/", asked))

    def set_label_config(self, number: int, xml: str) -> None:
        """Replace the label config.

        Raises:
            LabelStudioError: Label Studio finds it invalid, or existing annotations forbid the change.
        """
        self._patch_project(number, {"label_config": xml}, "change the label config")

    def set_sampling(self, number: int, sampling: str = UNCERTAINTY_SAMPLING) -> None:
        """Choose in which order Label Studio serves tasks.

        Raises:
            LabelStudioError: Label Studio refuses.
        """
        self._patch_project(number, {"sampling": sampling}, f"set the sampling to {sampling!r}")

    def set_model_version(self, number: int, version: str) -> None:
        """Make the predictions of one version count. This is the atomic switch from one version to the next.

        Raises:
            LabelStudioError: no prediction of this version is stored.
        """
        self._patch_project(number, {"model_version": version}, f"switch to the predictions of {version!r}")

    def _patch_project(self, number: int, change: Mapping[str, str], asked: str) -> None:
        self._call("PATCH", f"/api/projects/{number}/", f"{asked} of project {number}", json=dict(change))

    # Tasks

    def tasks(self, number: int, page_size: int = 100) -> Iterator[dict[str, Any]]:
        """Every task with its annotations and predictions, as Label Studio's JSON, page by page.

        A task that is deleted while the pages are read moves those behind it forward, out of the next page. The
        reading then begins anew, so that no task that stays is missed and none comes twice.

        Raises:
            LabelStudioError: there is no such project, or Label Studio cannot be reached, or tasks are being deleted
                all the time.
        """
        return self._listed(number, page_size, fields="all")

    def _listed(self, number: int, page_size: int, **fields: str) -> Iterator[dict[str, Any]]:
        asked = f"list the tasks of project {number}"
        seen: set[int] = set()
        for _ in range(_READINGS):
            page, read, total = 1, 0, 0
            while True:
                query: dict[str, str | int] = {"project": number, "page": page, "page_size": page_size, **fields}
                try:
                    answer = self._call("GET", "/api/tasks", asked, params=query)
                except LabelStudioError as error:
                    if page > 1 and error.status == 404:
                        break  # the page is past the end
                    raise
                if answer["total"] < total:
                    break
                total = answer["total"]
                # Counted, not computed: a server may allow fewer tasks on a page than were asked for.
                read += len(answer["tasks"])
                for task in answer["tasks"]:
                    if task["id"] not in seen:
                        seen.add(task["id"])
                        yield task
                if read >= total:
                    return
                page += 1
        raise LabelStudioError(asked, 200, f"fewer tasks each of {_READINGS} times", "Try again when none are deleted.")

    def newest_change(self, number: int) -> tuple[str, int]:
        """When a task of the project was last changed, "" where there is none, and how many tasks there are.

        Label Studio 1.23.2 sets a task's ``updated_at`` with everything that happens to it: its data, and annotations
        that are made, changed, marked as ground truth or deleted.

        Raises:
            LabelStudioError: there is no such project, or Label Studio cannot be reached.
        """
        answer = self._page(number, 1, {"ordering": ["-tasks:updated_at"]}, fields="task_only")
        newest = answer["tasks"][0]["updated_at"] if answer["tasks"] else ""
        return newest, int(answer["total"])

    def changed_tasks(self, number: int, since: str, after: int, page_size: int) -> list[dict[str, Any]]:
        """Tasks that have changed, with their annotations and predictions, as Label Studio's JSON, in the order of ids.

        Args:
            number: Label Studio's project id.
            since: ``updated_at`` after which a change counts; "" for all tasks.
            after: only tasks with a greater id; 0 for all of them. So pages neither overlap nor miss a task, whatever
                is deleted between them.
            page_size: how many at most.

        Raises:
            LabelStudioError: there is no such project, or Label Studio cannot be reached.
        """
        items = [_filter("id", "greater", "Number", after)]
        if since:
            items.append(_filter("updated_at", "greater", "Datetime", since))
        answer = self._page(number, page_size, _query(items), fields="all")
        tasks: list[dict[str, Any]] = answer["tasks"]
        return tasks

    def some_tasks(self, number: int, ids: Sequence[int]) -> list[dict[str, Any]]:
        """Those of some tasks that still exist, with annotations and predictions, as Label Studio's JSON.

        Args:
            number: Label Studio's project id.
            ids: of tasks, at most 100.

        Raises:
            LabelStudioError: there is no such project, or Label Studio cannot be reached.
        """
        answer = self._page(number, len(ids), _query([_filter("id", "in_list", "List", list(ids))]), fields="all")
        tasks: list[dict[str, Any]] = answer["tasks"]
        return tasks

    def task_ids(self, number: int) -> set[int]:
        """The ids of all tasks of the project.

        Raises:
            LabelStudioError: there is no such project, or Label Studio cannot be reached.
        """
        return {task["id"] for task in self._listed(number, page_size=1000, fields="task_only")}

    def _page(self, number: int, page_size: int, query: Mapping[str, Any], **fields: str) -> dict[str, Any]:
        asked = f"list the tasks of project {number}"
        params: dict[str, str | int] = {"project": number, "page": 1, "page_size": page_size, **fields}
        answer: dict[str, Any] = self._call("GET", "/api/tasks", asked, params=params | {"query": json.dumps(query)})
        return answer

    def task(self, task: int) -> dict[str, Any]:
        """One task with its annotations and predictions, as Label Studio's JSON.

        Label Studio asks the connected backend for a prediction if the task has none.

        Raises:
            LabelStudioError: there is no such task.
        """
        answer: dict[str, Any] = self._call("GET", f"/api/tasks/{task}/", f"show task {task}")
        return answer

    # Predictions

    def predicted_versions(self, number: int) -> dict[str, int]:
        """Versions of which predictions are stored, each with their number.

        Raises:
            LabelStudioError: there is no such project.
        """
        answer = self._call(
            "GET",
            f"/api/projects/{number}/model-versions/",
            f"list the model versions of project {number}",
            params={"extended": "true"},
        )
        return {entry["model_version"]: entry["count"] for entry in answer["static"] if entry["model_version"]}

    def push_predictions(self, number: int, predictions: Sequence[Mapping[str, Any]]) -> int:
        """Store predictions in bulk; returns how many were stored.

        A task that was deleted in the meantime makes Label Studio refuse the whole chunk; its prediction is left
        out and the others are stored.

        Args:
            number: Label Studio's project id.
            predictions: each with ``task``, ``result``, ``score`` and ``model_version``, and perhaps ``cluster``. The
                bulk route drops a cluster, so each that has one is stored by itself, in 0.2 s: have few of them.

        Raises:
            LabelStudioError: Label Studio refuses.
        """
        grouped = [one for one in predictions if one.get("cluster") is not None]
        stored = self._push_in_bulk(number, [one for one in predictions if one.get("cluster") is None])
        for one in grouped:
            stored += self._push_alone(one)
        return stored

    def _push_in_bulk(self, number: int, predictions: Sequence[Mapping[str, Any]]) -> int:
        stored = 0
        for start in range(0, len(predictions), _PUSH_CHUNK):
            chunk = predictions[start : start + _PUSH_CHUNK]
            try:
                stored += self._push(number, chunk)
            except LabelStudioError as error:
                if error.status != 400 or 'invalid "task" field' not in error.came:
                    raise
                left = self.task_ids(number)
                logger.info("Tasks of project %d were deleted meanwhile; their predictions are left out.", number)
                stored += self._push(number, [one for one in chunk if one["task"] in left])
        return stored

    def _push(self, number: int, predictions: Sequence[Mapping[str, Any]]) -> int:
        if predictions:
            # Not repeated on a failure: it may have been stored all the same, and would be stored twice.
            self._call(
                "POST",
                f"/api/projects/{number}/import/predictions",
                f"store {len(predictions)} predictions in project {number}",
                json=list(predictions),
                timeout=_BULK_TIMEOUT_S,
            )
        return len(predictions)

    def _push_alone(self, prediction: Mapping[str, Any]) -> int:
        task = prediction["task"]
        try:
            self._call("POST", "/api/predictions/", f"store the prediction of task {task}", json=dict(prediction))
        except LabelStudioError as error:
            if error.status != 400 or "task:" not in error.came:
                raise
            logger.info("Task %d was deleted meanwhile; its prediction is left out.", task)
            return 0
        return 1

    def amend_prediction(self, task: int, version: str, change: Mapping[str, Any]) -> None:
        """Change the stored prediction of one task; nothing, where the task or such a prediction is gone.

        Args:
            task: Label Studio's task id.
            version: whose prediction is meant.
            change: new values of ``score`` and ``cluster``.

        Raises:
            LabelStudioError: Label Studio refuses.
        """
        try:
            asked = f"list the predictions of task {task}"
            listed = self._call("GET", "/api/predictions/", asked, params={"task": task})
        except LabelStudioError as error:
            if error.status != 400 or "task:" not in error.came:
                raise
            logger.info("Task %d was deleted meanwhile; its score is left.", task)
            return
        for stored in listed:
            if stored["model_version"] == version:
                path = f"/api/predictions/{stored['id']}/"
                self._call("PATCH", path, f"change the score of task {task}", json=dict(change))

    def delete_model_version(self, number: int, version: str) -> None:
        """Delete every prediction of one version.

        Label Studio also clears the project's ``model_version`` if it names this version, or any backend's title.

        Raises:
            LabelStudioError: Label Studio refuses.
        """
        self._call(
            "DELETE",
            f"/api/projects/{number}/model-versions/",
            f"delete the predictions of {version!r} in project {number}",
            json={"model_version": version},
            timeout=_BULK_TIMEOUT_S,
        )

    def publish_predictions(
        self,
        number: int,
        predictions: Sequence[Mapping[str, Any]],
        version: str,
        ours: Callable[[str], bool],
    ) -> Published:
        """Put one version's predictions in the place of the last one's.

        Push, switch, delete the old: until the switch annotators work on the old set, after it on the new one, and
        killed at any point it is mended by running it again. Predictions of other models are never touched. Only
        when the current version itself is published anew, with another order, is there a gap (3 s for 1,000 tasks)
        in which Label Studio serves at random.

        Args:
            number: Label Studio's project id.
            predictions: one for each task, all carrying ``version``; with none at all, nothing is changed.
            version: the version that becomes current.
            ours: tells by its name whether a version is one of ours.

        Raises:
            ValueError: a prediction carries another version.
            LabelStudioError: Label Studio refuses.
        """
        if strangers := {one["model_version"] for one in predictions} - {version}:
            raise ValueError(f"every prediction is expected to carry {version!r}, but got also {sorted(strangers)}")
        if not predictions:
            return Published(version=version, pushed=0, removed=())
        # What an interrupted push left behind, what Label Studio fetched by itself, or an older order.
        if version in self.predicted_versions(number):
            self.delete_model_version(number, version)
        pushed = self.push_predictions(number, predictions)
        if pushed:
            self.set_model_version(number, version)
        stored = self.predicted_versions(number)
        if stored.get(version, 0) > pushed:
            self._remove_doubles(number, version)
        removed = tuple(sorted(old for old in stored if old != version and ours(old)))
        for old in removed if pushed else ():
            self.delete_model_version(number, old)
        return Published(version=version, pushed=pushed, removed=removed if pushed else ())

    def _remove_doubles(self, number: int, version: str) -> None:
        """Leave one prediction of the version per task, the newest.

        A task that an annotator opens while it has no prediction gets one from the backend; where that happens
        during a push, it has two, and Label Studio would order by the smaller score.
        """
        listed = self._call(
            "GET",
            "/api/predictions/",
            f"list the predictions of project {number}",
            params={"project": number},
            timeout=_BULK_TIMEOUT_S,
        )
        of_version = sorted((one for one in listed if one["model_version"] == version), key=lambda one: -one["id"])
        seen: Counter[int] = Counter()
        for prediction in of_version:
            seen[prediction["task"]] += 1
            if seen[prediction["task"]] > 1:
                self._call(
                    "DELETE",
                    f"/api/predictions/{prediction['id']}/",
                    f"delete the doubled prediction {prediction['id']}",
                )

    # Backend and webhook

    def backends(self, number: int) -> list[ConnectedBackend]:
        """The backends of a project in Label Studio's order; only the first is ever asked for predictions.

        Raises:
            LabelStudioError: there is no such project.
        """
        with self._asking(f"list the ML backends of project {number}"):
            found = self._sdk.ml.list(project=number)
        return sorted((_connected_backend(one) for one in found), key=lambda backend: backend.id)

    def ensure_backend(
        self, number: int, url: str, title: str = "Lookhere", basic_auth: BasicAuth | None = None
    ) -> tuple[ConnectedBackend, bool]:
        """Have exactly one backend at this address, connected and interactive.

        An existing one keeps its title. Label Studio calls its ``/health`` and ``/setup`` meanwhile. If the project
        has no ``model_version`` yet, a first connection sets it to the title.

        Args:
            number: Label Studio's project id.
            url: address of the backend as Label Studio reaches it.
            title: title of a new one.
            basic_auth: how Label Studio authenticates; None leaves an existing one as it is.

        Returns:
            the backend, and whether anything was changed.

        Raises:
            LabelStudioError: Label Studio may not call this address, or does not find a backend there.
        """
        url = url.rstrip("/")
        same = [backend for backend in self.backends(number) if backend.url == url]
        with self._asking(f"connect the backend {url} to project {number}"):
            auth: dict[str, Any] = {}
            if basic_auth is not None:
                auth = {
                    "auth_method": "BASIC_AUTH",
                    "basic_auth_user": basic_auth.user,
                    "basic_auth_pass": basic_auth.password.get_secret_value(),
                }
            for double in same[1:]:
                self._sdk.ml.delete(double.id)
            if not same:
                made = self._sdk.ml.create(project=number, url=url, title=title, is_interactive=True, **auth)
                return _connected_backend(made), True
            backend = same[0]
            # Label Studio has just asked it: with a wrong password it would not be connected.
            if (
                backend.interactive
                and backend.state == "CO"
                and (basic_auth is None or basic_auth.user == backend.user)
            ):
                return backend, len(same) > 1
            # Label Studio checks the address with the fields of this very request: url and project must be in it.
            mended = self._sdk.ml.update(backend.id, project=number, url=url, is_interactive=True, **auth)
            return _connected_backend(mended), True

    def webhooks(self, number: int) -> list[ConnectedWebhook]:
        """The webhooks of a project.

        Raises:
            LabelStudioError: there is no such project.
        """
        with self._asking(f"list the webhooks of project {number}"):
            found = self._sdk.webhooks.list(project=str(number))
        hooks = [
            ConnectedWebhook(
                id=one.id or 0,
                url=one.url,
                active=bool(one.is_active),
                payload=bool(one.send_payload),
                all_actions=bool(one.send_for_all_actions),
                headers=dict(one.headers or {}),
            )
            for one in found
        ]
        return sorted(hooks, key=lambda hook: hook.id)

    def ensure_webhook(self, number: int, url: str, headers: Mapping[str, str] | None = None) -> bool:
        """Have exactly one webhook at this address, active, for all actions and with payload.

        Label Studio registers ``<backend>/webhook`` by itself when a backend is connected, and never removes it.

        Args:
            number: Label Studio's project id.
            url: where it posts to.
            headers: extra headers, such as a secret; None leaves those of an existing one as they are.

        Returns:
            whether anything was changed.

        Raises:
            LabelStudioError: Label Studio may not call this address.
        """
        same = [hook for hook in self.webhooks(number) if _same_address(hook.url, url)]
        wanted: dict[str, Any] = {"url": url, "is_active": True, "send_payload": True, "send_for_all_actions": True}
        if headers is not None:
            wanted["headers"] = dict(headers)
        with self._asking(f"post the events of project {number} to {url}"):
            for double in same[1:]:
                self._sdk.webhooks.delete(double.id)
            if not same:
                self._sdk.webhooks.create(project=number, **wanted)
                return True
            if not same[0].complete(headers):
                self._sdk.webhooks.update(same[0].id, **wanted)
                return True
        return len(same) > 1

    def check_backend_address(self, number: int, url: str) -> None:
        """Ask whether Label Studio's rules let it call this address for predictions. Changes nothing.

        The request names the address and one field that cannot be valid: Label Studio judges the address first,
        and stops at the field before it calls anybody.

        Raises:
            LabelStudioError: the address is refused.
        """
        self._probe("/api/ml/", number, url, {"timeout": "not a number"}, f"allow predictions from {url}")

    def check_webhook_address(self, number: int, url: str) -> None:
        """The same for events: whether Label Studio's rules let it post to this address. Changes nothing.

        Raises:
            LabelStudioError: the address is refused.
        """
        self._probe("/api/webhooks/", number, url, {"is_active": "not a boolean"}, f"allow events to {url}")

    def _probe(self, path: str, number: int, url: str, invalid: Mapping[str, str], asked: str) -> None:
        try:
            self._call("POST", path, asked, json={"project": number, "url": url, **invalid})
        except LabelStudioError as error:
            if error.status != 400 or "url:" in error.came:
                raise

    # The Data Manager

    def views(self, number: int) -> list[DataManagerView]:
        """The tabs of the project's Data Manager.

        Raises:
            LabelStudioError: there is no such project.
        """
        listed = self._call("GET", "/api/dm/views/", f"list the views of project {number}", params={"project": number})
        return [
            DataManagerView(id=one["id"], title=str((one["data"] or {}).get("title", "")), data=one["data"] or {})
            for one in listed
        ]

    def ensure_view(self, number: int) -> bool:
        """Have a view named "Label next" that shows unfinished tasks, the lowest prediction score first.

        An existing one keeps its columns and filters; only its order is put right.

        Returns:
            whether anything was changed.

        Raises:
            LabelStudioError: Label Studio refuses.
        """
        asked = f"arrange the view {VIEW_TITLE!r} of project {number}"
        existing = next((view for view in self.views(number) if view.title == VIEW_TITLE), None)
        if existing is None:
            self._call("POST", "/api/dm/views/", asked, json={"project": number, "data": _LABEL_NEXT})
            return True
        if existing.ordering == (LOWEST_SCORE_FIRST,):
            return False
        data = {**existing.data, "ordering": [LOWEST_SCORE_FIRST]}
        self._call("PATCH", f"/api/dm/views/{existing.id}/", asked, json={"project": number, "data": data})
        return True

    # How all of them speak

    def _call(
        self,
        method: str,
        path: str,
        asked: str,
        *,
        params: Mapping[str, str | int] | None = None,
        json: Any = None,
        timeout: float | None = None,
    ) -> Any:
        with self._asking(asked):
            response = self._http.request(
                method, self.url + path, params=params, json=json, timeout=timeout or self._timeout
            )
            if not response.is_success:
                raise ApiError(
                    status_code=response.status_code, headers=dict(response.headers), body=_body_of(response)
                )
            return response.json() if response.content else None

    @contextmanager
    def _asking(self, asked: str) -> Iterator[None]:
        # The causes are cut off: the SDK's error prints headers and body whole, and a body may hold a project's token.
        try:
            yield
        except ApiError as error:
            raise _refused(asked, self.url, error) from None
        except httpx.TimeoutException as error:
            came = f"no answer in time ({type(error).__name__})"
            raise LabelStudioError(asked, None, came, "See whether it is overloaded, then try again.") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            remedy = (
                f"See that it runs and that LOOKHERE_LABEL_STUDIO_URL ({self.url}) is its address as this machine "
                "reaches it, port and sub-path included."
            )
            raise LabelStudioError(asked, None, str(error) or type(error).__name__, remedy) from None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # What was to be read from the answer was not there: another server answers.
            came = f"something of another form than expected ({type(error).__name__})"
            raise LabelStudioError(asked, 200, came, _NOT_AN_API.format(url=self.url)) from None


class _Credential(httpx.Auth):
    """Puts the token into each request: a legacy token as it is, a personal access token by way of access tokens.

    A personal access token is a JWT that only buys access tokens of 300 s. The SDK buys a new one when the old one
    is over by this machine's clock; here it is bought well before, counted from its receipt, and again when Label
    Studio refuses one: clocks differ.
    """

    def __init__(self, url: str, api_key: SecretStr, timeout: float) -> None:
        self._url = url
        self._key = SecretStr(api_key.get_secret_value().strip())
        self._timeout = timeout
        # A legacy token is 40 hexadecimal digits; a JWT has three parts.
        self.personal = self._key.get_secret_value().count(".") == 2
        self._access = SecretStr("")
        self._bought_at = -_TOKEN_RENEWED_AFTER_S
        self._lock = threading.Lock()

    def header(self, refused: str | None = None) -> str:
        """The value of ``Authorization``; a new one where ``refused`` is the last one."""
        if not self.personal:
            return f"Token {self._key.get_secret_value()}"
        with self._lock:
            current = f"Bearer {self._access.get_secret_value()}"
            if refused == current or time.monotonic() - self._bought_at >= _TOKEN_RENEWED_AFTER_S:
                self._buy()
            return f"Bearer {self._access.get_secret_value()}"

    def _buy(self) -> None:
        response = httpx.post(
            f"{self._url}/api/token/refresh/",
            json={"refresh": self._key.get_secret_value()},
            timeout=self._timeout,
        )
        if not response.is_success:
            raise ApiError(status_code=response.status_code, headers=dict(response.headers), body=_body_of(response))
        self._access = SecretStr(response.json()["access"])
        self._bought_at = time.monotonic()

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Authorise a request, once more if an access token was refused."""
        request.headers["Authorization"] = self.header()
        response = yield request
        if self.personal and response.status_code == 401:
            request.headers["Authorization"] = self.header(refused=request.headers["Authorization"])
            yield request


_LABEL_NEXT: Mapping[str, Any] = {
    "title": VIEW_TITLE,
    "type": "list",
    "target": "tasks",
    "ordering": [LOWEST_SCORE_FIRST],
    "filters": {
        "conjunction": "and",
        "items": [
            {"filter": "filter:tasks:completed_at", "operator": "empty", "type": "Datetime", "value": "True"},
        ],
    },
    # What is left: id, image, annotations, predictions, prediction score, prediction results.
    "hiddenColumns": {
        "explore": [
            "tasks:inner_id",
            "tasks:completed_at",
            "tasks:cancelled_annotations",
            "tasks:annotators",
            "tasks:annotations_results",
            "tasks:annotations_ids",
            "tasks:predictions_model_versions",
            "tasks:file_upload",
            "tasks:storage_filename",
            "tasks:created_at",
            "tasks:updated_at",
            "tasks:updated_by",
            "tasks:avg_lead_time",
            "tasks:draft_exists",
        ],
        "labeling": [],
    },
}

_NOT_AN_API = "LOOKHERE_LABEL_STUDIO_URL ({url}) must be the address of Label Studio itself, not of another server."
_PRIVATE_ADDRESS = (
    "Label Studio refuses private and loopback addresses by default. Start it with both ML_BLOCK_LOCAL_IP=false and "
    "SSRF_PROTECTION_ENABLED=false, or with USE_DEFAULT_BANNED_SUBNETS=false, or give the backend a public address."
)
_LEGACY_DISABLED = (
    "Make a personal access token in Label Studio (Account & Settings, Personal Access Token) and set "
    "LOOKHERE_LABEL_STUDIO_API_KEY to it; or allow legacy tokens there (Organization, Access Token Settings)."
)
_NO_BACKEND = (
    "See that the backend runs and that LOOKHERE_BACKEND_URL (or LOOKHERE_PUBLIC_URL) is its address as Label Studio "
    "reaches it; from a container, localhost is the container itself."
)


def _refused(asked: str, url: str, error: ApiError) -> LabelStudioError:
    status = error.status_code or 0
    came = _said(error.body)
    if 200 <= status < 300:
        return LabelStudioError(asked, status, "something that is not JSON", _NOT_AN_API.format(url=url))
    if 300 <= status < 400:
        target = str((error.headers or {}).get("location", ""))
        remedy = f"LOOKHERE_LABEL_STUDIO_URL ({url}) must be the address where Label Studio answers itself."
        return LabelStudioError(asked, status, f"a redirect to {target}", remedy)
    if status == 401 and "legacy token" in came:
        remedy = _LEGACY_DISABLED
    elif status == 401:
        remedy = "Set LOOKHERE_LABEL_STUDIO_API_KEY to a valid personal access token (or legacy token) of a user."
    elif status == 403 and "reserved network" in came:
        remedy = _PRIVATE_ADDRESS
    elif status == 403:
        remedy = "Use the token of a user who may change this project."
    elif status == 404:
        remedy = f"See that it exists on {url} and that the token's user may see it."
    elif "ML backend" in came:
        remedy = _NO_BACKEND
    elif status >= 500:
        remedy = "See Label Studio's log; then try again."
    else:
        remedy = "Put right what it names, then try again."
    return LabelStudioError(asked, status, came, remedy)


def _filter(column: str, operator: str, kind: str, value: Any) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


def _query(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"ordering": ["tasks:id"], "filters": {"conjunction": "and", "items": list(items)}}


def _said(body: Any, longest: int = 500) -> str:
    """What Label Studio's error says, on one line; both ends where it is long, as it may quote a whole prediction."""
    if isinstance(body, Mapping):
        parts = [
            f"{field}: {'; '.join(map(str, messages)) if isinstance(messages, list) else messages}"
            for field, messages in (body.get("validation_errors") or {}).items()
        ]
        text = " ".join(parts) or str(body.get("detail", "no reason given"))
    else:
        text = str(body)
    text = " ".join(re.sub(r"<[^>]*>", " ", text).split())
    return text if len(text) <= longest else f"{text[: longest // 2]} … {text[-longest // 2 :]}"


def _body_of(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return response.text[:200]


def _same_address(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/")


def _project_state(answer: Mapping[str, Any]) -> ProjectState:
    return ProjectState(
        number=answer["id"],
        title=answer["title"] or "",
        label_config=answer["label_config"] or "",
        created_at=datetime.fromisoformat(answer["created_at"]),
        model_version=answer["model_version"] or "",
        sampling=answer["sampling"] or "",
        shows_predictions=bool(answer["show_collab_predictions"]),
        overlap=int(answer["maximum_annotations"]),
    )


def _connected_backend(one: SdkBackend) -> ConnectedBackend:
    return ConnectedBackend(
        id=one.id or 0,
        url=one.url.rstrip("/"),
        title=one.title or "",
        state=str(one.state or ""),
        error=one.error_message or "",
        interactive=bool(one.is_interactive),
        model_version=one.model_version or "",
        user=(one.basic_auth_user or "") if one.auth_method == "BASIC_AUTH" else "",
    )
