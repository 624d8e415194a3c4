"""Stores, keys, the log, checkpoint and recovery: what survives the process."""
