"""The one exception that means "what you gave cannot be used"."""


class UserError(Exception):
    """Input that cannot be used, as one line: what, the value found, the rule, the way out.

    The program prints it without a traceback and exits with 2. It is not a ValueError, because the
    command-line parser wraps every ValueError raised by a configuration in words of its own.
    """


def require(ok: bool, what: str, found: object, rule: str, way_out: str) -> None:
    """Raise a UserError in the house's words unless `ok`."""
    if not ok:
        raise UserError(f"{what} {rule}. Found: {found}. {way_out}")
