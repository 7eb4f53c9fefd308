"""What runs on the workers.

`run.run_batch` is the entry point. Imports nothing of `driver/`: the backend that
nested calls use arrives as bytes, inside the call's context.
"""
