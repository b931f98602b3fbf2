"""What TorchServe's management API says of a server's models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from metavae_serving.torchserve.archive import models_in
from metavae_serving.torchserve.configuration import read_settings
from metavae_zoo.places import token_file

# What asking a server that is not up, or has just gone, or reading its tokens can end in.
UNANSWERED = (
    httpx.HTTPError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    RecursionError,
)

_SECONDS = 10.0


@dataclass(frozen=True)
class Worker:
    """A worker process of a model."""

    model: str
    id: str
    pid: int
    status: str

    @property
    def ready(self) -> bool:
        """Whether it has loaded the model and answers."""
        return self.status == "READY"


class Management:
    """The API of the server over a store; its methods raise one of UNANSWERED.

    A token that has expired is renewed.
    """

    def __init__(self, store: Path, inference_url: str, http: httpx.Client) -> None:
        self._store = store
        self._inference_url = inference_url
        self._models = models_in(store)
        self._http = http

    def workers(self) -> list[Worker]:
        """Workers of every model."""
        return [
            Worker(model, worker["id"], int(worker["pid"]), worker["status"])
            for model, version in self._versions()
            for worker in version["workers"]
        ]

    def waiting(self) -> dict[str, int]:
        """Requests that no worker has taken yet, by model."""
        waiting = dict.fromkeys(self._models, 0)
        for model, version in self._versions():
            waiting[model] += int(version["jobQueueStatus"]["pendingRequests"])
        return waiting

    def check_inference(self) -> None:
        """Ask the inference API whether it is healthy, by the token that its clients have."""
        self._get(f"{self._inference_url}/ping", "inference")

    def _versions(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for model in self._models:
            for version in self._get(f"/models/{model}").json():
                yield model, version

    def _get(self, url: str, kind: str = "management") -> httpx.Response:
        answer = self._ask(url, kind)
        if answer.status_code == httpx.codes.BAD_REQUEST:  # its word for a token that has expired
            self._ask(f"/token?type={kind}", "API").raise_for_status()
            answer = self._ask(url, kind)
        return answer.raise_for_status()

    def _ask(self, url: str, kind: str) -> httpx.Response:
        key = json.loads(token_file(self._store).read_text())[kind]["key"]
        return self._http.get(url, headers={"Authorization": f"Bearer {key}"})


@contextmanager
def management(store: Path) -> Iterator[Management]:
    """The management API of the server over `store`; raises BadStore where it is no store."""
    settings = read_settings(store)
    with httpx.Client(base_url=settings.management_url, trust_env=False, timeout=_SECONDS) as http:
        yield Management(store, settings.url, http)


def list_workers(store: Path) -> list[Worker]:
    """Workers of the server over `store`; raises one of UNANSWERED."""
    with management(store) as api:
        return api.workers()
