"""The entries of the current root, importable as ``benchmark.entries.methods.<name>``.

``__path__`` is the root folder, so relative imports between entries, pickling to spawned
workers and type checkers work as in any package. Importing an entry runs its code.
"""

from benchmark.home import find_root

__path__ = [str(find_root())]
