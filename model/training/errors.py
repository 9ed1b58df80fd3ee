"""What training complains of.

TrainingError
├── DataError     a data file cannot be read, or has more bad records than are allowed
├── RunFileError  a run file names something unknown or impossible
└── TeacherError  the labelling endpoint refuses, or its answers cannot be used
"""


class TrainingError(Exception):
    """Base of all."""


class DataError(TrainingError):
    """Says file, line and what is wrong with it."""


class RunFileError(TrainingError):
    """Says which key of which file, and what may stand there."""


class TeacherError(TrainingError):
    """Says what the endpoint answered, without the key."""


class RefusedError(TeacherError):
    """Because of the key, the model name or the quota, or because nobody listens."""
