"""Tensors as the Open Inference Protocol v2 declares them, JSON or binary.

A tensor is a JSON object with `name`, `datatype`, `shape` and either `data` (numbers, flat in row
order or nested like the shape) or the parameter `binary_data_size`, whose bytes follow the JSON.
Whatever a tensor declares is compared with what really came before anything is allocated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.protocol.errors import BadRequest

DATATYPES: dict[str, np.dtype[Any]] = {
    "UINT8": np.dtype("u1"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "INT64": np.dtype("<i8"),
}
# Of the protocol, and of servers that speak it: to ignore them would answer something else.
EXTENSIONS = (
    "classification",
    "priority",
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
    "timeout",
)
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_KINDS = {dict: "an object", list: "a list"}  # as JSON calls them
_MAX_RANK = 8
_MAX_SIDE = 2**31 - 1


def shown(value: object) -> str:
    """`value` as an error message shows it: what a client sent may be of any length."""
    for kind, name in _KINDS.items():
        if isinstance(value, kind):
            return name
    text = json.dumps(value) if isinstance(value, bool | None) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def present(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a JSON object without those that are null, which count as absent."""
    return {name: value for name, value in fields.items() if value is not None}


def supported(parameters: dict[str, Any], of: str, *, field: str) -> dict[str, Any]:
    """The parameters that are there; raises BadRequest for an extension that the server lacks."""
    found = present(parameters)
    for name in EXTENSIONS:
        if name in found:
            raise BadRequest(
                f"{of} has the parameter {name}, an extension that this server does not have",
                hint="Leave it out; README lists what a request may hold",
                field=field,
            )
    return found


def declare(name: str, array: NDArray, *, binary: bool) -> dict[str, Any]:
    """The JSON object that declares `array`; a binary one's bytes are `array_bytes(array)`.

    Raises BadRequest for an array of a type that the wire does not carry, or of numbers that JSON
    cannot hold.
    """
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _NAMES:
        raise BadRequest(
            f"{name} has type {array.dtype}, the wire carries {', '.join(map(str, _NAMES))}",
            hint="Convert it with `.astype`",
            field=name,
        )
    tensor: dict[str, Any] = {
        "name": name,
        "datatype": _NAMES[dtype],
        "shape": list(array.shape),
    }
    if binary:
        return tensor | {"parameters": {"binary_data_size": array.nbytes}}
    if not np.isfinite(array).all():
        raise BadRequest(
            f"{name} holds a number that is not finite, which JSON cannot carry",
            hint="Send it as a binary tensor, or without such numbers",
            field=name,
        )
    return tensor | {"data": array.ravel().tolist()}


def array_bytes(array: NDArray) -> memoryview:
    """What the wire carries of `array`: row order, little-endian; without a copy if it is so."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data


def read_tensors(
    declared: object, binary: memoryview, *, field: str
) -> Iterator[tuple[str, NDArray]]:
    """Yield the name and array of each declared tensor; binary ones are views of `binary`.

    Raises BadRequest where a declaration is malformed or differs from the data.
    """
    if not isinstance(declared, list):
        raise BadRequest(
            f"{field} is {'missing' if declared is None else shown(declared)}, expected a list of"
            " tensors",
            hint='Give [{"name": ..., "datatype": ..., "shape": ..., "data": ...}]',
            field=field,
        )
    start = 0
    for tensor in declared:
        name, dtype, shape = _declaration(tensor)
        size = _binary_size(name, tensor)
        if size is None:
            yield name, _from_numbers(name, tensor.get("data"), dtype, shape)
        else:
            yield name, _from_bytes(name, binary[start : start + size], size, dtype, shape)
            start += size
    if start != len(binary):
        raise BadRequest(
            f"{len(binary)} bytes follow the JSON, the tensors declare {start}",
            hint="Make the values of `binary_data_size` add up to the bytes that follow the JSON",
            field="binary_data_size",
        )


def _declaration(tensor: object) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise BadRequest(
            f"a tensor is {shown(tensor)} without a name, expected an object with one",
            hint='Give {"name": ..., "datatype": ..., "shape": ..., "data": ...}',
            field="inputs",
        )
    name = tensor["name"]
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise BadRequest(
            f"{shown(name)} has datatype {shown(datatype)}, expected one of {', '.join(DATATYPES)}",
            hint="Send images as UINT8 (0-255) or FP32 (0-1)",
            field=name[:60],
        )
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= _MAX_RANK
        or not all(type(side) is int and 0 <= side <= _MAX_SIDE for side in shape)
    ):
        raise BadRequest(
            f"{shown(name)} has no valid shape, expected a list of 1 to {_MAX_RANK} whole"
            f" numbers of 0 to {_MAX_SIDE}",
            hint='For 16 grey images of 28x28 give "shape": [16, 28, 28]',
            field=name[:60],
        )
    return name, DATATYPES[datatype], tuple(shape)


def _binary_size(name: str, tensor: dict[str, Any]) -> int | None:
    """Bytes that follow the JSON for this tensor; None if its numbers are in the JSON."""
    parameters = tensor.get("parameters")
    if parameters is None:
        return None
    if not isinstance(parameters, dict):
        problem = f"parameters that are {shown(parameters)}, expected an object"
    elif (
        size := supported(parameters, shown(name), field=name[:60]).get("binary_data_size")
    ) is None:
        return None
    elif type(size) is not int or size < 0:
        problem = f"a binary_data_size of {shown(size)}, expected a whole number of bytes"
    elif tensor.get("data") is not None:
        problem = f"both data and a binary_data_size ({shown(size)}), expected one of them"
    else:
        return size
    raise BadRequest(
        f"{shown(name)} has {problem}",
        hint='Give either "data" or "parameters": {"binary_data_size": <bytes>}',
        field=name[:60],
    )


def _from_bytes(
    name: str, found: memoryview, size: int, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> NDArray:
    expected = math.prod(shape) * dtype.itemsize
    if size != expected:
        raise BadRequest(
            f"{shown(name)} declares binary_data_size {shown(size)}, shape {list(shape)} of"
            f" {_NAMES[dtype]} takes {shown(expected)} bytes",
            hint="Make shape, datatype and binary_data_size agree",
            field=name[:60],
        )
    if len(found) != size:
        raise BadRequest(
            f"{shown(name)} declares {size} bytes and {len(found)} came",
            hint="Send the whole body, and the length of its JSON part as the header"
            " Inference-Header-Content-Length",
            field=name[:60],
        )
    return _shaped(name, np.frombuffer(found, dtype), shape)


def _from_numbers(name: str, data: object, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray:
    expected = math.prod(shape)
    numbers = _flat(data, shape)
    allowed = {int, float} if dtype.kind == "f" else {int}
    # The set of types is taken before numpy sees the list: a long text among numbers would make
    # it allocate that length for every number.
    if numbers is None or len(numbers) != expected or not set(map(type, numbers)) <= allowed:
        raise BadRequest(
            f"the data of {shown(name)} are not {shown(expected)} {_NAMES[dtype]} numbers, flat"
            f" or nested like shape {list(shape)}",
            hint="Make shape, datatype and data agree; numbers only, whole ones for UINT8 and"
            " INT64",
            field=name[:60],
        )
    try:
        return _shaped(name, _array(numbers, dtype), shape)
    except (OverflowError, ValueError) as error:
        raise BadRequest(
            f"the data of {shown(name)} hold a number that is out of range for {_NAMES[dtype]}",
            hint=f"{_NAMES[dtype]} is {_range(dtype)}",
            field=name[:60],
        ) from error


def _array(numbers: list[Any], dtype: np.dtype[Any]) -> NDArray:
    """Raises OverflowError or ValueError for a whole number that is out of range."""
    if dtype == np.uint8:
        return np.frombuffer(bytes(numbers), dtype)  # in a third of the time that numpy takes
    with np.errstate(over="ignore"):  # infinite then, which no image may be
        return np.array(numbers, dtype)


def _range(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "f":
        return f"{np.finfo(dtype).min:g} to {np.finfo(dtype).max:g}"
    return f"{np.iinfo(dtype).min} to {np.iinfo(dtype).max}"


def _flat(data: object, shape: tuple[int, ...]) -> list[Any] | None:
    """The numbers of flat or nested `data` in row order; None if it is nested otherwise."""
    if not isinstance(data, list):
        return None
    if not data or not isinstance(data[0], list):
        return data
    if shape[:1] != (len(data),):
        return None
    rows: list[Any] = data
    for side in shape[1:]:
        if set(map(type, rows)) != {list} or set(map(len, rows)) != {side}:
            return None
        rows = list(chain.from_iterable(rows))
    return rows


def _shaped(name: str, array: NDArray, shape: tuple[int, ...]) -> NDArray:
    try:
        return array.reshape(shape)
    except ValueError as error:  # an empty array whose other sides exceed numpy's range
        raise BadRequest(
            f"{shown(name)} has shape {list(shape)}, which is out of range", field=name[:60]
        ) from error
