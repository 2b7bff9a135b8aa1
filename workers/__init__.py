"""The other side of the wire, and the world's unkindness: tasks, attacks, latency, processes,
simulation.
"""
