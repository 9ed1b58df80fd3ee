"""The errors of training and labelling. Their messages are for the user.

TrainingError
├── DataError          a data file cannot be read, or has more bad records than the limit allows
├── RunFileError       a run file or recipe holds an unknown key or an impossible value
└── TeacherError       the labelling endpoint gave no usable answer
    └── RefusedError   the endpoint is unreachable or would refuse every request; ends the run
"""


class TrainingError(Exception):
    """The base class of all errors of training and labelling."""


class DataError(TrainingError):
    """A data file is unusable. The message names the file, the line and the fault."""


class RunFileError(TrainingError):
    """A run file or recipe is unusable. The message names the key and the allowed values."""


class TeacherError(TrainingError):
    """The endpoint gave no usable answer. The message quotes the answer, but never the API key."""


class RefusedError(TeacherError):
    """The endpoint is unreachable, or rejects the API key, the model name or the quota."""
