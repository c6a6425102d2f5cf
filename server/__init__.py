"""The HTTP room: an OpenAI-compatible WSGI application over the engine, its settings, its metrics.

Knows HTTP, JSON, chat templates and Prometheus. Turns a request into token ids, hands them to `engine`, and turns the
pieces that come back into a response. Knows nothing of batches, KV cells or C.
"""
