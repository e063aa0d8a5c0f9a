"""Where bytes lie: files and objects by address, whose a folder is, strict JSON."""
