"""The ways a command ends: each exception carries the exit status of the command-line contract."""


class NunerError(Exception):
    """Base of the errors that end a command with one clear line instead of a traceback."""

    exit_status = 1


class InputError(NunerError):
    """Bad input: the message names what is wrong and where (file, line, key)."""

    exit_status = 2


class DoesNotFitError(NunerError):
    """The compiled program needs more memory than the device has."""

    exit_status = 3


class Preempted(NunerError):
    """Stopped by a signal with everything saved; the same command resumes."""

    exit_status = 75
