"""From shards to the segments that training asks for."""
