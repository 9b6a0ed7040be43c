"""The one error a user is meant to read."""


class FlexEditError(Exception):
    """Something the user can mend: the message says what is wrong and what to do."""
