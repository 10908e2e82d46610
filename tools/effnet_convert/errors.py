"""The one exception that the converter shows to its user."""

# Exit statuses, as in sysexits.h.
EX_USAGE = 64  # the command line is wrong
EX_DATA = 65  # a source or a labels file is broken, or not what was asked for
EX_NOINPUT = 66  # a file does not exist or cannot be read
EX_UNAVAILABLE = 69  # a Python package that an option needs is missing
EX_NOMEM = 71  # memory is exhausted
EX_OUTPUT = 74  # an output, or standard output, cannot be written


def printable(text):
    """Names come from files: a newline or an escape sequence in one must not reach the terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def shown(value):
    """A value from a file as a message has it: short, and a whole number of any length too."""
    if type(value) is int and value.bit_length() > 64:
        return f"a whole number of {value.bit_length()} bits"
    return repr(value)[:80]


class ConvertError(Exception):
    """One line that names the file or tensor and the reason, and the exit status that goes with it."""

    def __init__(self, message, status=EX_DATA):
        message = printable(str(message))
        if len(message) > 600:  # a long path comes first, the reason last
            message = message[:200] + "..." + message[-397:]
        super().__init__(message)
        self.status = status
