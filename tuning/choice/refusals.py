"""Errors for modules that do not load Keras."""


def input_error(message: str) -> ValueError:
    """Returns an `InputError` of keras_se."""
    # Imported late, since keras_se loads Keras.
    from keras_se.errors import InputError

    return InputError(message)
