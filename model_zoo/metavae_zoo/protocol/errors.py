"""What a request can be answered with in place of a result.

MetavaeError
└── Refused         with an HTTP status, and perhaps a time to come back
    ├── BadRequest      the request cannot be read, or asks for too much
    ├── Overloaded      the batch that the request came in took too long to read
    └── Failed          the server has a fault
"""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar

from metavae_zoo.errors import MetavaeError


class Refused(MetavaeError):
    """A request that is not answered with a result.

    `status` is the HTTP status, `retry_after` the seconds after which it may be sent again; None
    where that would not help.
    """

    status: int = HTTPStatus.BAD_REQUEST
    retry_after: ClassVar[int | None] = None


class BadRequest(Refused):
    """A request that cannot be read, or asks for more than is given."""

    code = "bad_request"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        field: str = "",
        status: int = HTTPStatus.BAD_REQUEST,
    ) -> None:
        super().__init__(message, hint=hint, field=field)
        self.status = status


class Overloaded(Refused):
    """A request that was not read, because those before it in its batch took too long."""

    code = "overloaded"
    status = HTTPStatus.SERVICE_UNAVAILABLE
    retry_after = 1

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the requests before this one took {seconds:.0f} seconds to be read, and it was not",
            hint=f"Send it again in {self.retry_after} second; send images as binary tensors",
        )


class Failed(Refused):
    """A request that the server failed on, for an error of the type `name`."""

    code = "failed"
    status = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the server failed on this request ({name})",
            hint="The server's model_log.log says where; please report it",
        )
