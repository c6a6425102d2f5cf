"""Benchmarks of the native loop, of the HTTP service and of its peers, run from a shell.

Each command prints a table, shows its progress and can write JSON. The commands know how to start servers, load them
and compare what came out; they hold no code that the service itself needs.
"""
