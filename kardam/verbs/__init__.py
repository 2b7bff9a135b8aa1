"""The verbs of the command line, a file each: what was asked, done by others, and printed."""
