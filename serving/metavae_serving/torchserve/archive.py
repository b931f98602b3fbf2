"""Pack bundles of the zoo into a model store that TorchServe serves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from metavae_serving.errors import BadStore, NotMeasured
from metavae_serving.settings import ModelSettings, Settings
from metavae_serving.torchserve.configuration import (
    CONFIGURATION,
    LOGGING,
    METRICS,
    MODEL_CONFIGURATION,
    configuration_files,
    model_configuration,
)
from metavae_serving.torchserve.process import refuse_if_running, starting
from metavae_serving.torchserve.requirements import check_installed
from metavae_serving.torchserve.store import ARCHIVE, SUMS, Store, packed_models, sums
from metavae_zoo.bundles.bundle import Bundle, open_bundle
from metavae_zoo.bundles.index import find_bundle
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.embedding.graph import Device
from metavae_zoo.errors import BadBundle, DeviceUnavailable
from metavae_zoo.files import replacing_folder
from metavae_zoo.places import log_folder, run_folder

_ARCHIVE_VERSION = "1.0"

# An archive imports the installed metavae, so that a store follows its version.
_ENTRY_POINT = "from metavae_serving.torchserve.handler import handle\n\n__all__ = ['handle']\n"


def bundle_of(name: str) -> Bundle:
    """The bundle of a name of the zoo, or of a path, which holds a slash.

    Raises UnknownName or BadBundle.
    """
    return open_bundle(Path(name)) if os.sep in name else find_bundle(name)


def best_device(bundle: Bundle) -> Device:
    """The device for `bundle` here: CUDA if ONNX Runtime really runs on it, else the CPU."""
    if shutil.which("nvidia-smi") is None:  # which TorchServe asks for GPUs too
        return "cpu"
    try:
        OnnxEmbedder(bundle, device="cuda")
    except (DeviceUnavailable, BadBundle):
        return "cpu"
    return "cuda"


def pack(bundles: Sequence[Bundle], path: Path, settings: Settings) -> Store:
    """Write a model store of `bundles` at `path`, whole or not at all; return it.

    Every model is run once on its device and compared with its golden outputs first. The logs of
    an earlier store at `path` are kept. Raises BadStore if the store cannot be written or `path` is
    something else, ServerFailed while a server runs or starts over it, BadBundle and
    DeviceUnavailable if a model would not serve, NotMeasured if the cost of its precision is not
    known, NotInstalled.
    """
    path = path.resolve()
    _check_name(path)
    check_installed()
    names = [bundle.card.name for bundle in bundles]
    if len(set(names)) < len(names):
        raise BadStore(
            f"two of the models are named alike ({', '.join(sorted(names))})",
            hint="Give each model once",
        )
    _check_replaceable(path)
    refuse_if_running(path)
    settings = replace(settings, models={name: settings.of(name) for name in names})
    for bundle in bundles:
        of_model = settings.of(bundle.card.name)
        _check_settings(bundle, of_model)
        OnnxEmbedder(bundle, device=of_model.device, tf32=of_model.precision == "tf32")
    try:
        with ExitStack() as held, replacing_folder(path) as scratch:
            for bundle in bundles:
                _archive(bundle, scratch, settings.of(bundle.card.name))
            for name, text in {SUMS: sums(scratch), **configuration_files(path, settings)}.items():
                (scratch / name).write_text(text)
            if path.exists():
                held.enter_context(starting(path))  # until it is replaced
                _keep_logs(path, scratch)
    except OSError as error:
        raise BadStore(
            f"the model store {path} cannot be written ({error.strerror or error})",
            hint="Free some space or choose another folder with --store; an earlier store there"
            " is unchanged",
        ) from error
    return Store(path, settings)


def _keep_logs(store: Path, scratch: Path) -> None:
    """Give the store that is made in `scratch` the logs of the store that it replaces."""
    if log_folder(store).is_dir():
        run_folder(scratch).mkdir(mode=0o700)
        # Hard links: nothing is copied, and the old store stays whole.
        shutil.copytree(
            log_folder(store), log_folder(scratch), symlinks=True, copy_function=os.link
        )


def _check_replaceable(store: Path) -> None:
    """Refuse to replace a folder that holds anything but a store."""
    if not store.exists():
        return
    try:
        found = list(store.iterdir())
    except OSError as error:
        raise BadStore(
            f"{store} cannot be read as a folder ({error.strerror})",
            hint="Choose another folder with --store",
        ) from error
    packed = packed_models(store)
    if found and packed is None:
        raise BadStore(
            f"{store} is not empty and no model store of metavae-serve; packing would delete what"
            " it holds",
            hint="Choose another folder with --store",
        )
    written = {CONFIGURATION, METRICS, LOGGING}
    ours = {*written, SUMS, run_folder(store).name, *(f"{name}{ARCHIVE}" for name in packed or ())}
    half_written = tuple(f".{name}-" for name in written)  # by a command that was killed
    others = [
        path.name
        for path in found
        if path.name not in ours and not path.name.startswith(half_written)
    ]
    if others:
        raise BadStore(
            f"{store} also holds {', '.join(sorted(others)[:5])}, which packing would delete",
            hint="Move that away, or choose another folder with --store",
        )


def _check_name(store: Path) -> None:
    """Refuse a path that TorchServe's configuration cannot hold: TorchServe would not find it."""
    hint = "Choose another folder with --store"
    if not str(store).isprintable():
        raise BadStore(
            f"the path {str(store)!a} holds characters that cannot be printed", hint=hint
        )
    # Java cannot open files with a character that takes two UTF-16 units.
    beyond = [one for one in str(store) if ord(one) > 0xFFFF]
    if beyond or "${" in str(store):  # and its logging puts variables in
        held = beyond[0] if beyond else "${"
        raise BadStore(
            f"the path {store} holds {held}, which TorchServe cannot have in it", hint=hint
        )


def _check_settings(bundle: Bundle, settings: ModelSettings) -> None:
    """Refuse int8 if its cost was not measured, or if the device does not have it."""
    name, results = bundle.card.name, bundle.card.results
    if bundle.card.precision == "int8":
        raise BadBundle(
            f"{bundle.path} is {name} in int8 already",
            hint="Give the model that it was made of, with --precision int8",
        )
    if settings.precision != "int8":
        return
    if settings.device != "cpu":
        raise DeviceUnavailable(
            f"int8 was asked for {name} on {settings.device}, and runs on the CPU alone",
            hint="Choose --device cpu, or leave --precision at fp32",
        )
    if results is None or results.int8 is None:
        raise NotMeasured(
            f"what int8 costs {name} in accuracy has not been measured",
            hint="Leave --precision at fp32; or measure it, which takes some minutes:"
            f" `metavae-zoo quantize {name}`, of a model of the zoo (`metavae-zoo add` takes others"
            " in)",
        )


def _archive(bundle: Bundle, folder: Path, settings: ModelSettings) -> None:
    """Write the archive of one bundle into `folder`; raises OSError where the disk is full."""
    # The archiver collects files in a temporary folder of the model's name. A folder for each
    # archive, on the disk of the store, keeps two runs apart.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        if settings.precision == "int8":
            from metavae_zoo.embedding.int8 import quantize  # which needs onnx

            bundle = quantize(bundle, Path(scratch, "quantized"))
        files = Path(scratch, "bundle")
        files.mkdir()
        for file in bundle.files:
            shutil.copyfile(file, files / file.name)
        Path(scratch, "metavae_entry.py").write_text(_ENTRY_POINT)
        Path(scratch, MODEL_CONFIGURATION).write_text(model_configuration(settings))
        options = {
            "model-name": bundle.card.name,
            "version": _ARCHIVE_VERSION,
            "handler": "metavae_entry.py",
            "config-file": MODEL_CONFIGURATION,
            "extra-files": "bundle",
            "export-path": str(folder),
            "archive-format": "zip-store",  # weights do not shrink, and unpack faster so
        }
        done = subprocess.run(
            [sys.executable, "-m", "model_archiver.model_packaging"]
            + [f"--{name}={value}" for name, value in options.items()],
            cwd=scratch,
            env=os.environ | {"TMPDIR": scratch},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise OSError(f"torch-model-archiver: {reason[0]}")
