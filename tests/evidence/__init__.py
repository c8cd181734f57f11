"""The pages *Evidence* and *Scaling*: tables and plots from `docs/evidence/*.json`.

    python -m tests.evidence                              (or `make docs`)
    python -m tests.evidence --bench bench-results.json   take over what a benchmark run measured
    python -m tests.evidence --add DIR/soak.json          take over the result of a campaign

Text between `<!-- generated: NAME -->` and `<!-- end -->` is replaced, everything else is written by
people. A test holds the generated parts against the files.
"""
