"""The soak: hours at ten times the real network's rate, with faults, watched all the time.

The network that the daemon follows was last reported at about 1,000 events a second, with peaks
above 1,500; the soak sends 10,000. One in a hundred is of a tracked repo, made now by the devnet,
whose truth the store is held against at the end. The others are a crowd of foreign frames between
them. The daemon is the installed command in a process of its own.

    python -m tests.soak --minutes 120 --output DIR
"""
