"""What several test files use, by subject. Nothing here asserts what a test states."""
