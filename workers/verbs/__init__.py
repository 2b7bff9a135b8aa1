"""The verbs that know tasks, workers and lies, a file each."""
