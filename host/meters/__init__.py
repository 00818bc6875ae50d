"""Energy meters: one base class (`meter.py`), and one file for each real thing.

`energy.py` integrates and is bound to nothing; `sampled.py` is what all instruments share that
deliver samples of current (`replay.py`), `streaming.py` what those share that send them as they
are taken (`ppk2.py`, `joulescope.py`); `board.py` reads the meter on
the board itself; `modelled.py` has what the cost model says.
"""
