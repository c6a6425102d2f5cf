"""Malformed HTTP from raw sockets: `python -m bench.fuzz_raw` in small."""

import os

import pytest
from server_process import ServerProcess

from bench.fuzz_raw import Held, _no_more, fuzz

#: `FUZZ_REQUESTS=20000` makes it a long run.
REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "500"))


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("books")
def test_malformed_http_leaves_the_server_as_it_was(server: ServerProcess) -> None:
    outcome = fuzz(server.port, REQUESTS, seed=1)
    print(f"\n{outcome.statuses}")
    assert outcome.wrong == []
    assert outcome.sent == REQUESTS
    assert outcome.statuses["400"] > REQUESTS / 5  # the messages reach what they are to test


def test_a_worker_that_was_replaced_does_not_pass() -> None:
    before = Held(worker=1, descriptors=20, threads=30)
    assert _no_more(before, before)
    assert not _no_more(before._replace(threads=31), before)
    assert not _no_more(before._replace(worker=2, threads=10), before)
