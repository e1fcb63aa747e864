"""The network: its graph, what it expects and gives, and how it is run on tiles."""
