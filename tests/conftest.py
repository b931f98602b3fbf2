"""What tests of several packages share: a real model, and a real server over it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from metavae_serving.errors import ServerFailed
from metavae_serving.settings import ModelSettings, Settings
from metavae_serving.torchserve import launch, process
from metavae_serving.torchserve.archive import pack
from metavae_serving.torchserve.store import Store
from metavae_training.exporting.export import export
from metavae_training.recipes import RECIPES, recipe
from metavae_training.trainer.checkpoint import Checkpoint
from metavae_training.trainer.fit import fit
from metavae_zoo.bundles.bundle import ENCODE, Bundle
from metavae_zoo.bundles.index import find_bundle
from metavae_zoo.embedding.graph import open_graph
from metavae_zoo.errors import DataUnavailable, DeviceUnavailable
from metavae_zoo.families import mnist

from .site_model import write_site_bundle

MODEL = "metavae-digits-rotation-contiguous"

# A background job of a shell ignores SIGINT, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# What a test that has one of these fixtures does, directly or through another fixture.
_MARKS = {"serve": "server", "checkpoint": "training", "canonical_checkpoint": "training"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures that they have: `-m "not server and not training"` is quick."""
    for item in items:
        for name in set(getattr(item, "fixturenames", ())) & _MARKS.keys():
            item.add_marker(_MARKS[name])


@dataclass(frozen=True)
class RunningServer:
    """A real TorchServe over a packed store."""

    url: str
    management_url: str
    token_file: Path
    store: Store

    def headers(self, kind: str = "inference") -> dict[str, str]:
        """The Authorization header, with the token as it is now."""
        key = json.loads(self.token_file.read_text())[kind]["key"]
        return {"Authorization": f"Bearer {key}"}


Serve = Callable[..., contextlib.AbstractContextManager[RunningServer]]


def free_settings() -> Settings:
    """Settings with five free ports in a row, below those that the system hands out."""
    ports = list(range(20_000, 32_000, 5))
    random.shuffle(ports)
    for port in ports:
        with contextlib.suppress(ServerFailed):
            launch.check_ports(Settings(port=port))
            return Settings(port=port)
    raise AssertionError("no free ports")


@pytest.fixture(autouse=True, scope="session")
def no_settings_of_this_machine() -> Iterator[None]:
    """Tests do not see how whoever runs them has set metavae up; data and cache are theirs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - {"METAVAE_DATA", "METAVAE_CACHE"}:
            if name.startswith("METAVAE_"):
                patch.delenv(name)
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator of its own for every test."""
    return np.random.default_rng(20200207)


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], bool]], None]:
    """Waits, for a minute at most, until something that is under way has come about."""

    def wait(true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not true():
            assert time.monotonic() < deadline, "it never came about"
            time.sleep(0.05)

    return wait


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """A data root that holds the real MNIST; tests that need it are skipped where it is not."""
    try:
        return mnist.find_mnist().parent.parent
    except DataUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def cuda() -> None:
    """For tests that need a GPU which ONNX Runtime really runs on; skipped where there is none."""
    try:
        open_graph(find_bundle(MODEL).path / ENCODE, device="cuda", recorded=False)
    except DeviceUnavailable as error:
        pytest.skip(f"ONNX Runtime has no CUDA device: {error.message}")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A real MetaVAE over rotated digits (no download), trained for seconds."""
    recipe = dataclasses.replace(RECIPES[MODEL], epochs=6)
    return fit(recipe, out=tmp_path_factory.mktemp("run"), seed=0)


@pytest.fixture(scope="session")
def bundle(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The checkpoint as a bundle."""
    return export(checkpoint, tmp_path_factory.mktemp("zoo") / MODEL)


@pytest.fixture(scope="session")
def canonical_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A small canonical model for every family of digits (no download), trained in a minute."""
    small = {"sets": 3000, "steps": 1200, "calibration_sets": 1000, "simulated_sites": 100}
    chosen = recipe("canonical-wavelet-digits").changed(small)
    return fit(chosen, out=tmp_path_factory.mktemp("run"), seed=0)


@pytest.fixture(scope="session")
def canonical_bundle(
    canonical_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The canonical checkpoint as a bundle."""
    name = canonical_checkpoint.recipe.name
    return export(canonical_checkpoint, tmp_path_factory.mktemp("zoo") / name)


@pytest.fixture(scope="session")
def canonical_server(canonical_bundle: Bundle, serve: Serve) -> Iterator[RunningServer]:
    """A server of the canonical model, for the whole session."""
    with serve([canonical_bundle]) as running:
        yield running


@pytest.fixture(scope="session")
def site_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny model that infers a site, made by hand."""
    return write_site_bundle(tmp_path_factory.mktemp("zoo") / "by-hand")


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """Serves bundles, each by settings of its own if need be, for as long as a `with` block."""

    @contextlib.contextmanager
    def serving(bundles: list[Bundle], **models: ModelSettings) -> Iterator[RunningServer]:
        path, settings = tmp_path_factory.mktemp("serving") / "store", free_settings()
        store = pack(bundles, path, dataclasses.replace(settings, models=models))
        launch.start(store)
        try:
            yield RunningServer(settings.url, settings.management_url, store.token_file, store)
        finally:
            process.end(path)

    return serving


@pytest.fixture(scope="session")
def server(bundle: Bundle, serve: Serve) -> Iterator[RunningServer]:
    """One server for the whole session."""
    with serve([bundle]) as running:
        yield running


@pytest.fixture(scope="session")
def find_settings() -> Callable[[], Settings]:
    """Settings for any number of servers, one after another."""
    return free_settings


@pytest.fixture
def settings() -> Settings:
    """Settings for a server of the test's own."""
    return free_settings()
