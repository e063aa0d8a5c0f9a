"""From a mixture to its sources: overlap-add, bags, exported graphs."""
