"""kardam: a parameter server for asynchronous SGD with workers that nobody can trust."""

__version__ = "0.1.0"
