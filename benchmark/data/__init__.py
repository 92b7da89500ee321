"""Data sets: a task card, the table of images behind it, the few-shot split drawn from it."""
