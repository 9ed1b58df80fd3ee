"""The library's exceptions, and the steps that raise them.

RerankerError
├── ConfigurationError     RerankerConfig, device, attention: a setting that this machine or model does not support
├── CheckpointError        checkpoint, weights: not found, not this architecture, tensors that do not fit
├── ScoreError             Reranker.rank, warm_up: the network returned NaN or infinity
├── DeviceError            Reranker.score
│   ├── DeviceMemoryError  out of memory: a smaller batch may fit
│   └── DeviceLostError    the device context failed: only a new process can use the device
└── InputError             Reranker.prepare and windows: invalid input of the caller
    ├── QueryError         empty, or not encodable as UTF-8
    ├── PageCountError     no page, or more pages than fit one window
    ├── PageImageError     an image that cannot be converted to an RGB page, or is too elongated
    ├── KeepRatioError     outside (0, 1]
    └── WindowError        not 1 <= stride <= window size <= 20
"""


class RerankerError(Exception):
    """Base of all exceptions that this library raises deliberately."""


class ConfigurationError(RerankerError, ValueError):
    """A setting, device, dtype or attention kernel that is invalid or not supported on this machine."""


class CheckpointError(RerankerError):
    """A checkpoint that cannot be found or read, or that does not have this architecture."""


class ScoreError(RerankerError):
    """The network's scores are not finite."""


class DeviceError(RerankerError):
    """Base of device failures."""


class DeviceMemoryError(DeviceError):
    """The batch does not fit into the device's memory."""


class DeviceLostError(DeviceError):
    """A device failure after which every later call on this device fails in this process."""


class InputError(RerankerError, ValueError):
    """Base of errors in a caller's query, pages or options."""


class QueryError(InputError):
    """A query that cannot be put into the prompt."""


class PageCountError(InputError):
    """Too few or too many pages for one window."""


class PageImageError(InputError):
    """A page that the model cannot process as an image."""


class KeepRatioError(InputError):
    """A keep ratio outside (0, 1]."""


class WindowError(InputError):
    """A window size or stride out of range, or an unknown strategy."""
