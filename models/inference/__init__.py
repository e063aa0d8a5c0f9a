"""From a mixture to its sources: overlap-add, bags, exported graphs."""

# Of overlap-add and levels: raise it when the same network and mixture give other sources.
VERSION = 1
