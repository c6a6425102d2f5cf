"""Long runs against our own server, freshly started: far too many clients, and half an hour of everything at once.

`python -m bench.soak load` and `python -m bench.soak soak`. Start reading at `bench.soak.__main__`; `overload` and
`mixed` are the two runs, `asks` and `misuse` what clients send, `samples` what /proc says meanwhile, `accounts` what
the server has counted.
"""
