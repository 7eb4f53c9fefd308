"""What several test modules need: processes, waiting, tasks with known effects."""
