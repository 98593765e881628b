"""The error of wrong arguments, for modules that work without Keras."""


def input_error(message: str) -> ValueError:
    """Returns an `InputError` of keras_se."""
    # Imported late: keras_se loads Keras.
    from keras_se.errors import InputError

    return InputError(message)
