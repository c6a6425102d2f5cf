"""Answers of a given form: JSON, JSON of a schema, and calls of tools.

`plan` says, for one request, which grammar the answer follows and how its text becomes a message. The grammar is kept
by the engine, token for token, so what comes out always parses and validates, unless the token limit cuts it. Knows
OpenAI's fields and the ways in which models write calls; knows nothing of sockets or batches.
"""
