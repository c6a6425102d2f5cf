"""Tests of llama_native against the real library."""
