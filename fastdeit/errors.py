"""The exceptions that the program prints as one line, without a traceback."""


class UserError(Exception):
    """Input that cannot be used, as one line: what, the value found, the rule, the way out.

    The program exits with 2. It is not a ValueError, because the command-line parser wraps every
    ValueError raised by a configuration in words of its own.
    """


class RunError(Exception):
    """A run that could not be finished, as one line; the program exits with 1."""


class Stopped(Exception):
    """A run that was asked to stop and has saved where it was; it can go on."""

    def __init__(self, signal_number: int, message: str) -> None:
        """Say which signal asked, and what was saved."""
        super().__init__(message)
        self.signal_number = signal_number


def require(ok: bool, what: str, found: object, rule: str, way_out: str) -> None:
    """Raise a UserError in the house's words unless `ok`."""
    if not ok:
        raise UserError(f"{what} {rule}. Found: {found}. {way_out}")
