"""TFLite files: made from Keras models, their gates found and read. Needs `keras-se[litert]`."""
