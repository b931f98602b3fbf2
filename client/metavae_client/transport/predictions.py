"""TorchServe's `Predictions` call over gRPC: its two messages, and its address.

Field names and numbers are those of TorchServe's inference.proto.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

METHOD = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"

_FIELD = descriptor_pb2.FieldDescriptorProto


def _messages() -> tuple[Any, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="metavae/predictions.proto", package="metavae.predictions", syntax="proto3"
    )
    request = file.message_type.add(name="PredictionsRequest")
    request.field.add(name="model_name", number=1, type=_FIELD.TYPE_STRING, label=1)
    request.field.add(name="model_version", number=2, type=_FIELD.TYPE_STRING, label=1)
    request.field.add(
        name="input",
        number=3,
        type=_FIELD.TYPE_MESSAGE,
        label=_FIELD.LABEL_REPEATED,
        type_name=".metavae.predictions.PredictionsRequest.InputEntry",
    )
    entry = request.nested_type.add(name="InputEntry", options={"map_entry": True})
    entry.field.add(name="key", number=1, type=_FIELD.TYPE_STRING, label=1)
    entry.field.add(name="value", number=2, type=_FIELD.TYPE_BYTES, label=1)
    response = file.message_type.add(name="PredictionResponse")
    response.field.add(name="prediction", number=1, type=_FIELD.TYPE_BYTES, label=1)

    pool = descriptor_pool.DescriptorPool()
    found = pool.Add(file) or pool.FindFileByName(file.name)
    return (
        message_factory.GetMessageClass(found.message_types_by_name["PredictionsRequest"]),
        message_factory.GetMessageClass(found.message_types_by_name["PredictionResponse"]),
    )


PredictionsRequest, PredictionResponse = _messages()
