"""Official metrics of the benchmarks that the paper reports, one module each (`vega3d-benchmark`).

Records in, numbers out: a module turns annotations and predictions into a `Score`, whose measures
are functions of summed statistics, so that intervals and paired tests need no second pass. Knows no
store and no model. Open `sqa3d.py` first (the shortest), then `measures.py`; `catalogue.py` lists
all benchmarks. Where an official script is odd, its ways are the default protocol under its name.
"""
