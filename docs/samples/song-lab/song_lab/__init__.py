"""Plug-ins for stemline, one of each kind."""
