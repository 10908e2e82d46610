"""The parts of tools/compare_peers.py: one module a subcommand, and what they share."""
