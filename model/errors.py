"""What can go wrong in the library, and which step says so.

RerankerError
├── ConfigurationError     RerankerConfig, device, attention: a choice that this machine or model cannot serve
├── CheckpointError        checkpoint, weights: not found, not this architecture, tensors that do not fit
├── ScoreError             Reranker.rank: the network gave NaN or infinity
├── DeviceError            Reranker.score
│   ├── DeviceMemoryError  out of memory: a smaller batch may fit
│   └── DeviceLostError    the device's context is gone: only a new process can use it again
└── InputError             Reranker.prepare and windows: what the caller handed in
    ├── QueryError         empty, or not encodable as UTF-8
    ├── PageCountError     no page, or more pages than one window takes
    ├── PageImageError     not an image that becomes an RGB page, or too elongated
    ├── KeepRatioError     outside (0, 1]
    └── WindowError        not 1 <= stride <= window size <= 20
"""


class RerankerError(Exception):
    """Base of everything that this library raises on purpose."""


class ConfigurationError(RerankerError, ValueError):
    """A device, dtype or attention kernel that cannot run here."""


class CheckpointError(RerankerError):
    """A checkpoint that cannot be found, read, or loaded into this architecture."""


class ScoreError(RerankerError):
    """The network's scores are not finite."""


class DeviceError(RerankerError):
    """Base of what a device does wrong."""


class DeviceMemoryError(DeviceError):
    """The batch does not fit into the device's memory."""


class DeviceLostError(DeviceError):
    """A fault after which every further call on this device fails in this process."""


class InputError(RerankerError, ValueError):
    """Base of everything that is wrong with a caller's query, pages or options."""


class QueryError(InputError):
    """A query that cannot be put into the prompt."""


class PageCountError(InputError):
    """Too few or too many pages for one window."""


class PageImageError(InputError):
    """A page that is not an image the model can take."""


class KeepRatioError(InputError):
    """A keep ratio outside (0, 1]."""


class WindowError(InputError):
    """A window size and stride that do not fit together."""
