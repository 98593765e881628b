"""Slots: processes in which trials run, so that a crash, a kill or a timeout ends one trial alone.

Nothing here loads Keras in the process that calls, which may be a worker of Dask.
"""
