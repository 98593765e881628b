"""The errors of the rule of choice, raised without loading Keras beforehand."""


def input_error(message: str) -> ValueError:
    """The `InputError` of keras_se, which is loaded, and Keras with it, only when it is needed.

    Args:
        message: One sentence: the rule, then `Received: ...`.

    Returns:
        A `keras_se.errors.InputError`, to be raised.

    Example:
        >>> type(input_error("n must be at least 3. Received: n=2")).__name__
        'InputError'
    """
    from keras_se.errors import InputError

    return InputError(message)
