"""Questions, each a script that prints a small table; none is imported by the product."""
