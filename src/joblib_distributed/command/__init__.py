"""The command ``joblib-distributed``.

Layout; each imports only what is below it::

    main.py      the command line: what is asked for, and who does it
    script.py    runs a Python program as ``python`` would
    specs.py     clusters that a file describes
    check.py     a table of a cluster's processes; pure
    report.py    what is said when a program has ended; pure
"""
