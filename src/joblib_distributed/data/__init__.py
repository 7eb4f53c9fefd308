"""What crosses the network: tasks on their way out, outcomes on their way back.

Used by `driver/` and by `worker/`; imports neither.
"""
