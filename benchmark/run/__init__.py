"""Many trials: planned, scheduled over worker processes, resumed where they were left."""
