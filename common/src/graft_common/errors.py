"""The one exception that means: the user can mend this."""


class InputError(ValueError):
    """Bad input or flags. The message is one line: the offending path, flag or value as typed, what was wrong, what to do.

    Commands turn it into exit code 2 (`graft_common.console`); library callers see an ordinary `ValueError`.
    """
