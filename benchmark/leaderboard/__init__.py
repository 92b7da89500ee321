"""The code of the site, importable as ``benchmark.leaderboard.<module>``.

It lies with its templates and assets in ``leaderboard/`` beside the package (in the wheel: inside
it), so that one folder holds all that a page is made of.
"""

from benchmark.home import leaderboard_folder

__path__ = [str(leaderboard_folder())]
