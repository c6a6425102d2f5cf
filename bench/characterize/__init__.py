"""Characterise one model on one machine: sweeps, figures and a self-contained HTML report.

`python -m bench.characterize`. Start reading at `bench.characterize.__main__`; `document` says what is kept, `sweep`
what is measured, `figures` what is made of it, `page` how it is shown.
"""

from importlib.util import find_spec

from bench.report import fail

if find_spec("matplotlib") is None:
    fail("the report is drawn with matplotlib, which is missing: .venv/bin/pip install matplotlib")
