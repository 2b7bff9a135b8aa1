"""The specification: a test's name is a sentence, and a reader of names alone learns the system."""
