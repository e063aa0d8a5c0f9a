"""The separation networks, their blocks and kernels, and the catalog that builds them by name."""
