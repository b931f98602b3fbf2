"""TorchServe's management API: the workers and queues of a server's models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from metavae_serving.torchserve.store import Store

# Errors of asking a server that is not up or has just gone, or of reading its tokens.
UNANSWERED = (httpx.HTTPError, OSError, ValueError, LookupError, TypeError)

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

    def __init__(self, store: Store, http: httpx.Client) -> None:
        self._store = store
        self._http = http

    def workers(self) -> list[Worker]:
        """Workers of every model."""
        return [
            Worker(model, worker["id"], int(worker["pid"]), worker["status"])
            for model, version in self._versions()
            for worker in version["workers"]
        ]

    def waiting(self) -> int:
        """Requests that no worker has taken yet."""
        return sum(
            int(version["jobQueueStatus"]["pendingRequests"]) for _, version in self._versions()
        )

    def check_inference(self) -> None:
        """Ask the inference API whether it is healthy, with the token of its clients."""
        self._get(f"{self._store.settings.url}/ping", "inference")

    def _versions(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for model in self._store.models:
            for version in self._get(f"/models/{model}").json():
                yield model, version

    def _get(self, url: str, kind: str = "management") -> httpx.Response:
        answer = self._ask(url, kind)
        if answer.status_code == httpx.codes.BAD_REQUEST:  # the token has expired
            self._ask(f"/token?type={kind}", "API").raise_for_status()
            answer = self._ask(url, kind)
        return answer.raise_for_status()

    def _ask(self, url: str, kind: str) -> httpx.Response:
        key = json.loads(self._store.token_file.read_text())[kind]["key"]
        return self._http.get(url, headers={"Authorization": f"Bearer {key}"})


@contextmanager
def management(store: Store) -> Iterator[Management]:
    """The management API of the server over `store`."""
    url = store.settings.management_url
    with httpx.Client(base_url=url, trust_env=False, timeout=_SECONDS) as http:
        yield Management(store, http)


def list_workers(store: Store) -> list[Worker]:
    """Workers of the server over `store`; raises one of UNANSWERED."""
    with management(store) as api:
        return api.workers()
