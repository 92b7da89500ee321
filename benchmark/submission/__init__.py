"""Submissions: results packed for a pull request, and checked before they count."""
