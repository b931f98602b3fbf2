"""One ONNX graph on a device, from rows to rows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.errors import BadBundle, DeviceUnavailable, install
from metavae_zoo.machine import usable_cores

if TYPE_CHECKING:
    import onnxruntime

logger = logging.getLogger(__name__)

Device = Literal["cpu", "cuda"]

CHUNK = 1024  # rows per run: bounds the memory of a run, not the size of a request
BUCKETS = (1, 8, 32, 128, 512, CHUNK)

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class _Refused(DeviceUnavailable):
    """The device is there, and what was asked of it cannot be had."""


class Graph(Protocol):
    """Inputs by name, to outputs in the graph's own order.

    Images come first, at most CHUNK of them; another input has as many rows, or one for all.
    """

    def run(self, inputs: dict[str, NDArray]) -> list[NDArray]:
        """Run once."""
        ...


def open_graph(
    path: Path,
    *,
    device: Device,
    threads: int | None = None,
    tf32: bool = False,
    recorded: bool = True,
) -> Graph:
    """The graph of an ONNX file on a device; `threads` bounds its CPU threads (None: all cores).

    `tf32` lets matrix products and convolutions on CUDA round what they multiply to 10 bits of
    mantissa. `recorded` has CUDA record the kernels of a run once and launch them together from
    then on (a CUDA graph), where all of them are on the GPU; it means nothing on the CPU. Raises
    BadBundle for a file that is none, DeviceUnavailable where the device cannot be had or has no
    TF32.
    """
    if tf32 and device != "cuda":
        raise DeviceUnavailable(
            f"TF32 was asked for on {device}, and is of CUDA alone",
            hint="Choose `--device cuda`, or leave --precision at fp32",
        )
    if device == "cpu":
        return PlainGraph(_session(path, device, threads))
    refusal = None
    if recorded:
        try:
            return _on_gpu(path, device, threads, tf32=tf32, recorded=True)
        except _Refused as error:  # perhaps of the recording alone
            refusal = error
    graph = _on_gpu(path, device, threads, tf32=tf32, recorded=False)
    if refusal:
        logger.info("the kernels of %s are launched one by one: %s", path, refusal.message)
    return graph


class PlainGraph:
    """A graph that is run on arrays of the host, as many rows as there are."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        named = [tensor.shape[0] for tensor in session.get_inputs()]
        # Graphs of earlier versions know one number of rows, and hold every input to it.
        self._repeats = len(set(named)) < len(named)

    def run(self, inputs: dict[str, NDArray]) -> list[NDArray]:
        """See `Graph`; the inputs are read where they lie."""
        if self._repeats:
            rows = len(next(iter(inputs.values())))
            inputs = {name: _repeated(array, rows) for name, array in inputs.items()}
        return [np.asarray(output) for output in self._session.run(None, inputs)]


class BucketGraph:
    """A graph on buffers of its device that are made once for each of a few numbers of rows.

    A GPU chooses its kernels and allocates for every number of rows that it has not seen; so rows
    are padded to the next of BUCKETS. The first run of a number may record its kernels, which later
    ones launch together. Not for several threads at once.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, device: Device, *, recorded: bool = False
    ) -> None:
        self.recorded = recorded
        self._session = session
        self._buckets = {rows: _Bucket(session, device, rows) for rows in BUCKETS}
        if recorded:
            self._buckets[BUCKETS[0]].try_out(session)  # what cannot be recorded shows now

    def run(self, inputs: dict[str, NDArray]) -> list[NDArray]:
        """See `Graph`."""
        rows = len(next(iter(inputs.values())))
        bucket = self._buckets[next(size for size in BUCKETS if size >= rows)]
        return bucket.run(self._session, inputs, rows)


class _Bucket:
    """Buffers for one number of rows, bound to the graph's inputs and outputs once."""

    def __init__(self, session: onnxruntime.InferenceSession, device: Device, rows: int) -> None:
        import onnxruntime

        self._binding = session.io_binding()
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(rows))  # a recording of its own
        self._host: dict[str, NDArray] = {}
        self._inputs: dict[str, onnxruntime.OrtValue] = {}
        for tensor in session.get_inputs():
            host = np.zeros((rows, *tensor.shape[1:]), _DTYPES[tensor.type])
            value = onnxruntime.OrtValue.ortvalue_from_numpy(host, device, 0)
            self._binding.bind_ortvalue_input(tensor.name, value)
            self._host[tensor.name], self._inputs[tensor.name] = host, value
        self._outputs = []
        for tensor in session.get_outputs():
            value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                [rows, *tensor.shape[1:]], _DTYPES[tensor.type], device, 0
            )
            self._binding.bind_ortvalue_output(tensor.name, value)
            self._outputs.append(value)

    def try_out(self, session: onnxruntime.InferenceSession) -> None:
        session.run_with_iobinding(self._binding, self._options)

    def run(
        self, session: onnxruntime.InferenceSession, inputs: dict[str, NDArray], rows: int
    ) -> list[NDArray]:
        for name, array in inputs.items():
            host = self._host[name]
            host[:rows] = array  # what an earlier run left below changes no row above
            self._inputs[name].update_inplace(host)
        self._binding.synchronize_inputs()
        session.run_with_iobinding(self._binding, self._options)
        self._binding.synchronize_outputs()
        return [value.numpy()[:rows].copy() for value in self._outputs]


def _on_gpu(
    path: Path, device: Device, threads: int | None, *, tf32: bool, recorded: bool
) -> BucketGraph:
    of_cuda = {
        "use_tf32": str(int(tf32)),  # ONNX Runtime's own default is TF32
        "cudnn_conv_algo_search": "HEURISTIC",
        "enable_cuda_graph": str(int(recorded)),
    }
    session = _session(path, device, threads, of_cuda)
    try:
        return BucketGraph(session, device, recorded=recorded)
    except Exception as error:  # ONNX Runtime's own, of a device that is full
        raise _no_cuda(_Refused, f"its buffers cannot be had ({error})") from error


def _repeated(array: NDArray, rows: int) -> NDArray:
    return array if len(array) == rows else np.repeat(array, rows, axis=0)


_DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


def _session(
    path: Path, device: Device, threads: int | None, of_provider: dict[str, str] | None = None
) -> onnxruntime.InferenceSession:
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceUnavailable("ONNX Runtime is not installed", hint=install("runtime")) from error
    provider = _PROVIDERS[device]
    if device == "cuda":
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    # Spinning threads win microseconds for one session and starve every neighbour.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            path, options, providers=[(provider, of_provider or {})]
        )
    except Exception as error:  # ONNX Runtime raises several unrelated types
        if device == "cuda":
            raise _no_cuda(_Refused, f"no session could be made ({error})") from error
        raise BadBundle(
            f"ONNX Runtime cannot load {path} on {device} ({error})",
            hint="Verify the bundle: `metavae-zoo verify NAME`",
        ) from error
    # ONNX Runtime falls back to the CPU without a word when CUDA cannot be had.
    actual = session.get_providers()[0]
    if actual != provider:
        raise _no_cuda(DeviceUnavailable, f"ONNX Runtime gave {actual}")
    return session


def _no_cuda(kind: type[DeviceUnavailable], found: str) -> DeviceUnavailable:
    return kind(
        f"CUDAExecutionProvider was asked for and {found}",
        hint="Check `nvidia-smi` and the CUDA libraries, or choose `--device cpu`",
    )
